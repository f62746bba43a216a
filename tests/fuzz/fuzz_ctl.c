/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a packet on the control socket, through ctl_parse. Properties: a request whose
 * members keep to their limits, or an error of one line that makes a sound answer packet.
 */
#include <string.h>

#include "core/config.h"
#include "core/ctl_proto.h"
#include "tests/fuzz/fuzz.h"

static void must(struct err *e)
{
	BUG_ON(e != NULL);
}

/* An answer is JSON of the form {"ErrString":TEXT} and fits into a packet. */
static void answer_error(const char *text)
{
	char *answer = ctl_answer_error(text);
	size_t len = strlen(answer);
	BUG_ON(len > CTL_PACKET_BYTES_MAX);
	json_t *j = json_loadb(answer, len, JSON_REJECT_DUPLICATES, NULL);
	BUG_ON(j == NULL || json_object_size(j) != 1);
	const char *got = json_string_value(json_object_get(j, "ErrString"));
	BUG_ON(got == NULL || got[0] == 0);
	json_decref(j);
	ctl_answer_free(answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct ctl_request r;
	memset(&r, 0xa5, sizeof(r));
	struct err *e = ctl_parse(data, len, &r);
	if (e != NULL) {
		fuzz_check_text(err_msg(e));
		enum err_class class = err_class(e);
		BUG_ON(class != ERR_USAGE && class != ERR_NOTFOUND && class != ERR_NOT_NOW);
		answer_error(err_msg(e));
		err_drop(e, "hostile input is refused");
		BUG_ON(((const uint8_t *)&r)[0] != 0xa5); /* the output is untouched */
		return 0;
	}
	BUG_ON(r.variant >= CTL__COUNT || memchr(r.tag, 0, sizeof(r.tag)) == NULL);
	BUG_ON(ctl_variant_name(r.variant)[0] == 0);
	bool may_tag = r.variant == CTL_SNAPSHOT ||
		       (r.variant == CTL_TORPOR && r.torpor == CTL_TORPOR_TAKE);
	BUG_ON(r.tag[0] != 0 && !may_tag);
	if (r.tag[0] != 0) {
		must(config_check_tag(r.tag));
	}
	return 0;
}
