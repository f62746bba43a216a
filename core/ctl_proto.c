/* SPDX-License-Identifier: Apache-2.0 */
/* The words of the control protocol. See ctl_proto.h. Called by ctl.c on the main loop's thread. */
#include "core/ctl_proto.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { ERROR_TEXT_MAX = 1000 }; /* as long as an error object's message */

static const char *const variant_names[CTL__COUNT] = {
#define X(id, name) [CTL_##id] = name,
	CTL_VARIANTS(X)
#undef X
};

static const char *const event_names[CTL_EVENT__COUNT] = {
#define X(id, name) [CTL_EVENT_##id] = name,
	CTL_EVENTS(X)
#undef X
};

/* The answer of last resort; never freed. */
static char no_memory[] = "{\"ErrString\":\"out of memory (errno 12 ENOMEM)\"}";

const char *ctl_variant_name(enum ctl_variant v)
{
	BUG_ON(v >= CTL__COUNT);
	return variant_names[v];
}

const char *ctl_event_name(enum ctl_event ev)
{
	BUG_ON(ev >= CTL_EVENT__COUNT);
	return event_names[ev];
}

struct err *ctl_parse(const void *p, size_t len, unsigned nfds, struct ctl_request *ret_req)
{
	ENSURE(len > 0, ERR_USAGE, "empty packet: send one JSON request");
	json_error_t why;
	SCOPE(json_put)
	json_t *root = json_loadb(p, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
	ENSURE(root != NULL, ERR_USAGE, "no JSON: %s at byte %d",
	       json_error_code(&why) == json_error_stack_overflow  ? "nested too deep"
	       : json_error_code(&why) == json_error_duplicate_key ? "repeated key"
								   : "syntax error",
	       why.position);
	struct ctl_request r = { .variant = CTL__COUNT };
	TRY(wire_decode(&ctl_request_type, root, nfds, "the request", &r));
	*ret_req = r;
	return NULL;
}

static bool torpor_is_readonly(enum ctl_torpor_cmd cmd)
{
	switch (cmd) {
	case CTL_TORPOR_STATUS:
	case CTL_TORPOR_TAKE_STATUS:
	case CTL_TORPOR_CHECKPOINT_STATUS:
	case CTL_TORPOR_SUBSCRIBE:
	case CTL_TORPOR_JOBS:
	case CTL_TORPOR_JOB:
	case CTL_TORPOR_JOB_WAIT:
	case CTL_TORPOR_SWAP_STATUS:
		return true;
	case CTL_TORPOR_TAKE:
	case CTL_TORPOR_TAKE_CANCEL:
	case CTL_TORPOR_CHECKPOINT_POLICY:
	case CTL_TORPOR_REWIND:
	case CTL_TORPOR_JOB_CANCEL:
	case CTL_TORPOR_SWAP_ENABLE:
	case CTL_TORPOR_DISK_ADD:
	case CTL_TORPOR_NET_ADD:
	case CTL_TORPOR_DEVICE_REMOVE:
		return false;
	}
	return false;
}

bool ctl_is_readonly(const struct ctl_request *r)
{
	switch (r->variant) {
	case CTL_VCPU_PID_TID:
	case CTL_REGISTER_LISTENER:
	case CTL_UNREGISTER_LISTENER:
	case CTL_UNREGISTER:
		return true;
	case CTL_SWAP:
		return r->swap.cmd == CTL_SWAP_STATUS;
	case CTL_BALLOON:
		return r->balloon.cmd == CTL_BALLOON_STATS || r->balloon.cmd == CTL_BALLOON_WS;
	case CTL_USB:
		return r->usb.cmd == CTL_USB_LIST;
	case CTL_GPU:
		return r->gpu.cmd == CTL_GPU_LIST;
	case CTL_TORPOR:
		return torpor_is_readonly((enum ctl_torpor_cmd)r->torpor.cmd.cmd);
	default:
		return false;
	}
}

/* ---- answers ---- */

char *ctl_answer_json(json_t *answer)
{
	if (answer == NULL) {
		return no_memory;
	}
	char *text = json_dumps(answer, JSON_COMPACT | JSON_ENCODE_ANY);
	json_decref(answer);
	if (text == NULL) {
		return no_memory;
	}
	if (strlen(text) > CTL_PACKET_BYTES_MAX) {
		free(text);
		return ctl_answer_error(EMSGSIZE, "the answer is too long for one packet");
	}
	return text;
}

char *ctl_answer_ok(void)
{
	return ctl_answer_json(json_string("Ok"));
}

char *ctl_answer_error(int sys, const char *text)
{
	char clean[ERROR_TEXT_MAX + 1];
	snprintf(clean, sizeof(clean), "%s", text);
	json_t *probe = json_string(clean);
	if (probe == NULL) {
		/* It quotes bytes that are no UTF-8, or was cut in the middle of a character. */
		for (size_t i = 0; clean[i] != 0; i++) {
			if ((unsigned char)clean[i] >= 0x80) {
				clean[i] = '?';
			}
		}
	}
	json_decref(probe);
	const char *name = strerrorname_np(sys);
	return ctl_answer_json(
		json_pack("{s:o}", "ErrString",
			  json_sprintf("%s (errno %d %s)", clean, sys, name != NULL ? name : "?")));
}

char *ctl_answer_err(const struct err *e)
{
	return ctl_answer_error(err_to_errno(e), err_msg(e));
}

void ctl_answer_free(char *answer)
{
	if (answer != no_memory) {
		free(answer);
	}
}
