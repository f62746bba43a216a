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
static void answer_error(const struct err *e)
{
	char *answer = ctl_answer_err(e);
	size_t len = strlen(answer);
	BUG_ON(len > CTL_PACKET_BYTES_MAX);
	json_t *j = json_loadb(answer, len, JSON_REJECT_DUPLICATES, NULL);
	BUG_ON(j == NULL || json_object_size(j) != 1);
	const char *got = json_string_value(json_object_get(j, "ErrString"));
	BUG_ON(got == NULL || got[0] == 0);
	json_decref(j);
	ctl_answer_free(answer);
}

static void check_text(const char *text, size_t size)
{
	BUG_ON(memchr(text, 0, size) == NULL);
}

static void check_tag(const struct ctl_take *take)
{
	check_text(take->tag, sizeof(take->tag));
	if (take->tag[0] != 0) {
		must(config_check_tag(take->tag));
	}
	BUG_ON(take->encrypt);
}

/* What a handler relies on: indices of descriptors that are there, ended texts, counts in range. */
static void check_request(const struct ctl_request *r, int nfds)
{
	switch (r->variant) {
	case CTL_RTC:
		BUG_ON(r->rtc.clear_evt < 0 || r->rtc.clear_evt >= nfds);
		break;
	case CTL_GPE:
		BUG_ON(r->gpe.clear_evt < -1 || r->gpe.clear_evt >= nfds);
		break;
	case CTL_REGISTER_MEMORY:
		BUG_ON(r->memory.fd < 0 || r->memory.fd >= nfds);
		break;
	case CTL_USB:
		BUG_ON(r->usb.cmd > CTL_USB_LIST);
		BUG_ON(r->usb.cmd <= CTL_USB_ATTACH_KEY &&
		       (r->usb.file < 0 || r->usb.file >= nfds));
		break;
	case CTL_BALLOON:
		BUG_ON(r->balloon.cmd == CTL_BALLOON_WS_CONFIG &&
		       r->balloon.ws_config.bins.n > CTL_WS_BINS_MAX);
		break;
	case CTL_GPU:
		BUG_ON(r->gpu.cmd == CTL_GPU_ADD && r->gpu.displays.n > CTL_DISPLAYS_MAX);
		BUG_ON(r->gpu.cmd == CTL_GPU_REMOVE && r->gpu.display_ids.n > CTL_DISPLAYS_MAX);
		break;
	case CTL_HOTPLUG_VFIO:
		check_text(r->vfio.device.path, sizeof(r->vfio.device.path));
		break;
	case CTL_HOTPLUG_NET:
		if (r->net.cmd == CTL_NET_ADD) {
			check_text(r->net.tap, sizeof(r->net.tap));
		}
		break;
	case CTL_SNAPSHOT:
		check_tag(&r->snapshot.take);
		break;
	case CTL_REGISTER_LISTENER:
	case CTL_UNREGISTER_LISTENER:
	case CTL_UNREGISTER:
		check_text(r->listener.socket_addr, sizeof(r->listener.socket_addr));
		BUG_ON(r->listener.socket_addr[0] != '/');
		BUG_ON(r->variant != CTL_UNREGISTER && r->listener.event >= CTL_EVENT__COUNT);
		break;
	case CTL_TORPOR:
		BUG_ON(r->torpor.v != 1);
		if (r->torpor.cmd.cmd == CTL_TORPOR_TAKE) {
			check_tag(&r->torpor.cmd.take);
		}
		break;
	default:
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct ctl_request r;
	memset(&r, 0xa5, sizeof(r));
	/* As many descriptors as the first byte says: indices into them are in the text. */
	unsigned nfds = len > 0 ? data[0] % (CTL_FDS_MAX + 1) : 0;
	struct err *e = ctl_parse(data, len, nfds, &r);
	if (e != NULL) {
		fuzz_check_text(err_msg(e));
		enum err_class class = err_class(e);
		BUG_ON(class != ERR_USAGE && class != ERR_NOTFOUND && class != ERR_NOT_NOW &&
		       class != ERR_INCOMPAT);
		answer_error(e);
		err_drop(e, "hostile input is refused");
		BUG_ON(((const uint8_t *)&r)[0] != 0xa5); /* the output is untouched */
		return 0;
	}
	BUG_ON(r.variant >= CTL__COUNT || ctl_variant_name(r.variant)[0] == 0);
	(void)ctl_is_readonly(&r);
	check_request(&r, (int)nfds);
	return 0;
}
