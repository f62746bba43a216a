/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of core/ctl_types.c and core/ctl_wire.c: the examples of docs/control.md go through
 * the tables byte by byte and leave no variant out; docs/control.schema.json is what the tables
 * say; what breaks a table is refused and named.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/ctl_proto.h"

enum { LINE_MAX_BYTES = 8192, SEEN_MAX = 512 };

/* Members of enums that an example used. */
static const struct wire_member *seen[SEEN_MAX];
static size_t nseen;

static void see(const struct wire_member *m)
{
	for (size_t i = 0; i < nseen; i++) {
		if (seen[i] == m) {
			return;
		}
	}
	assert_true(nseen < SEEN_MAX);
	seen[nseen++] = m;
}

static bool was_seen(const struct wire_member *m)
{
	for (size_t i = 0; i < nseen; i++) {
		if (seen[i] == m) {
			return true;
		}
	}
	return false;
}

/* Walks a value that has been decoded and notes each enum's member. */
static void note(const struct wire_type *t, json_t *j)
{
	const char *key;
	json_t *v;
	size_t i;
	switch (t->kind) {
	case WIRE_ENUM:
		key = json_is_string(j) ? json_string_value(j)
					: json_object_iter_key(json_object_iter(j));
		for (i = 0; i < t->nmembers; i++) {
			if (strcmp(t->members[i].name, key) == 0) {
				see(&t->members[i]);
				if (t->members[i].type != NULL && json_is_object(j)) {
					note(t->members[i].type, json_object_get(j, key));
				}
			}
		}
		break;
	case WIRE_STRUCT:
		for (i = 0; i < t->nmembers; i++) {
			v = json_object_get(j, t->members[i].name);
			if (v != NULL && !json_is_null(v)) {
				note(t->members[i].type, v);
			}
		}
		break;
	case WIRE_TUPLE:
		for (i = 0; i < t->nmembers; i++) {
			note(t->members[i].type, json_array_get(j, i));
		}
		break;
	case WIRE_LIST:
	case WIRE_ARRAY:
		json_array_foreach(j, i, v)
		{
			note(t->of, v);
		}
		break;
	case WIRE_MAP:
		json_object_foreach(j, key, v)
		{
			note(t->of, v);
		}
		break;
	default:
		break;
	}
}

/* Every member of the enum at the top of a type, and one level below, was in an example. */
static unsigned missing(const struct wire_type *t, const char *where, unsigned depth)
{
	unsigned n = 0;
	for (size_t i = 0; i < t->nmembers; i++) {
		const struct wire_member *m = &t->members[i];
		char path[200];
		snprintf(path, sizeof(path), "%s.%s", where, m->name != NULL ? m->name : "");
		if (t->kind == WIRE_ENUM && !was_seen(m)) {
			print_message("no example of %s in docs/control.md\n", path);
			n++;
		}
		if (m->type != NULL && depth > 0) {
			n += missing(m->type, path, depth - 1);
		}
	}
	return n;
}

static void check_example(const struct wire_type *t, const char *text)
{
	json_t *j = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
	if (j == NULL) {
		print_message("no JSON: %s\n", text);
	}
	assert_non_null(j);
	char *again = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
	assert_string_equal(again, text);
	free(again);
	struct err *e = wire_decode(t, j, 1, "the example", NULL);
	if (e != NULL) {
		print_message("%s: %s\n", text, err_msg(e));
	}
	assert_null(e);
	note(t, j);
	json_decref(j);
}

static void test_examples(void **state)
{
	(void)state;
	FILE *f = fopen(TORPOR_SOURCE_DIR "/docs/control.md", "r");
	assert_non_null(f);
	char line[LINE_MAX_BYTES];
	unsigned n = 0;
	while (fgets(line, sizeof(line), f) != NULL) {
		line[strcspn(line, "\n")] = 0;
		if (strncmp(line, "    > ", 6) == 0) {
			struct ctl_request r;
			struct err *e = ctl_parse(line + 6, strlen(line + 6), 1, &r);
			if (e != NULL) {
				print_message("%s: %s\n", line + 6, err_msg(e));
			}
			assert_null(e);
			check_example(&ctl_request_type, line + 6);
		} else if (strncmp(line, "    < ", 6) == 0) {
			check_example(&ctl_answer_type, line + 6);
		} else if (strncmp(line, "    ! ", 6) == 0) {
			check_example(&ctl_event_type, line + 6);
		} else {
			continue;
		}
		n++;
	}
	fclose(f);
	assert_true(n > 100);
	assert_int_equal(missing(&ctl_request_type, "Request", 4), 0);
	assert_int_equal(missing(&ctl_answer_type, "Answer", 1), 0);
	assert_int_equal(missing(&ctl_event_type, "Event", 0), 0);
}

/* With TORPOR_WRITE_SCHEMA set the file is written anew. */
static void test_schema(void **state)
{
	(void)state;
	static const char path[] = TORPOR_SOURCE_DIR "/docs/control.schema.json";
	json_t *j = ctl_schema();
	assert_non_null(j);
	if (getenv("TORPOR_WRITE_SCHEMA") != NULL) {
		assert_int_equal(json_dump_file(j, path, JSON_INDENT(1) | JSON_SORT_KEYS), 0);
	}
	json_t *have = json_load_file(path, 0, NULL);
	if (have == NULL || !json_equal(j, have)) {
		print_message(
			"docs/control.schema.json is not what core/ctl_types.c says: run this "
			"test with TORPOR_WRITE_SCHEMA=1\n");
	}
	assert_true(have != NULL && json_equal(j, have));
	json_decref(have);
	json_decref(j);
}

static struct ctl_request good(const char *text, unsigned nfds)
{
	struct ctl_request r;
	struct err *e = ctl_parse(text, strlen(text), nfds, &r);
	if (e != NULL) {
		print_message("%s: %s\n", text, err_msg(e));
	}
	assert_null(e);
	return r;
}

static void bad(const char *text, unsigned nfds, const char *want)
{
	struct ctl_request r;
	struct err *e = ctl_parse(text, strlen(text), nfds, &r);
	assert_non_null(e);
	if (strstr(err_msg(e), want) == NULL) {
		print_message("%s: '%s' has no '%s'\n", text, err_msg(e), want);
	}
	assert_non_null(strstr(err_msg(e), want));
	err_free(e);
}

/* Values arrive where the handlers look for them. */
static void test_values(void **state)
{
	(void)state;
	struct ctl_request r = good("{\"Gpe\":{\"gpe\":5}}", 0);
	assert_int_equal(r.gpe.gpe, 5);
	assert_int_equal(r.gpe.clear_evt, -1);
	r = good("{\"Gpe\":{\"gpe\":7,\"clear_evt\":1}}", 2);
	assert_int_equal(r.gpe.clear_evt, 1);
	r = good("{\"Throttle\":[3,4294967295]}", 0);
	assert_int_equal(r.throttle.vcpu, 3);
	assert_int_equal(r.throttle.us, UINT32_MAX);
	r = good("{\"Swap\":{\"Disable\":{\"slow_file_cleanup\":true}}}", 0);
	assert_int_equal(r.swap.cmd, CTL_SWAP_DISABLE);
	assert_true(r.swap.disable.slow_file_cleanup);
	r = good("{\"DiskCommand\":{\"disk_index\":2,\"command\":{\"Resize\":{\"new_size\":"
		 "9223372036"
		 "854775807}}}}",
		 0);
	assert_int_equal(r.disk.disk_index, 2);
	assert_true(r.disk.command.resize.new_size == INT64_MAX);
	r = good("{\"BatCommand\":[\"goldfish\",{\"SetCapacity\":40}]}", 0);
	assert_int_equal(r.bat.set.cmd, CTL_BAT_CAPACITY);
	assert_int_equal(r.bat.set.value, 40);
	r = good("{\"BatCommand\":[\"goldfish\",{\"SetHealth\":\"Dead\"}]}", 0);
	assert_int_equal(r.bat.set.word, 3);
	r = good("{\"BalloonCommand\":{\"WorkingSetConfig\":{\"bins\":[1,2,3],\"refresh_"
		 "threshold\":4,"
		 "\"report_threshold\":5}}}",
		 0);
	assert_int_equal(r.balloon.ws_config.bins.n, 3);
	assert_int_equal(r.balloon.ws_config.bins.at[2], 3);
	assert_int_equal(r.balloon.ws_config.report_threshold, 5);
	r = good("{\"GpuCommand\":{\"AddDisplays\":{\"displays\":[{},{\"mode\":{\"windowed\":[640,"
		 "480"
		 "]},\"hidden\":true,\"dpi\":[96,97]}]}}}",
		 0);
	assert_int_equal(r.gpu.displays.n, 2);
	assert_int_equal(r.gpu.displays.at[1].mode.windowed.height, 480);
	assert_int_equal(r.gpu.displays.at[1].dpi.y, 97);
	assert_true(r.gpu.displays.at[1].hidden);
	r = good("{\"UsbCommand\":{\"AttachDevice\":{\"file\":0}}}", 1);
	assert_int_equal(r.usb.file, 0);
	r = good(
		"{\"HotPlugVfioCommand\":{\"device\":{\"device_type\":\"EndPoint\",\"path\":\"/x\","
		"\"hp_interrupt\":true},\"add\":true}}",
		0);
	assert_int_equal(r.vfio.device.device_type, 2);
	assert_string_equal(r.vfio.device.path, "/x");
	assert_true(r.vfio.add);
	r = good("{\"HotPlugNetCommand\":{\"RemoveTap\":255}}", 0);
	assert_int_equal(r.net.bus, 255);
	r = good("{\"RegisterListener\":{\"socket_addr\":\"/a\",\"event\":\"GuestPanic\"}}", 0);
	assert_int_equal(r.listener.event, CTL_EVENT_GUEST_PANIC);
	assert_string_equal(r.listener.socket_addr, "/a");
	r = good("{\"RegisterMemory\":{\"fd\":0,\"offset\":4096,\"range_start\":1,\"range_end\":2,"
		 "\"cache_coherent\":true}}",
		 1);
	assert_int_equal(r.memory.offset, 4096);
	assert_int_equal(r.memory.range_end, 2);
	r = good("{\"UnregisterMemory\":{\"region_id\":77}}", 0);
	assert_int_equal(r.region_id, 77);
	r = good("{\"SndCommand\":{\"MuteAll\":true}}", 0);
	assert_true(r.snd.mute);
	r = good("{\"PciPme\":65535}", 0);
	assert_int_equal(r.pme_id, 65535);
}

static void test_broken(void **state)
{
	(void)state;
	bad("{\"Gpe\":5}", 0, "Gpe is no object");
	bad("{\"Gpe\":{}}", 0, "Gpe: 'gpe' is missing");
	bad("{\"Gpe\":{\"gpe\":-1}}", 0, "Gpe.gpe is no number from 0 on");
	bad("{\"Gpe\":{\"gpe\":1.5}}", 0, "Gpe.gpe is no number");
	bad("{\"Gpe\":{\"gpe\":4294967296}}", 0, "more than 4294967295");
	bad("{\"Gpe\":{\"gpe\":1,\"clear_evt\":0}}", 0, "descriptor 0 was not sent");
	bad("{\"Gpe\":{\"gpe\":1,\"clear_evt\":-1}}", 1, "descriptor -1 was not sent");
	bad("{\"Gpe\":{\"gpe\":1,\"clear_evt\":\"0\"}}", 1, "no index");
	bad("{\"Gpe\":{\"gpe\":1,\"x\":0}}", 0, "Gpe: unknown field 'x'");
	bad("{\"Rtc\":{\"clear_evt\":null}}", 1, "Rtc.clear_evt is no index");
	bad("{\"PciPme\":65536}", 0, "PciPme: 65536 is more than 65535");
	bad("{\"Throttle\":[1]}", 0, "Throttle is no list of 2");
	bad("{\"Throttle\":[1,2,3]}", 0, "Throttle is no list of 2");
	bad("{\"Throttle\":[1,\"2\"]}", 0, "Throttle[1] is no number");
	bad("{\"Swap\":\"Disable\"}", 0, "Swap.Disable: its content is missing");
	bad("{\"Swap\":\"Fly\"}", 0, "Swap: unknown 'Fly'");
	bad("{\"Swap\":{\"Enable\":1}}", 0, "Swap.Enable takes nothing");
	bad("{\"BatCommand\":[\"silverfish\",\"CancelFakeConfig\"]}", 0, "unknown 'silverfish'");
	bad("{\"BatCommand\":[\"goldfish\",{\"SetStatus\":\"Empty\"}]}", 0, "unknown 'Empty'");
	bad("{\"HotPlugNetCommand\":{\"AddTap\":\"sixteen-bytes-xx\"}}", 0, "at most 15 bytes");
	bad("{\"HotPlugNetCommand\":{\"RemoveTap\":256}}", 0, "more than 255");
	bad("{\"UsbCommand\":{\"ListDevice\":{\"ports\":[1]}}}", 0, "has 1 members, not 16");
	bad("{\"BalloonCommand\":{\"WorkingSetConfig\":{\"bins\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
	    "1],"
	    "\"refresh_threshold\":4,\"report_threshold\":5}}}",
	    0, "17 members, more than 16");
	bad("{\"SndCommand\":{\"MuteAll\":1}}", 0, "not true or false");
	bad("{\"RegisterListener\":{\"socket_addr\":\"rel\",\"event\":\"GuestPanic\"}}", 0,
	    "absolute path");
	bad("{\"RegisterListener\":{\"socket_addr\":\"/a\",\"event\":\"Rain\"}}", 0,
	    "unknown 'Rain'");
	char text[400];
	char path[160];
	memset(path, 'p', sizeof(path));
	path[0] = '/';
	path[CTL_SOCKET_PATH_MAX + 1] = 0;
	snprintf(text, sizeof(text), "{\"Unregister\":{\"socket_addr\":\"%s\"}}", path);
	bad(text, 0, "at most 107 bytes");
	path[CTL_SOCKET_PATH_MAX] = 0;
	snprintf(text, sizeof(text), "{\"Unregister\":{\"socket_addr\":\"%s\"}}", path);
	assert_string_equal(good(text, 0).listener.socket_addr, path);
}

/* A monitor's socket: status and events. */
static void test_readonly(void **state)
{
	(void)state;
	static const char *const may[] = {
		"\"VcpuPidTid\"",
		"{\"Swap\":\"Status\"}",
		"{\"BalloonCommand\":\"Stats\"}",
		"{\"GpuCommand\":\"ListDisplays\"}",
		"{\"Torpor\":{\"v\":1,\"cmd\":\"Status\"}}",
		"{\"Torpor\":{\"v\":1,\"cmd\":\"Subscribe\"}}",
		"{\"Unregister\":{\"socket_addr\":\"/a\"}}",
	};
	static const char *const may_not[] = {
		"\"Exit\"",
		"\"SuspendVm\"",
		"\"ResumeVcpus\"",
		"\"Powerbtn\"",
		"\"GetVmDescriptor\"",
		"{\"Swap\":\"Enable\"}",
		"{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"\"}}}",
		"{\"Torpor\":{\"v\":1,\"cmd\":\"Take\"}}",
		"{\"Torpor\":{\"v\":1,\"cmd\":\"TakeCancel\"}}",
		"{\"Torpor\":{\"v\":1,\"cmd\":{\"Rewind\":{\"ref\":\"a@1\"}}}}",
		"{\"UnregisterMemory\":{\"region_id\":1}}",
		"{\"Throttle\":[0,1]}",
	};
	for (size_t i = 0; i < ARRAY_LEN(may); i++) {
		struct ctl_request r = good(may[i], 0);
		assert_true(ctl_is_readonly(&r));
	}
	for (size_t i = 0; i < ARRAY_LEN(may_not); i++) {
		struct ctl_request r = good(may_not[i], 0);
		assert_false(ctl_is_readonly(&r));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_examples), cmocka_unit_test(test_schema),
		cmocka_unit_test(test_values),   cmocka_unit_test(test_broken),
		cmocka_unit_test(test_readonly),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
