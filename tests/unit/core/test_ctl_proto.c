/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of core/ctl_proto.c: packets to requests, answers to bytes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/ctl_proto.h"

/* Parses a heap copy of exactly len bytes, so that a read past it shows under ASan. */
static struct err *parse(const void *p, size_t len, struct ctl_request *r)
{
	void *copy = malloc(len > 0 ? len : 1);
	assert_non_null(copy);
	memcpy(copy, p, len);
	struct err *e = ctl_parse(copy, len, 1, r);
	free(copy);
	return e;
}

static struct ctl_request good(const char *text)
{
	struct ctl_request r = { .variant = CTL__COUNT };
	struct err *e = parse(text, strlen(text), &r);
	if (e != NULL) {
		print_message("%s: %s\n", text, err_msg(e));
	}
	assert_null(e);
	return r;
}

/* Refused, with a text that has `word` in it, and that fits into an answer. */
static void bad(const char *text, size_t len, const char *word)
{
	struct ctl_request r = { .variant = CTL__COUNT };
	struct err *e = parse(text, len, &r);
	assert_non_null(e);
	if (strstr(err_msg(e), word) == NULL) {
		print_message("%.60s: '%s' has no '%s'\n", text, err_msg(e), word);
	}
	assert_non_null(strstr(err_msg(e), word));
	assert_int_equal(r.variant, CTL__COUNT);
	char *answer = ctl_answer_err(e);
	err_free(e);
	json_t *j = json_loads(answer, 0, NULL);
	assert_true(json_is_string(json_object_get(j, "ErrString")));
	json_decref(j);
	ctl_answer_free(answer);
}

static void bad_text(const char *text, const char *word)
{
	bad(text, strlen(text), word);
}

static void test_requests(void **state)
{
	(void)state;
	assert_int_equal(good("\"Exit\"").variant, CTL_EXIT);
	assert_int_equal(good("{\"Exit\":null}").variant, CTL_EXIT);
	assert_int_equal(good(" \"SuspendVcpus\"\n").variant, CTL_SUSPEND_VCPUS);
	assert_int_equal(good("\"ResumeVcpus\"").variant, CTL_RESUME_VCPUS);
	assert_int_equal(good("\"SuspendVm\"").variant, CTL_SUSPEND_VM);
	assert_int_equal(good("\"ResumeVm\"").variant, CTL_RESUME_VM);
	assert_int_equal(good("\"VcpuPidTid\"").variant, CTL_VCPU_PID_TID);
	struct ctl_request r = good("{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"before-x\","
				    "\"compress_memory\":false,\"encrypt\":false}}}");
	assert_int_equal(r.variant, CTL_SNAPSHOT);
	assert_string_equal(r.snapshot.take.tag, "before-x");
	r = good("{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"\"}}}");
	assert_string_equal(r.snapshot.take.tag, "");
	r = good("{\"Torpor\":{\"v\":1,\"cmd\":\"Status\"}}");
	assert_int_equal(r.variant, CTL_TORPOR);
	assert_int_equal(r.torpor.cmd.cmd, CTL_TORPOR_STATUS);
	r = good("{\"Torpor\":{\"cmd\":\"TakeStatus\",\"v\":1}}");
	assert_int_equal(r.torpor.cmd.cmd, CTL_TORPOR_TAKE_STATUS);
	r = good("{\"Torpor\":{\"v\":1,\"cmd\":{\"Take\":{\"tag\":\"t1\"}}}}");
	assert_int_equal(r.torpor.cmd.cmd, CTL_TORPOR_TAKE);
	assert_string_equal(r.torpor.cmd.take.tag, "t1");
	assert_int_equal(r.torpor.cmd.take.max_pause_us, 0);
	r = good("{\"Torpor\":{\"v\":1,\"cmd\":{\"Take\":{\"max_pause_us\":500}}}}");
	assert_int_equal(r.torpor.cmd.take.max_pause_us, 500);
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":{\"Take\":{\"max_pause_us\":60000001}}}}",
		 "max_pause_us");
	r = good("{\"Torpor\":{\"v\":1,\"cmd\":\"TakeCancel\"}}");
	assert_int_equal(r.torpor.cmd.cmd, CTL_TORPOR_TAKE_CANCEL);
	r = good("{\"Torpor\":{\"v\":1,\"cmd\":{\"CheckpointPolicy\":{\"every\":\"5m\"}}}}");
	assert_int_equal(r.torpor.cmd.cmd, CTL_TORPOR_CHECKPOINT_POLICY);
	assert_string_equal(r.torpor.cmd.checkpoint.every, "5m");
	assert_string_equal(r.torpor.cmd.checkpoint.keep, "");
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":{\"CheckpointPolicy\":{\"keep\":\"\"}}}}", "keep");
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":\"CheckpointPolicy\"}}", "content is missing");
	r = good("{\"Torpor\":{\"v\":1,\"cmd\":{\"Rewind\":{\"ref\":\"a@b\"}}}}");
	assert_int_equal(r.torpor.cmd.cmd, CTL_TORPOR_REWIND);
	assert_string_equal(r.torpor.cmd.rewind.ref, "a@b");
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":{\"Rewind\":{}}}}", "'ref'");
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":\"Rewind\"}}", "content is missing");
	r = good("{\"Torpor\":{\"v\":1,\"cmd\":\"Take\"}}");
	assert_int_equal(r.torpor.cmd.cmd, CTL_TORPOR_TAKE);
	assert_string_equal(r.torpor.cmd.take.tag, "");
}

static void test_unknown(void **state)
{
	(void)state;
	bad_text("\"Frobnicate\"", "the request: unknown 'Frobnicate'");
	bad_text("{\"Frobnicate\":{}}", "the request: unknown 'Frobnicate'");
	bad_text("\"exit\"", "the request: unknown 'exit'");
	bad_text("\"\"", "the request: unknown ''");
	bad_text("{\"Exit\":{}}", "Exit takes nothing");
	bad_text("{\"SuspendVm\":[]}", "SuspendVm takes nothing");
	bad_text("{\"Exit\":null,\"SuspendVm\":null}", "neither");
	bad_text("{}", "neither");
	bad_text("[]", "neither");
	bad_text("[\"Exit\"]", "neither");
	bad_text("1", "neither");
	bad_text("null", "neither");
	bad_text("true", "neither");
}

static void test_snapshot_fields(void **state)
{
	(void)state;
	bad_text("\"Snapshot\"", "content is missing");
	bad_text("{\"Snapshot\":null}", "content is missing");
	bad_text("{\"Snapshot\":\"Take\"}", "content is missing");
	bad_text("{\"Snapshot\":{\"Apply\":{}}}", "Snapshot: unknown 'Apply'");
	bad_text("{\"Snapshot\":{\"Take\":{}}}", "snapshot_path");
	bad_text("{\"Snapshot\":{\"Take\":{\"snapshot_path\":1}}}", "no text");
	bad_text("{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"/tmp/x\"}}}", "not allowed");
	bad_text("{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"12\"}}}", "all digits");
	bad_text("{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"a\",\"encrypt\":true}}}",
		 "cannot encrypt");
	bad_text("{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"a\",\"encrypt\":1}}}",
		 "not true or false");
	bad_text("{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"a\",\"encrypted\":true}}}",
		 "unknown field 'encrypted'");
	bad_text("{\"Torpor\":{\"v\":2,\"cmd\":\"Status\"}}", "version 2");
	bad_text("{\"Torpor\":{\"v\":\"1\",\"cmd\":\"Status\"}}", "Torpor.v is no number");
	bad_text("{\"Torpor\":{\"cmd\":\"Status\"}}", "'v'");
	bad_text("{\"Torpor\":{\"v\":1}}", "'cmd'");
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":\"Fly\"}}", "unknown 'Fly'");
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":\"Status\",\"x\":1}}", "unknown field 'x'");
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":{\"Take\":{\"tg\":\"a\"}}}}", "unknown field 'tg'");
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":{\"Take\":1}}}", "no object");
	bad_text("{\"Torpor\":{\"v\":1,\"cmd\":{\"Status\":{}}}}", "takes nothing");
	bad_text("\"Torpor\"", "content is missing: send");
	char text[256];
	char tag[NAME_BYTES_MAX + 2];
	memset(tag, 't', sizeof(tag));
	tag[NAME_BYTES_MAX + 1] = 0;
	snprintf(text, sizeof(text), "{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"%s\"}}}", tag);
	bad_text(text, "too long");
	tag[NAME_BYTES_MAX] = 0;
	snprintf(text, sizeof(text), "{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"%s\"}}}", tag);
	assert_string_equal(good(text).snapshot.take.tag, tag);
}

static void test_garbage(void **state)
{
	(void)state;
	bad("", 0, "empty packet");
	bad("\0", 1, "no JSON");
	bad("\"Exit\"\0", 7, "no JSON");
	bad("\"Ex\0it\"", 7, "no JSON");
	bad_text("\"Ex\\u0000it\"", "no JSON");
	bad_text("\"\xff\xfe\"", "no JSON");
	bad_text("\"\xc3\"", "no JSON");
	bad_text("\"\\ud800\"", "no JSON");
	bad_text("Exit", "no JSON");
	bad_text("\"Exit\" \"Exit\"", "no JSON");
	bad_text("{\"Exit\":null,\"Exit\":null}", "repeated key");
	bad_text("{\"Torpor\":{\"v\":1,\"v\":1,\"cmd\":\"Status\"}}", "repeated key");
	bad_text("{\"Torpor\":{\"v\":99999999999999999999,\"cmd\":\"Status\"}}", "no JSON");
	/* Nesting up to the longest packet: an answer, never a full stack. */
	char *deep = malloc(CTL_PACKET_BYTES_MAX);
	assert_non_null(deep);
	memset(deep, '[', CTL_PACKET_BYTES_MAX);
	bad(deep, CTL_PACKET_BYTES_MAX, "nested too deep");
	for (size_t i = 0; i + 5 <= CTL_PACKET_BYTES_MAX; i += 5) {
		memcpy(deep + i, "{\"a\":", 5);
	}
	bad(deep, CTL_PACKET_BYTES_MAX - 2, "nested too deep");
	/* A name as long as the packet is quoted in part. */
	memset(deep, 'x', CTL_PACKET_BYTES_MAX);
	deep[0] = '"';
	deep[CTL_PACKET_BYTES_MAX - 1] = '"';
	bad(deep, CTL_PACKET_BYTES_MAX, "the request: unknown 'xxxx");
	/* Quoting cuts between the bytes of a character: the answer is valid all the same. */
	for (size_t i = 2; i < 102; i += 2) {
		memcpy(deep + i, "\xc3\xa4", 2);
	}
	deep[1] = 'x';
	deep[0] = '"';
	deep[102] = '"';
	bad(deep, 103, "the request: unknown '");
	free(deep);
}

/* Each cut of a request and each flipped bit of it ends in a request or an error. */
static void test_truncation_and_flips(void **state)
{
	(void)state;
	static const char text[] =
		"{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"before-x\",\"compress_memory\":false,"
		"\"encrypt\":false}}}";
	for (size_t len = 0; len + 1 < sizeof(text); len++) {
		bad(text, len, len == 0 ? "empty" : "no JSON");
	}
	for (size_t i = 0; i + 1 < sizeof(text); i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			char damaged[sizeof(text)];
			memcpy(damaged, text, sizeof(text));
			damaged[i] = (char)((unsigned char)damaged[i] ^ (1u << bit));
			struct ctl_request r = { .variant = CTL__COUNT };
			struct err *e = parse(damaged, sizeof(text) - 1, &r);
			assert_true(e != NULL || r.variant == CTL_SNAPSHOT);
			err_free(e);
		}
	}
}

static void expect_answer(char *answer, const char *want)
{
	assert_string_equal(answer, want);
	ctl_answer_free(answer);
}

static void test_answers(void **state)
{
	(void)state;
	expect_answer(ctl_answer_ok(), "\"Ok\"");
	expect_answer(ctl_answer_error(EINVAL, "no disk"),
		      "{\"ErrString\":\"no disk (errno 22 EINVAL)\"}");
	expect_answer(ctl_answer_error(EINVAL, "a \"b\"\n"),
		      "{\"ErrString\":\"a \\\"b\\\"\\n (errno 22 EINVAL)\"}");
	expect_answer(ctl_answer_error(EINVAL, "\xff!"),
		      "{\"ErrString\":\"?! (errno 22 EINVAL)\"}");
	expect_answer(ctl_answer_error(EINVAL, ""), "{\"ErrString\":\" (errno 22 EINVAL)\"}");
	expect_answer(ctl_answer_json(NULL), "{\"ErrString\":\"out of memory (errno 12 ENOMEM)\"}");
	char *big = malloc(CTL_PACKET_BYTES_MAX + 1);
	assert_non_null(big);
	memset(big, 'b', CTL_PACKET_BYTES_MAX);
	big[CTL_PACKET_BYTES_MAX] = 0;
	expect_answer(
		ctl_answer_json(json_string(big)),
		"{\"ErrString\":\"the answer is too long for one packet (errno 90 EMSGSIZE)\"}");
	char *cut = ctl_answer_error(EIO, big);
	assert_true(strlen(cut) < 1100);
	ctl_answer_free(cut);
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_snapshot_fields),
		cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_truncation_and_flips),
		cmocka_unit_test(test_answers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
