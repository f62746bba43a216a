/* SPDX-License-Identifier: Apache-2.0 */
/* libtorpor-client: a function per request. See torpor-client.h; the packets are in
 * docs/control.md. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "client/client_internal.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

uint64_t tc_number(const json_t *j, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(j, key));
}

void tc_text(const json_t *j, const char *key, char *ret, size_t len)
{
	const char *s = json_string_value(json_object_get(j, key));
	snprintf(ret, len, "%s", s != NULL ? s : "");
}

int tc_unexpected(struct torpor_client *c)
{
	return tc_fail(c, EPROTO, "the VM gave an unexpected answer");
}

static int do_unit(struct torpor_client *c, const char *name)
{
	return tc_do(c, json_string(name), -1);
}

/* An answer {"key":{...}}: *ret is what stands below, *ret_root its owner. */
static int ask_below(struct torpor_client *c, json_t *request, int fd, const char *key,
		     json_t **ret_root, json_t **ret)
{
	json_t *root = NULL;
	int rc = tc_ask(c, request, fd, &root, NULL);
	if (rc != 0) {
		return rc;
	}
	json_t *below = json_object_get(root, key);
	if (!json_is_object(below)) {
		json_decref(root);
		return tc_unexpected(c);
	}
	*ret_root = root;
	*ret = below;
	return 0;
}

static int ask_torpor_fd(struct torpor_client *c, json_t *cmd, int fd, const char *key,
			 json_t **ret_root, json_t **ret)
{
	json_t *root = NULL;
	json_t *below = NULL;
	int rc = ask_below(c, json_pack("{s:{s:i,s:o}}", "Torpor", "v", 1, "cmd", cmd), fd,
			   "Torpor", &root, &below);
	if (rc != 0) {
		return rc;
	}
	below = json_object_get(below, key);
	if (!json_is_object(below)) {
		json_decref(root);
		return tc_unexpected(c);
	}
	*ret_root = root;
	*ret = below;
	return 0;
}

int tc_ask_torpor(struct torpor_client *c, json_t *cmd, const char *key, json_t **ret_root,
		  json_t **ret)
{
	return ask_torpor_fd(c, cmd, -1, key, ret_root, ret);
}

/* ---- life ---- */

int torpor_exit(struct torpor_client *c)
{
	return do_unit(c, "Exit");
}

int torpor_suspend_vcpus(struct torpor_client *c)
{
	return do_unit(c, "SuspendVcpus");
}

int torpor_resume_vcpus(struct torpor_client *c)
{
	return do_unit(c, "ResumeVcpus");
}

int torpor_suspend_vm(struct torpor_client *c)
{
	return do_unit(c, "SuspendVm");
}

int torpor_resume_vm(struct torpor_client *c)
{
	return do_unit(c, "ResumeVm");
}

int torpor_status(struct torpor_client *c, struct torpor_status *ret)
{
	json_t *root = NULL;
	json_t *s = NULL;
	int rc = tc_ask_torpor(c, json_string("Status"), "Status", &root, &s);
	if (rc != 0) {
		return rc;
	}
	memset(ret, 0, sizeof(*ret));
	tc_text(s, "name", ret->name, sizeof(ret->name));
	tc_text(s, "uuid", ret->uuid, sizeof(ret->uuid));
	tc_text(s, "family", ret->family, sizeof(ret->family));
	tc_text(s, "state", ret->state, sizeof(ret->state));
	tc_text(s, "store", ret->store, sizeof(ret->store));
	tc_text(s, "s2idle", ret->s2idle, sizeof(ret->s2idle));
	ret->taking = json_is_true(json_object_get(s, "taking"));
	ret->resets = tc_number(s, "resets");
	ret->suspended_ns = tc_number(s, "suspended_ns");
	ret->mem_bytes = tc_number(s, "mem_bytes");
	ret->mem_allocated = tc_number(s, "mem_allocated");
	ret->cpus = (unsigned)tc_number(s, "cpus");
	ret->pid = (int)tc_number(s, "pid");
	json_decref(root);
	return 0;
}

/* ---- snapshots ---- */

int torpor_snapshot_take(struct torpor_client *c, const char *tag, struct torpor_take *ret)
{
	json_t *root = NULL;
	json_t *t = NULL;
	int rc = tc_ask_torpor(c, json_pack("{s:{s:s}}", "Take", "tag", tag != NULL ? tag : ""),
			       "Take", &root, &t);
	if (rc != 0) {
		return rc;
	}
	if (ret != NULL) {
		memset(ret, 0, sizeof(*ret));
		tc_text(t, "ref", ret->ref, sizeof(ret->ref));
		ret->number = tc_number(t, "number");
		ret->frozen_at_ns = tc_number(t, "frozen_at_ns");
		ret->pause_us = tc_number(t, "pause_us");
		ret->elapsed_us = tc_number(t, "elapsed_us");
		ret->pages_stored = tc_number(t, "pages_stored");
		ret->bytes_stored = tc_number(t, "bytes_stored");
	}
	json_decref(root);
	return 0;
}

int torpor_take_status(struct torpor_client *c, struct torpor_take_status *ret)
{
	json_t *root = NULL;
	json_t *t = NULL;
	int rc = tc_ask_torpor(c, json_string("TakeStatus"), "TakeStatus", &root, &t);
	if (rc != 0) {
		return rc;
	}
	memset(ret, 0, sizeof(*ret));
	ret->taking = json_is_true(json_object_get(t, "taking"));
	tc_text(t, "step", ret->step, sizeof(ret->step));
	ret->done = tc_number(t, "done");
	ret->total = tc_number(t, "total");
	json_decref(root);
	return 0;
}

static int ask_checkpoint(struct torpor_client *c, json_t *cmd, struct torpor_checkpoint *ret)
{
	json_t *root = NULL;
	json_t *s = NULL;
	int rc = tc_ask_torpor(c, cmd, "Checkpoint", &root, &s);
	if (rc != 0) {
		return rc;
	}
	if (ret != NULL) {
		memset(ret, 0, sizeof(*ret));
		tc_text(s, "every", ret->every, sizeof(ret->every));
		tc_text(s, "keep", ret->keep, sizeof(ret->keep));
		tc_text(s, "error", ret->error, sizeof(ret->error));
		ret->taking = json_is_true(json_object_get(s, "taking"));
		ret->taken = tc_number(s, "taken");
		ret->failed = tc_number(s, "failed");
		ret->last_number = tc_number(s, "last_number");
		ret->last_frozen_at_ns = tc_number(s, "last_frozen_at_ns");
	}
	json_decref(root);
	return 0;
}

int torpor_checkpoint_status(struct torpor_client *c, struct torpor_checkpoint *ret)
{
	return ask_checkpoint(c, json_string("CheckpointStatus"), ret);
}

int torpor_checkpoint_policy(struct torpor_client *c, const char *every, const char *keep,
			     struct torpor_checkpoint *ret)
{
	return ask_checkpoint(
		c, json_pack("{s:{s:s*,s:s*}}", "CheckpointPolicy", "every", every, "keep", keep),
		ret);
}

/* ---- vCPUs ---- */

int torpor_vcpus(struct torpor_client *c, struct torpor_vcpu *ret, unsigned max, unsigned *ret_n)
{
	json_t *root = NULL;
	json_t *body = NULL;
	int rc = ask_below(c, json_string("VcpuPidTid"), -1, "VcpuPidTidResponse", &root, &body);
	if (rc != 0) {
		return rc;
	}
	unsigned n = 0;
	const char *key;
	json_t *ids;
	json_object_foreach(json_object_get(body, "pid_tid_map"), key, ids)
	{
		if (n < max) {
			ret[n] = (struct torpor_vcpu){
				.index = (unsigned)strtoul(key, NULL, 10),
				.pid = (int)json_integer_value(json_array_get(ids, 0)),
				.tid = (int)json_integer_value(json_array_get(ids, 1)),
			};
		}
		n++;
	}
	*ret_n = n;
	json_decref(root);
	return 0;
}

int torpor_make_rt(struct torpor_client *c)
{
	return do_unit(c, "MakeRT");
}

int torpor_throttle(struct torpor_client *c, unsigned vcpu, unsigned us)
{
	return tc_do(c, json_pack("{s:[I,I]}", "Throttle", (json_int_t)vcpu, (json_int_t)us), -1);
}

int torpor_vm_descriptor(struct torpor_client *c, int *ret_fd)
{
	int fd = -1;
	int rc = tc_ask(c, json_string("GetVmDescriptor"), -1, NULL, &fd);
	if (rc == 0 && fd < 0) {
		return tc_unexpected(c);
	}
	if (rc == 0) {
		*ret_fd = fd;
	}
	return rc;
}

/* ---- memory ---- */

int torpor_register_memory(struct torpor_client *c, int memfd, uint64_t offset, uint64_t start,
			   uint64_t end, uint64_t *ret_region_id)
{
	json_t *root = NULL;
	json_t *body = NULL;
	int rc = ask_below(c,
			   json_pack("{s:{s:i,s:I,s:I,s:I,s:b}}", "RegisterMemory", "fd", 0,
				     "offset", (json_int_t)offset, "range_start", (json_int_t)start,
				     "range_end", (json_int_t)end, "cache_coherent", 0),
			   memfd, "RegisterMemory2", &root, &body);
	if (rc != 0) {
		return rc;
	}
	*ret_region_id = tc_number(body, "region_id");
	json_decref(root);
	return 0;
}

int torpor_unregister_memory(struct torpor_client *c, uint64_t region_id)
{
	return tc_do(c,
		     json_pack("{s:{s:I}}", "UnregisterMemory", "region_id", (json_int_t)region_id),
		     -1);
}

/* ---- buttons and platform events ---- */

int torpor_powerbtn(struct torpor_client *c)
{
	return do_unit(c, "Powerbtn");
}

int torpor_sleepbtn(struct torpor_client *c)
{
	return do_unit(c, "Sleepbtn");
}

static json_t *index_or_null(int fd)
{
	return fd >= 0 ? json_integer(0) : json_null();
}

int torpor_gpe(struct torpor_client *c, unsigned gpe, int clear_evt)
{
	return tc_do(c,
		     json_pack("{s:{s:I,s:o}}", "Gpe", "gpe", (json_int_t)gpe, "clear_evt",
			       index_or_null(clear_evt)),
		     clear_evt);
}

int torpor_rtc(struct torpor_client *c, int clear_evt)
{
	return tc_do(c, json_pack("{s:{s:o}}", "Rtc", "clear_evt", index_or_null(clear_evt)),
		     clear_evt);
}

int torpor_pci_pme(struct torpor_client *c, uint16_t requester_id)
{
	return tc_do(c, json_pack("{s:i}", "PciPme", (int)requester_id), -1);
}

/* ---- swap ---- */

static int do_swap(struct torpor_client *c, const char *what)
{
	return tc_do(c, json_pack("{s:s}", "Swap", what), -1);
}

int torpor_swap_enable(struct torpor_client *c)
{
	return do_swap(c, "Enable");
}

int torpor_swap_trim(struct torpor_client *c)
{
	return do_swap(c, "Trim");
}

int torpor_swap_out(struct torpor_client *c)
{
	return do_swap(c, "SwapOut");
}

int torpor_swap_disable(struct torpor_client *c, bool slow_file_cleanup)
{
	return tc_do(c,
		     json_pack("{s:{s:{s:b}}}", "Swap", "Disable", "slow_file_cleanup",
			       (int)slow_file_cleanup),
		     -1);
}

int torpor_swap_status(struct torpor_client *c, struct torpor_swap_status *ret)
{
	json_t *root = NULL;
	json_t *s = NULL;
	int rc = ask_below(c, json_pack("{s:s}", "Swap", "Status"), -1, "SwapStatus", &root, &s);
	if (rc != 0) {
		return rc;
	}
	const json_t *m = json_object_get(s, "metrics");
	const json_t *t = json_object_get(s, "state_transition");
	memset(ret, 0, sizeof(*ret));
	tc_text(s, "state", ret->state, sizeof(ret->state));
	ret->resident_pages = tc_number(m, "resident_pages");
	ret->copied_from_file_pages = tc_number(m, "copied_from_file_pages");
	ret->copied_from_staging_pages = tc_number(m, "copied_from_staging_pages");
	ret->zeroed_pages = tc_number(m, "zeroed_pages");
	ret->redundant_pages = tc_number(m, "redundant_pages");
	ret->staging_pages = tc_number(m, "staging_pages");
	ret->swap_pages = tc_number(m, "swap_pages");
	ret->transition_pages = tc_number(t, "pages");
	ret->transition_ms = tc_number(t, "time_ms");
	json_decref(root);
	return 0;
}

/* ---- balloon ---- */

int torpor_balloon_adjust(struct torpor_client *c, uint64_t bytes, bool wait_for_success)
{
	return tc_do(c,
		     json_pack("{s:{s:{s:I,s:b}}}", "BalloonCommand", "Adjust", "num_bytes",
			       (json_int_t)bytes, "wait_for_success", (int)wait_for_success),
		     -1);
}

static uint64_t told(const json_t *j, const char *key)
{
	const json_t *v = json_object_get(j, key);
	return json_is_integer(v) ? (uint64_t)json_integer_value(v) : UINT64_MAX;
}

int torpor_balloon_stats(struct torpor_client *c, struct torpor_balloon_stats *ret)
{
	json_t *root = NULL;
	json_t *b = NULL;
	int rc = ask_below(c, json_pack("{s:s}", "BalloonCommand", "Stats"), -1, "BalloonStats",
			   &root, &b);
	if (rc != 0) {
		return rc;
	}
	const json_t *s = json_object_get(b, "stats");
	*ret = (struct torpor_balloon_stats){
		.balloon_actual = told(b, "balloon_actual"),
		.swap_in = told(s, "swap_in"),
		.swap_out = told(s, "swap_out"),
		.major_faults = told(s, "major_faults"),
		.minor_faults = told(s, "minor_faults"),
		.free_memory = told(s, "free_memory"),
		.total_memory = told(s, "total_memory"),
		.available_memory = told(s, "available_memory"),
		.disk_caches = told(s, "disk_caches"),
		.hugetlb_allocations = told(s, "hugetlb_allocations"),
		.hugetlb_failures = told(s, "hugetlb_failures"),
		.shared_memory = told(s, "shared_memory"),
		.unevictable_memory = told(s, "unevictable_memory"),
	};
	json_decref(root);
	return 0;
}

int torpor_balloon_ws(struct torpor_client *c, struct torpor_ws_bucket *ret, unsigned max,
		      unsigned *ret_n, uint64_t *ret_balloon_actual)
{
	json_t *root = NULL;
	json_t *b = NULL;
	int rc = ask_below(c, json_pack("{s:s}", "BalloonCommand", "WorkingSet"), -1, "BalloonWS",
			   &root, &b);
	if (rc != 0) {
		return rc;
	}
	size_t i;
	json_t *bucket;
	json_t *list = json_object_get(json_object_get(b, "ws"), "ws");
	json_array_foreach(list, i, bucket)
	{
		const json_t *bytes = json_object_get(bucket, "bytes");
		if (i < max) {
			ret[i] = (struct torpor_ws_bucket){
				.age_ms = tc_number(bucket, "age"),
				.anon_bytes =
					(uint64_t)json_integer_value(json_array_get(bytes, 0)),
				.file_bytes =
					(uint64_t)json_integer_value(json_array_get(bytes, 1)),
			};
		}
	}
	*ret_n = (unsigned)json_array_size(list);
	*ret_balloon_actual = tc_number(b, "balloon_actual");
	json_decref(root);
	return 0;
}

static json_t *numbers(const unsigned *v, unsigned n)
{
	json_t *list = json_array();
	for (unsigned i = 0; i < n; i++) {
		json_array_append_new(list, json_integer(v[i]));
	}
	return list;
}

int torpor_balloon_ws_config(struct torpor_client *c, const unsigned *bins_ms, unsigned nbins,
			     unsigned refresh_ms, unsigned report_ms)
{
	return tc_do(c,
		     json_pack("{s:{s:{s:o,s:I,s:I}}}", "BalloonCommand", "WorkingSetConfig",
			       "bins", numbers(bins_ms, nbins), "refresh_threshold",
			       (json_int_t)refresh_ms, "report_threshold", (json_int_t)report_ms),
		     -1);
}

/* ---- disk, USB, GPU, battery, sound, hot-plug ---- */

int torpor_disk_resize(struct torpor_client *c, unsigned disk_index, uint64_t bytes)
{
	return tc_do(c,
		     json_pack("{s:{s:I,s:{s:{s:I}}}}", "DiskCommand", "disk_index",
			       (json_int_t)disk_index, "command", "Resize", "new_size",
			       (json_int_t)bytes),
		     -1);
}

static int usb_attach(struct torpor_client *c, const char *how, int fd, unsigned *ret_port)
{
	json_t *root = NULL;
	json_t *body = NULL;
	int rc = ask_below(c, json_pack("{s:{s:{s:i}}}", "UsbCommand", how, "file", 0), fd,
			   "UsbResponse", &root, &body);
	if (rc != 0) {
		return rc;
	}
	*ret_port = (unsigned)tc_number(json_object_get(body, "Ok"), "port");
	json_decref(root);
	return 0;
}

int torpor_usb_attach(struct torpor_client *c, int device_fd, unsigned *ret_port)
{
	return usb_attach(c, "AttachDevice", device_fd, ret_port);
}

int torpor_usb_attach_key(struct torpor_client *c, int hidraw_fd, unsigned *ret_port)
{
	return usb_attach(c, "AttachSecurityKey", hidraw_fd, ret_port);
}

int torpor_usb_detach(struct torpor_client *c, unsigned port)
{
	return tc_do(
		c,
		json_pack("{s:{s:{s:I}}}", "UsbCommand", "DetachDevice", "port", (json_int_t)port),
		-1);
}

int torpor_usb_list(struct torpor_client *c, struct torpor_usb_device ret[16], unsigned *ret_n)
{
	static const unsigned ports[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };
	json_t *root = NULL;
	json_t *body = NULL;
	int rc = ask_below(
		c,
		json_pack("{s:{s:{s:o}}}", "UsbCommand", "ListDevice", "ports", numbers(ports, 16)),
		-1, "UsbResponse", &root, &body);
	if (rc != 0) {
		return rc;
	}
	unsigned n = 0;
	size_t i;
	json_t *d;
	json_array_foreach(json_object_get(body, "Devices"), i, d)
	{
		if (tc_number(d, "port") != 0 && n < 16) {
			ret[n++] = (struct torpor_usb_device){
				.port = (unsigned)tc_number(d, "port"),
				.vendor_id = (unsigned)tc_number(d, "vendor_id"),
				.product_id = (unsigned)tc_number(d, "product_id"),
			};
		}
	}
	*ret_n = n;
	json_decref(root);
	return 0;
}

int torpor_gpu_add(struct torpor_client *c, const struct torpor_display *displays, unsigned n)
{
	json_t *list = json_array();
	for (unsigned i = 0; i < n; i++) {
		const struct torpor_display *d = &displays[i];
		json_t *j = json_pack("{s:{s:[I,I]},s:b}", "mode", "windowed", (json_int_t)d->width,
				      (json_int_t)d->height, "hidden", (int)d->hidden);
		if (d->refresh_hz != 0) {
			json_object_set_new(j, "refresh-rate", json_integer(d->refresh_hz));
		}
		if (d->dpi_x != 0 && d->dpi_y != 0) {
			json_object_set_new(
				j, "dpi",
				json_pack("[I,I]", (json_int_t)d->dpi_x, (json_int_t)d->dpi_y));
		}
		json_array_append_new(list, j);
	}
	return tc_do(c, json_pack("{s:{s:{s:o}}}", "GpuCommand", "AddDisplays", "displays", list),
		     -1);
}

int torpor_gpu_list(struct torpor_client *c, char **ret_json)
{
	json_t *root = NULL;
	json_t *body = NULL;
	int rc = ask_below(c, json_pack("{s:s}", "GpuCommand", "ListDisplays"), -1, "GpuResponse",
			   &root, &body);
	if (rc != 0) {
		return rc;
	}
	char *text = json_dumps(json_object_get(json_object_get(body, "DisplayList"), "displays"),
				JSON_COMPACT);
	json_decref(root);
	if (text == NULL) {
		return tc_unexpected(c);
	}
	*ret_json = text;
	return 0;
}

int torpor_gpu_remove(struct torpor_client *c, const unsigned *ids, unsigned n)
{
	return tc_do(c,
		     json_pack("{s:{s:{s:o}}}", "GpuCommand", "RemoveDisplays", "display_ids",
			       numbers(ids, n)),
		     -1);
}

int torpor_gpu_mouse(struct torpor_client *c, unsigned display_id, bool relative)
{
	return tc_do(c,
		     json_pack("{s:{s:{s:I,s:s}}}", "GpuCommand", "SetDisplayMouseMode",
			       "display_id", (json_int_t)display_id, "mouse_mode",
			       relative ? "relative" : "touchscreen"),
		     -1);
}

/* The protocol's spelling of a word that people may write in any case; NULL: none. */
static const char *spell(const char *word, const char *const *words, size_t n)
{
	for (size_t i = 0; word != NULL && i < n; i++) {
		if (strcasecmp(word, words[i]) == 0) {
			return words[i];
		}
	}
	return NULL;
}

static int battery_cmd(struct torpor_client *c, const char *property, const char *target,
		       json_t **ret)
{
	static const char *const statuses[] = { "Unknown", "Charging", "Discharging", "NotCharging",
						"Full" };
	static const char *const healths[] = {
		"Unknown",
		"Good",
		"Overheat",
		"Dead",
		"OverVoltage",
		"UnexpectedFailure",
		"Cold",
		"WatchdogTimerExpire",
		"SafetyTimerExpire",
		"OverCurrent",
	};
	static const struct {
		const char *property, *cmd;
	} numbers_of[] = {
		{ "present", "SetPresent" },
		{ "capacity", "SetCapacity" },
		{ "aconline", "SetACOnline" },
		{ "set_fake_bat_config", "SetFakeBatConfig" },
	};
	if (strcmp(property, "cancel_fake_bat_config") == 0) {
		*ret = json_string("CancelFakeConfig");
		return 0;
	}
	bool status = strcmp(property, "status") == 0;
	if (status || strcmp(property, "health") == 0) {
		const char *word = status ? spell(target, statuses, LEN(statuses))
					  : spell(target, healths, LEN(healths));
		if (word == NULL) {
			return tc_fail(c, EINVAL, "the battery knows no %s '%.40s'", property,
				       target != NULL ? target : "");
		}
		*ret = json_pack("{s:s}", status ? "SetStatus" : "SetHealth", word);
		return 0;
	}
	for (size_t i = 0; i < LEN(numbers_of); i++) {
		if (strcmp(property, numbers_of[i].property) != 0) {
			continue;
		}
		char *end = NULL;
		unsigned long v = target != NULL ? strtoul(target, &end, 10) : 0;
		if (target == NULL || target[0] < '0' || target[0] > '9' || *end != 0 ||
		    v > UINT32_MAX) {
			return tc_fail(c, EINVAL, "%s: '%.40s' is no number", property,
				       target != NULL ? target : "");
		}
		*ret = json_pack("{s:I}", numbers_of[i].cmd, (json_int_t)v);
		return 0;
	}
	return tc_fail(c, EINVAL, "the battery has no property '%.40s'", property);
}

int torpor_battery(struct torpor_client *c, const char *type, const char *property,
		   const char *target)
{
	json_t *cmd = NULL;
	int rc = battery_cmd(c, property, target, &cmd);
	return rc != 0 ? rc : tc_do(c, json_pack("{s:[s,o]}", "BatCommand", type, cmd), -1);
}

int torpor_snd_mute(struct torpor_client *c, bool mute)
{
	return tc_do(c, json_pack("{s:{s:b}}", "SndCommand", "MuteAll", (int)mute), -1);
}

int torpor_vfio(struct torpor_client *c, const char *device_type, const char *path,
		bool hp_interrupt, bool add)
{
	return tc_do(c,
		     json_pack("{s:{s:{s:s,s:s,s:b},s:b}}", "HotPlugVfioCommand", "device",
			       "device_type", device_type, "path", path, "hp_interrupt",
			       (int)hp_interrupt, "add", (int)add),
		     -1);
}

int torpor_net_add(struct torpor_client *c, const char *tap, int tap_fd, unsigned *ret_bus)
{
	json_t *root = NULL;
	json_t *body = NULL;
	int rc = ask_below(c, json_pack("{s:{s:s}}", "HotPlugNetCommand", "AddTap", tap), tap_fd,
			   "PciHotPlugResponse", &root, &body);
	if (rc != 0) {
		return rc;
	}
	*ret_bus = (unsigned)tc_number(body, "bus");
	json_decref(root);
	return 0;
}

int torpor_net_remove(struct torpor_client *c, unsigned bus)
{
	return tc_do(c, json_pack("{s:{s:I}}", "HotPlugNetCommand", "RemoveTap", (json_int_t)bus),
		     -1);
}

/* Takes over body; what is "" or 0 in it was left out. */
static int plug(struct torpor_client *c, const char *what, json_t *body, int fd,
		struct torpor_added *ret)
{
	json_t *root = NULL;
	json_t *a = NULL;
	int rc = ask_torpor_fd(c, json_pack("{s:o}", what, body), fd, "DeviceAdded", &root, &a);
	if (rc != 0) {
		return rc;
	}
	tc_text(a, "id", ret->id, sizeof(ret->id));
	ret->slot = (unsigned)tc_number(a, "slot");
	ret->bus = (unsigned)tc_number(a, "bus");
	json_decref(root);
	return 0;
}

static const char *filled(const char *text)
{
	return text != NULL && text[0] != 0 ? text : NULL;
}

int torpor_disk_plug(struct torpor_client *c, const struct torpor_disk *d, struct torpor_added *ret)
{
	json_t *body =
		json_pack("{s:i,s:s,s:b,s:I,s:s*}", "fd", 0, "path", d->path, "ro",
			  (int)d->read_only, "queues", (json_int_t)d->queues, "id", filled(d->id));
	return plug(c, "DiskAdd", body, d->fd, ret);
}

int torpor_net_plug(struct torpor_client *c, const struct torpor_net *n, struct torpor_added *ret)
{
	json_t *body =
		json_pack("{s:s,s:b,s:I,s:s*,s:s*}", "end", n->end, "header", (int)n->header, "mtu",
			  (json_int_t)n->mtu, "id", filled(n->id), "mac", filled(n->mac));
	if (n->fd >= 0) {
		json_object_set_new(body, "fd", json_integer(0));
	}
	return plug(c, "NetAdd", body, n->fd, ret);
}

int torpor_unplug(struct torpor_client *c, const char *kind, const char *id, bool force,
		  unsigned timeout_ms)
{
	json_t *body = json_pack("{s:s,s:s,s:b,s:I}", "kind", kind, "id", id, "force", (int)force,
				 "timeout_ms", (json_int_t)timeout_ms);
	return tc_do(c,
		     json_pack("{s:{s:i,s:{s:o}}}", "Torpor", "v", 1, "cmd", "DeviceRemove", body),
		     -1);
}

/* ---- listeners ---- */

static int do_listener(struct torpor_client *c, const char *what, const char *path,
		       const char *event)
{
	return tc_do(c, json_pack("{s:{s:s,s:s}}", what, "socket_addr", path, "event", event), -1);
}

int torpor_register_listener(struct torpor_client *c, const char *path, const char *event)
{
	return do_listener(c, "RegisterListener", path, event);
}

int torpor_unregister_listener(struct torpor_client *c, const char *path, const char *event)
{
	return do_listener(c, "UnregisterListener", path, event);
}

int torpor_unregister(struct torpor_client *c, const char *path)
{
	return tc_do(c, json_pack("{s:{s:s}}", "Unregister", "socket_addr", path), -1);
}
