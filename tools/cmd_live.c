/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verbs that send one request to a living VM. One table says how each is called, what its help
 * tells and what it does; all of them speak to the VM through libtorpor-client. Called by main.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/checkpoint.h"
#include "core/config.h"
#include "tools/client.h"
#include "tools/cmd.h"
#include "tools/disks.h"
#include "tools/nets.h"
#include "tools/out.h"

/* Options that verbs of the table may have. */
struct live_opts {
	bool wait;
	bool follow;
	const char *file;
	unsigned count;
	unsigned timeout_s;
	const char *every;
	const char *keep;
	bool off;
	bool force;
};

struct live {
	struct args *a;
	struct client *c;
	struct torpor_client *lib;
	struct live_opts o;
	char **arg; /* what follows NAME */
	int nargs;
};

struct live_row {
	struct verb verb;
	const char *about;
	int min_args; /* besides NAME */
	int max_args;
	const char *options; /* names of rows in option_rows */
	struct err *(*fn)(struct live *l);
};

/* ---- arguments ---- */

static struct err *get_number(const char *what, const char *text, uint64_t max, uint64_t *ret)
{
	char *end = NULL;
	errno = 0;
	unsigned long long v = strtoull(text, &end, 0);
	ENSURE(text[0] >= '0' && text[0] <= '9' && *end == 0 && errno == 0, ERR_USAGE,
	       "%s: '%.40s' is no number", what, text);
	ENSURE(v <= max, ERR_USAGE, "%s: %llu is more than %llu", what, v, (unsigned long long)max);
	*ret = v;
	return NULL;
}

/* "N", "Nus", "Nms" or "Ns" into microseconds. */
static struct err *get_time_us(const char *text, uint64_t *ret)
{
	char *end = NULL;
	errno = 0;
	unsigned long long v = strtoull(text, &end, 10);
	uint64_t unit = strcmp(end, "s") == 0 ? 1000000 : strcmp(end, "ms") == 0 ? 1000 : 1;
	ENSURE(text[0] >= '0' && text[0] <= '9' && errno == 0 &&
		       (unit != 1 || *end == 0 || strcmp(end, "us") == 0) && v <= UINT32_MAX / unit,
	       ERR_USAGE, "TIME: '%.40s' is no time: write 500us, 20ms or 1s", text);
	*ret = v * unit;
	return NULL;
}

/* With --json every verb prints one document; without, those that have something to tell a line. */
static struct err *done(const struct live *l, json_t *doc)
{
	if (!l->a->json) {
		json_decref(doc);
		return NULL;
	}
	json_t *all = json_pack("{s:s}", "name", client_vm(l->c)->name);
	json_object_update(all, doc);
	json_decref(doc);
	return out_json(all);
}

static struct err *simple(const struct live *l, int rc)
{
	TRY(client_result(l->c, rc));
	return done(l, json_object());
}

/* ---- platform ---- */

static struct err *do_powerbtn(struct live *l)
{
	return simple(l, torpor_powerbtn(l->lib));
}

static struct err *do_sleepbtn(struct live *l)
{
	return simple(l, torpor_sleepbtn(l->lib));
}

static struct err *do_gpe(struct live *l)
{
	uint64_t gpe = 0;
	TRY(get_number("GPE", l->arg[0], UINT32_MAX, &gpe));
	return simple(l, torpor_gpe(l->lib, (unsigned)gpe, -1));
}

/* Once, and no level: an event whose end is there before it begins. */
static struct err *do_rtc(struct live *l)
{
	SCOPE(fd_close) struct fd over = { eventfd(1, EFD_CLOEXEC) };
	if (over.n < 0) {
		return ERR_ERRNO("making an event");
	}
	return simple(l, torpor_rtc(l->lib, over.n));
}

/* A requester id: a number, or BUS:DEVICE.FUNCTION in hexadecimal. */
static struct err *do_pme(struct live *l)
{
	unsigned bus;
	unsigned device;
	unsigned function;
	char end;
	uint64_t id = 0;
	if (sscanf(l->arg[0], "%x:%x.%x%c", &bus, &device, &function, &end) == 3) {
		ENSURE(bus <= 0xff && device <= 0x1f && function <= 7, ERR_USAGE,
		       "ID: '%.40s' is no BUS:DEVICE.FUNCTION", l->arg[0]);
		id = bus << 8 | device << 3 | function;
	} else {
		TRY(get_number("ID", l->arg[0], UINT16_MAX, &id));
	}
	return simple(l, torpor_pci_pme(l->lib, (uint16_t)id));
}

/* ---- vCPUs ---- */

static struct err *do_rt(struct live *l)
{
	return simple(l, torpor_make_rt(l->lib));
}

static struct err *do_throttle(struct live *l)
{
	uint64_t vcpu = 0;
	uint64_t us = 0;
	TRY(get_number("VCPU", l->arg[0], UINT32_MAX, &vcpu));
	TRY(get_time_us(l->arg[1], &us));
	return simple(l, torpor_throttle(l->lib, (unsigned)vcpu, (unsigned)us));
}

static struct err *do_vcpus(struct live *l)
{
	struct torpor_vcpu v[VCPUS_MAX];
	unsigned n = 0;
	TRY(client_result(l->c, torpor_vcpus(l->lib, v, VCPUS_MAX, &n)));
	n = MIN(n, VCPUS_MAX);
	json_t *list = json_array();
	SCOPE(table_freep) struct table *t = table_new(3);
	table_cell(t, "VCPU");
	table_cell(t, "PID");
	table_cell(t, "TID");
	for (unsigned i = 0; i < n; i++) {
		json_array_append_new(list, json_pack("{s:i,s:i,s:i}", "vcpu", (int)v[i].index,
						      "pid", v[i].pid, "tid", v[i].tid));
		table_cell(t, "%u", v[i].index);
		table_cell(t, "%d", v[i].pid);
		table_cell(t, "%d", v[i].tid);
	}
	if (!l->a->json) {
		table_print(t);
	}
	return done(l, json_pack("{s:o}", "vcpus", list));
}

/* Of use to a shell only to see that it is there. */
static struct err *do_descriptor(struct live *l)
{
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(client_result(l->c, torpor_vm_descriptor(l->lib, &fd.n)));
	char path[40];
	char target[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd.n);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n < 0) {
		return ERR_ERRNO("looking at the descriptor");
	}
	target[n] = 0;
	if (!l->a->json) {
		printf("%s\n", target);
	}
	return done(l, json_pack("{s:s}", "descriptor", target));
}

/* ---- devices ---- */

static struct err *balloon_show(struct live *l)
{
	struct torpor_balloon_stats s;
	TRY(client_result(l->c, torpor_balloon_stats(l->lib, &s)));
	const struct {
		const char *name;
		uint64_t v;
	} rows[] = {
		{ "balloon_actual", s.balloon_actual },
		{ "swap_in", s.swap_in },
		{ "swap_out", s.swap_out },
		{ "major_faults", s.major_faults },
		{ "minor_faults", s.minor_faults },
		{ "free_memory", s.free_memory },
		{ "total_memory", s.total_memory },
		{ "available_memory", s.available_memory },
		{ "disk_caches", s.disk_caches },
		{ "hugetlb_allocations", s.hugetlb_allocations },
		{ "hugetlb_failures", s.hugetlb_failures },
		{ "shared_memory", s.shared_memory },
		{ "unevictable_memory", s.unevictable_memory },
	};
	json_t *doc = json_object();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (rows[i].v == UINT64_MAX) {
			continue; /* the guest does not tell it */
		}
		json_object_set_new(doc, rows[i].name, json_integer((json_int_t)rows[i].v));
		if (!l->a->json) {
			printf("%-20s %llu\n", rows[i].name, (unsigned long long)rows[i].v);
		}
	}
	return done(l, doc);
}

static struct err *do_balloon(struct live *l)
{
	if (l->nargs == 0) {
		return balloon_show(l);
	}
	uint64_t bytes = 0;
	TRY(err_wrap(config_parse_size(l->arg[0], &bytes), "SIZE"));
	if (l->o.wait) { /* the VM answers when the balloon is there, or gets no further */
		torpor_set_timeout(l->lib, -1);
	}
	return simple(l, torpor_balloon_adjust(l->lib, bytes, l->o.wait));
}

static struct err *do_workingset(struct live *l)
{
	struct torpor_ws_bucket b[16];
	unsigned n = 0;
	uint64_t actual = 0;
	TRY(client_result(l->c, torpor_balloon_ws(l->lib, b, ARRAY_LEN(b), &n, &actual)));
	json_t *list = json_array();
	for (unsigned i = 0; i < MIN(n, ARRAY_LEN(b)); i++) {
		json_array_append_new(list,
				      json_pack("{s:I,s:I,s:I}", "age_ms", (json_int_t)b[i].age_ms,
						"anon_bytes", (json_int_t)b[i].anon_bytes,
						"file_bytes", (json_int_t)b[i].file_bytes));
		if (!l->a->json) {
			printf("up to %llu ms: %llu anonymous, %llu of files\n",
			       (unsigned long long)b[i].age_ms, (unsigned long long)b[i].anon_bytes,
			       (unsigned long long)b[i].file_bytes);
		}
	}
	return done(l, json_pack("{s:o,s:I}", "workingset", list, "balloon_actual",
				 (json_int_t)actual));
}

/* "1000,5000" */
static struct err *get_ages(const char *text, unsigned *ages, unsigned max, unsigned *ret_n)
{
	unsigned n = 0;
	const char *at = text;
	for (;;) {
		char *end = NULL;
		unsigned long v = strtoul(at, &end, 10);
		ENSURE(*at >= '0' && *at <= '9' && v <= UINT32_MAX && (*end == ',' || *end == 0),
		       ERR_USAGE, "AGES: '%.40s' are no times in ms with commas", text);
		ENSURE(n < max, ERR_USAGE, "AGES: at most %u", max);
		ages[n++] = (unsigned)v;
		if (*end == 0) {
			break;
		}
		at = end + 1;
	}
	*ret_n = n;
	return NULL;
}

static struct err *do_workingset_config(struct live *l)
{
	unsigned ages[16];
	unsigned n = 0;
	uint64_t refresh = 0;
	uint64_t report = 0;
	TRY(get_ages(l->arg[0], ages, ARRAY_LEN(ages), &n));
	TRY(get_number("REFRESH", l->arg[1], UINT32_MAX, &refresh));
	TRY(get_number("REPORT", l->arg[2], UINT32_MAX, &report));
	return simple(
		l, torpor_balloon_ws_config(l->lib, ages, n, (unsigned)refresh, (unsigned)report));
}

static struct err *do_battery(struct live *l)
{
	int rc = torpor_battery(l->lib, l->arg[0], l->arg[1], l->nargs > 2 ? l->arg[2] : NULL);
	return simple(l, rc);
}

static struct err *do_disk_resize(struct live *l)
{
	uint64_t index = 0;
	uint64_t bytes = 0;
	TRY(get_number("DISK", l->arg[0], UINT32_MAX, &index));
	TRY(err_wrap(config_parse_size(l->arg[1], &bytes), "SIZE"));
	return simple(l, torpor_disk_resize(l->lib, (unsigned)index, bytes));
}

static struct err *show_added(struct live *l, const struct torpor_added *d)
{
	if (!l->a->json) {
		printf("%s, bus %u\n", d->id, d->bus);
	}
	return done(l, json_pack("{s:s,s:i,s:i}", "id", d->id, "slot", (int)d->slot, "bus",
				 (int)d->bus));
}

static struct err *no_slot(const struct config_dev *d)
{
	ENSURE(d->slot == 0, ERR_USAGE, "slot=N is for 'torpor run': the first free port is taken");
	return NULL;
}

static struct err *do_disk_add(struct live *l)
{
	struct config_dev d;
	struct torpor_added added;
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(disks_parse(l->arg[0], &d));
	TRY(no_slot(&d));
	ENSURE(!d.capture, ERR_USAGE,
	       "a disk that is plugged in is in no snapshot: say ro, or capture=off");
	ENSURE(d.iops == 0 && d.bps == 0, ERR_USAGE, "iops= and bps= are for 'torpor run'");
	TRY(disks_open_one(&d, &fd));
	const struct torpor_disk disk = {
		.fd = fd.n,
		.path = d.path,
		.id = d.id,
		.read_only = d.read_only,
		.queues = d.queues,
	};
	TRY(client_result(l->c, torpor_disk_plug(l->lib, &disk, &added)));
	return show_added(l, &added);
}

static struct err *do_net_add(struct live *l)
{
	struct config_dev d;
	struct torpor_added added;
	char mac[3 * CONFIG_MAC_BYTES];
	struct host_ends ends = { 0 };
	struct host_end *end = host_end_next(&ends, "");
	TRY(nets_parse(l->arg[0], &d));
	TRY(no_slot(&d));
	TRY(nets_open_one(&d, end));
	SCOPE(fd_close) struct fd fd = fd_move(&end->fd);
	config_mac_text(d.mac, mac);
	const struct torpor_net net = {
		.fd = fd.n,
		.header = end->header,
		.end = d.path,
		.id = d.id,
		.mac = d.mac_chosen ? mac : NULL,
		.mtu = d.mtu,
	};
	TRY(client_result(l->c, torpor_net_plug(l->lib, &net, &added)));
	return show_added(l, &added);
}

static struct err *unplug(struct live *l, const char *kind)
{
	torpor_set_timeout(l->lib, -1); /* the VM has a limit of its own */
	ENSURE(l->o.timeout_s <= 600, ERR_USAGE, "--timeout: at most 600 seconds");
	return simple(l, torpor_unplug(l->lib, kind, l->arg[0], l->o.force, l->o.timeout_s * 1000));
}

static struct err *do_disk_rm(struct live *l)
{
	return unplug(l, "disk");
}

static struct err *do_net_rm(struct live *l)
{
	return unplug(l, "net");
}

static struct err *do_usb_list(struct live *l)
{
	struct torpor_usb_device d[16];
	unsigned n = 0;
	TRY(client_result(l->c, torpor_usb_list(l->lib, d, &n)));
	json_t *list = json_array();
	for (unsigned i = 0; i < n; i++) {
		json_array_append_new(list, json_pack("{s:i,s:i,s:i}", "port", (int)d[i].port,
						      "vendor_id", (int)d[i].vendor_id,
						      "product_id", (int)d[i].product_id));
		if (!l->a->json) {
			printf("port %u: %04x:%04x\n", d[i].port, d[i].vendor_id, d[i].product_id);
		}
	}
	return done(l, json_pack("{s:o}", "devices", list));
}

static struct err *usb_attach(struct live *l,
			      int (*attach)(struct torpor_client *c, int fd, unsigned *ret_port))
{
	SCOPE(fd_close) struct fd fd = { open(l->arg[0], O_RDWR | O_CLOEXEC | O_NONBLOCK) };
	if (fd.n < 0) {
		return ERR_ERRNO("opening '%s'", l->arg[0]);
	}
	unsigned port = 0;
	TRY(client_result(l->c, attach(l->lib, fd.n, &port)));
	if (!l->a->json) {
		printf("port %u\n", port);
	}
	return done(l, json_pack("{s:i}", "port", (int)port));
}

static struct err *do_usb_attach(struct live *l)
{
	return usb_attach(l, torpor_usb_attach);
}

static struct err *do_usb_key(struct live *l)
{
	return usb_attach(l, torpor_usb_attach_key);
}

static struct err *do_usb_detach(struct live *l)
{
	uint64_t port = 0;
	TRY(get_number("PORT", l->arg[0], UINT8_MAX, &port));
	return simple(l, torpor_usb_detach(l->lib, (unsigned)port));
}

static struct err *do_display_add(struct live *l)
{
	struct torpor_display d = { 0 };
	char end;
	ENSURE(sscanf(l->arg[0], "%ux%u%c", &d.width, &d.height, &end) == 2, ERR_USAGE,
	       "'%.40s' is no WIDTHxHEIGHT", l->arg[0]);
	return simple(l, torpor_gpu_add(l->lib, &d, 1));
}

static struct err *do_display_list(struct live *l)
{
	SCOPE(freep) char *text = NULL;
	TRY(client_result(l->c, torpor_gpu_list(l->lib, &text)));
	if (!l->a->json) {
		printf("%s\n", text);
	}
	return done(l, json_pack("{s:o}", "displays", json_loads(text, 0, NULL)));
}

static struct err *do_display_rm(struct live *l)
{
	uint64_t id = 0;
	TRY(get_number("DISPLAY", l->arg[0], UINT32_MAX, &id));
	return simple(l, torpor_gpu_remove(l->lib, &(unsigned){ (unsigned)id }, 1));
}

static struct err *do_display_mouse(struct live *l)
{
	uint64_t id = 0;
	bool relative = strcmp(l->arg[1], "relative") == 0;
	TRY(get_number("DISPLAY", l->arg[0], UINT32_MAX, &id));
	ENSURE(relative || strcmp(l->arg[1], "touchscreen") == 0, ERR_USAGE,
	       "'%.40s' is not touchscreen or relative", l->arg[1]);
	return simple(l, torpor_gpu_mouse(l->lib, (unsigned)id, relative));
}

static struct err *do_mute(struct live *l)
{
	bool on = strcmp(l->arg[0], "on") == 0;
	ENSURE(on || strcmp(l->arg[0], "off") == 0, ERR_USAGE, "'%.40s' is not on or off",
	       l->arg[0]);
	return simple(l, torpor_snd_mute(l->lib, on));
}

static struct err *do_vfio_add(struct live *l)
{
	return simple(l, torpor_vfio(l->lib, "EndPoint", l->arg[0], true, true));
}

static struct err *do_vfio_rm(struct live *l)
{
	return simple(l, torpor_vfio(l->lib, "EndPoint", l->arg[0], false, false));
}

/* ---- automatic snapshots ---- */

static struct err *show_checkpoint(const struct live *l, const struct torpor_checkpoint *k)
{
	if (l->a->json) {
		json_t *doc = json_pack("{s:s,s:s,s:b,s:I,s:I,s:s*}", "every", k->every, "keep",
					k->keep, "taking", (int)k->taking, "taken",
					(json_int_t)k->taken, "failed", (json_int_t)k->failed,
					"error", k->error[0] != 0 ? k->error : NULL);
		if (k->taken > 0) {
			json_object_set_new(doc, "last_number",
					    json_integer((json_int_t)k->last_number));
			json_object_set_new(doc, "last_frozen_at_ns",
					    json_integer((json_int_t)k->last_frozen_at_ns));
		}
		return done(l, doc);
	}
	printf("every %s, keep %s: %llu taken, %llu failed%s\n", k->every, k->keep,
	       (unsigned long long)k->taken, (unsigned long long)k->failed,
	       k->taking ? ", one under way" : "");
	if (k->taken > 0) {
		uint64_t ago_ns = clock_real_ns() - k->last_frozen_at_ns;
		printf("the last one is %s@%llu, %llu s ago\n", client_vm(l->c)->name,
		       (unsigned long long)k->last_number,
		       (unsigned long long)(ago_ns / 1000000000u));
	}
	if (k->error[0] != 0) {
		printf("the last one failed: %s\n", k->error);
	}
	return NULL;
}

static struct err *do_checkpoint_status(struct live *l)
{
	struct torpor_checkpoint k;
	TRY(client_result(l->c, torpor_checkpoint_status(l->lib, &k)));
	return show_checkpoint(l, &k);
}

static struct err *do_checkpoint_policy(struct live *l)
{
	uint64_t ns;
	struct prune_policy rules;
	struct torpor_checkpoint k;
	ENSURE(!l->o.off || l->o.every == NULL, ERR_USAGE, "--off and --every contradict");
	if (l->o.every != NULL) {
		TRY(err_wrap(checkpoint_parse_every(l->o.every, &ns), "--every"));
	}
	if (l->o.keep != NULL) {
		TRY(err_wrap(checkpoint_parse_keep(l->o.keep, &rules), "--keep"));
	}
	const char *every = l->o.off ? "off" : l->o.every;
	TRY(client_result(l->c, every == NULL && l->o.keep == NULL
					? torpor_checkpoint_status(l->lib, &k)
					: torpor_checkpoint_policy(l->lib, every, l->o.keep, &k)));
	return show_checkpoint(l, &k);
}

/* ---- jobs ---- */

static json_t *job_doc(const struct torpor_job *j)
{
	json_t *doc = json_pack("{s:I,s:s,s:s,s:I}", "id", (json_int_t)j->id, "kind", j->kind,
				"state", j->state, "begun_at_ns", (json_int_t)j->begun_at_ns);
	if (j->elapsed_us > 0) {
		json_object_set_new(doc, "elapsed_us", json_integer((json_int_t)j->elapsed_us));
	}
	if (j->total > 0) {
		json_object_set_new(doc, "step", json_string(j->step));
		json_object_set_new(doc, "done", json_integer((json_int_t)j->done));
		json_object_set_new(doc, "total", json_integer((json_int_t)j->total));
	}
	if (j->error[0] != 0) {
		json_object_set_new(doc, "error", json_string(j->error));
	}
	return doc;
}

static void print_job(const struct torpor_job *j)
{
	printf("job %llu: %s, %s", (unsigned long long)j->id, j->kind, j->state);
	if (j->total > 0) {
		printf(", %s %llu of %llu", j->step, (unsigned long long)j->done,
		       (unsigned long long)j->total);
	}
	if (j->elapsed_us > 0) {
		printf(", took %.3f s", (double)j->elapsed_us / 1e6);
	}
	printf("%s%s\n", j->error[0] != 0 ? ": " : "", j->error);
}

static struct err *do_job_list(struct live *l)
{
	struct torpor_job jobs[64];
	unsigned n = 0;
	TRY(client_result(l->c, torpor_jobs(l->lib, jobs, ARRAY_LEN(jobs), &n)));
	json_t *list = json_array();
	for (unsigned i = 0; i < MIN(n, ARRAY_LEN(jobs)); i++) {
		json_array_append_new(list, job_doc(&jobs[i]));
		if (!l->a->json) {
			print_job(&jobs[i]);
		}
	}
	return done(l, json_pack("{s:o}", "jobs", list));
}

static struct err *do_job_show(struct live *l)
{
	uint64_t id = 0;
	struct torpor_job j;
	TRY(get_number("JOB", l->arg[0], INT64_MAX, &id));
	TRY(client_result(l->c, torpor_job(l->lib, id, &j)));
	if (!l->a->json) {
		print_job(&j);
	}
	return done(l, job_doc(&j));
}

static struct err *do_job_wait(struct live *l)
{
	uint64_t id = 0;
	TRY(get_number("JOB", l->arg[0], INT64_MAX, &id));
	torpor_set_timeout(l->lib,
			   l->o.timeout_s > 0 ? (int)MIN(l->o.timeout_s, 2000000u) * 1000 : -1);
	return simple(l, torpor_job_wait(l->lib, id));
}

static struct err *do_job_cancel(struct live *l)
{
	uint64_t id = 0;
	TRY(get_number("JOB", l->arg[0], INT64_MAX, &id));
	return simple(l, torpor_job_cancel(l->lib, id));
}

/* ---- memory ---- */

/* A memfd of that size, with the file's bytes at its start. */
static struct err *make_memory(uint64_t bytes, const char *file, struct fd *ret_fd)
{
	SCOPE(fd_close)
	struct fd fd = { memfd_create("torpor-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING) };
	if (fd.n < 0 || ftruncate(fd.n, (off_t)bytes) != 0) {
		return ERR_ERRNO("making memory of %llu bytes", (unsigned long long)bytes);
	}
	if (file != NULL) {
		SCOPE(fd_close) struct fd in = { open(file, O_RDONLY | O_CLOEXEC) };
		if (in.n < 0) {
			return ERR_ERRNO("opening '%s'", file);
		}
		uint64_t len = 0;
		TRY(io_size(in.n, &len));
		ENSURE(len <= bytes, ERR_LIMIT, "'%s' has %llu bytes and does not fit into %llu",
		       file, (unsigned long long)len, (unsigned long long)bytes);
		SCOPE(freep) char *buf = malloc(MIB);
		ENSURE(buf != NULL, ERR_SYS, "out of memory");
		for (uint64_t at = 0; at < len; at += MIB) {
			size_t n = MIN(len - at, (uint64_t)MIB);
			TRY(io_pread_full(in.n, buf, n, at));
			TRY(io_pwrite_full(fd.n, buf, n, at));
		}
	}
	*ret_fd = fd_move(&fd);
	return NULL;
}

static struct err *do_memory_add(struct live *l)
{
	uint64_t at = 0;
	uint64_t bytes = 0;
	uint64_t id = 0;
	TRY(get_number("ADDRESS", l->arg[0], INT64_MAX, &at));
	TRY(err_wrap(config_parse_size(l->arg[1], &bytes), "SIZE"));
	ENSURE(bytes <= (uint64_t)INT64_MAX - at, ERR_USAGE, "SIZE: the range is too long");
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(make_memory(bytes, l->o.file, &fd));
	TRY(client_result(l->c, torpor_register_memory(l->lib, fd.n, 0, at, at + bytes, &id)));
	if (!l->a->json) {
		printf("region 0x%llx\n", (unsigned long long)id);
	}
	return done(l, json_pack("{s:I}", "region_id", (json_int_t)id));
}

static struct err *do_memory_rm(struct live *l)
{
	uint64_t id = 0;
	TRY(get_number("REGION", l->arg[0], INT64_MAX, &id));
	return simple(l, torpor_unregister_memory(l->lib, id));
}

/* ---- events, any packet ---- */

static struct err *do_events(struct live *l)
{
	ENSURE(!l->a->json || !l->o.follow, ERR_USAGE,
	       "--json prints one document: leave out --follow, whose lines are JSON anyway");
	unsigned want = l->o.follow ? UINT_MAX : MAX(l->o.count, 1u);
	json_t *list = json_array();
	struct err *e = client_result(l->c, torpor_subscribe(l->lib));
	int ms = l->o.timeout_s > 0 ? (int)MIN(l->o.timeout_s, 2000000u) * 1000 : -1;
	for (unsigned i = 0; e == NULL && i < want; i++) {
		SCOPE(freep) char *text = NULL;
		int rc = torpor_next_event(l->lib, ms, &text);
		if (rc == -ECONNRESET && l->o.follow) {
			break; /* the VM has ended, which was its last event */
		}
		e = client_result(l->c, rc);
		if (e == NULL && l->a->json) {
			json_array_append_new(list, json_loads(text, 0, NULL));
		} else if (e == NULL) {
			printf("%s\n", text);
			fflush(stdout);
		}
	}
	if (e != NULL) {
		json_decref(list);
		return e;
	}
	return done(l, json_pack("{s:o}", "events", list));
}

static struct err *do_listener_add(struct live *l)
{
	return simple(l, torpor_register_listener(l->lib, l->arg[0], l->arg[1]));
}

static struct err *do_listener_rm(struct live *l)
{
	return simple(l, l->nargs > 1 ? torpor_unregister_listener(l->lib, l->arg[0], l->arg[1])
				      : torpor_unregister(l->lib, l->arg[0]));
}

static struct err *do_request(struct live *l)
{
	SCOPE(freep) char *answer = NULL;
	torpor_set_timeout(l->lib,
			   l->o.timeout_s > 0 ? (int)MIN(l->o.timeout_s, 2000000u) * 1000 : -1);
	int fd = -1;
	TRY(client_result(l->c, torpor_request(l->lib, l->arg[0], NULL, 0, &answer, &fd)));
	SCOPE(fd_close) UNUSED struct fd came = { fd }; /* of no use to a shell */
	printf("%s\n", answer);
	return NULL;
}

/* ---- the table ---- */

static struct err *run_live(struct args *a, int *ret_status);

#define ROW(name_, args_, summary_)                                                                \
	{                                                                                          \
		name_, args_, summary_, run_live                                                   \
	}

static const struct live_row rows[] = {
	{ ROW("powerbtn", "NAME", "press the power button"),
	  "Presses the power button. What happens is the guest's to say: as a rule it shuts down.",
	  0, 0, "", do_powerbtn },
	{ ROW("sleepbtn", "NAME", "press the sleep button"),
	  "Presses the sleep button. What happens is the guest's to say.", 0, 0, "", do_sleepbtn },
	{ ROW("gpe", "NAME GPE", "raise a general-purpose event"),
	  "Sets the status of an ACPI general-purpose event, 0 to 255.", 1, 1, "", do_gpe },
	{ ROW("rtc", "NAME", "ring the clock's alarm"),
	  "Sets the status of the real-time clock's ACPI event once.", 0, 0, "", do_rtc },
	{ ROW("pme", "NAME ID", "let a PCI device ask to wake the guest"),
	  "Sends a power management event in the name of a PCI device. ID is BUS:DEVICE.FUNCTION "
	  "or\n"
	  "a requester id.",
	  1, 1, "", do_pme },
	{ ROW("rt", "NAME", "run the vCPUs with real-time priority"),
	  "Puts all vCPU threads under SCHED_RR, or none, and says why not.", 0, 0, "", do_rt },
	{ ROW("throttle", "NAME VCPU TIME", "keep a vCPU out of the guest for a while"),
	  "Keeps one vCPU out of the guest for TIME (500us, 20ms, 1s; at most 60s), once.", 2, 2,
	  "", do_throttle },
	{ ROW("vcpus", "NAME", "list the threads of the vCPUs"),
	  "Lists process and thread id of each vCPU.", 0, 0, "", do_vcpus },
	{ ROW("balloon", "NAME [SIZE]", "size the balloon, or show its figures"),
	  "Asks the guest to give SIZE of its memory back. Without SIZE: the balloon's figures.", 0,
	  1, "wait", do_balloon },
	{ ROW("workingset show", "NAME", "show what memory the guest uses"),
	  "Shows the guest's memory by the age of its last use, as its balloon driver reports it.",
	  0, 0, "", do_workingset },
	{ ROW("workingset config", "NAME AGES REFRESH REPORT", "say how it is told"),
	  "AGES are bounds in ms with commas, like 1000,5000. REFRESH and REPORT are in ms.", 3, 3,
	  "", do_workingset_config },
	{ ROW("battery", "NAME TYPE PROPERTY [TARGET]", "set what the battery shows"),
	  "TYPE is goldfish. PROPERTY is status, health, present, capacity, aconline,\n"
	  "set_fake_bat_config or cancel_fake_bat_config (which takes no TARGET).",
	  2, 3, "", do_battery },
	{ ROW("disk resize", "NAME DISK SIZE", "change the size of a disk"),
	  "DISK counts the --disk options from 0. Shrinking cuts off what lies behind SIZE.", 2, 2,
	  "", do_disk_resize },
	{ ROW("disk add", "NAME PATH[,ro]...", "plug in a disk"),
	  "Plugs a disk into a free root port (--ports of 'torpor run') and prints its id and PCI "
	  "bus. The\n"
	  "words behind PATH are those of --disk of 'torpor run'.",
	  1, 1, "", do_disk_add },
	{ ROW("disk rm", "NAME ID", "unplug a disk"),
	  "Asks the guest to give up a disk that was plugged in, waits until it has, and takes the "
	  "disk out.\n"
	  "A guest that was not fast enough may still do so later, and then the disk goes.",
	  1, 1, "force timeout", do_disk_rm },
	{ ROW("net add", "NAME WHERE[,mac=MAC]...", "plug in a network device"),
	  "Plugs a network device into a free root port (--ports of 'torpor run') and prints its "
	  "id "
	  "and PCI\n"
	  "bus. WHERE (tap=NAME, user, none) and the words behind it are those of --net of 'torpor "
	  "run'.",
	  1, 1, "", do_net_add },
	{ ROW("net rm", "NAME ID", "unplug a network device"),
	  "Asks the guest to give up a network device that was plugged in, waits until it has, and "
	  "takes it\n"
	  "out.",
	  1, 1, "force timeout", do_net_rm },
	{ ROW("usb list", "NAME", "list attached USB devices"),
	  "Lists the USB devices that the guest was given.", 0, 0, "", do_usb_list },
	{ ROW("usb attach", "NAME FILE", "give the guest a USB device"),
	  "FILE is the device's node below /dev/bus/usb. Prints the port.", 1, 1, "",
	  do_usb_attach },
	{ ROW("usb key", "NAME FILE", "give the guest a security key"),
	  "FILE is the key's /dev/hidraw node. Prints the port.", 1, 1, "", do_usb_key },
	{ ROW("usb detach", "NAME PORT", "take a USB device back"),
	  "Takes the USB device on that port back.", 1, 1, "", do_usb_detach },
	{ ROW("display list", "NAME", "list displays"), "Lists the displays of the GPU.", 0, 0, "",
	  do_display_list },
	{ ROW("display add", "NAME WIDTHxHEIGHT", "add a display"),
	  "Adds a display to the GPU, in a window.", 1, 1, "", do_display_add },
	{ ROW("display rm", "NAME DISPLAY", "take a display away"),
	  "Takes the display of that number away.", 1, 1, "", do_display_rm },
	{ ROW("display mouse", "NAME DISPLAY touchscreen|relative", "say how its mouse works"),
	  "Sets how the mouse works in a display's window.", 2, 2, "", do_display_mouse },
	{ ROW("mute", "NAME on|off", "mute all sound devices"), "Mutes all sound devices, or not.",
	  1, 1, "", do_mute },
	{ ROW("vfio add", "NAME PATH", "pass a host's PCI device through"),
	  "PATH is the device below /sys/bus/pci/devices.", 1, 1, "", do_vfio_add },
	{ ROW("vfio rm", "NAME PATH", "take a host's PCI device back"),
	  "PATH is the device below /sys/bus/pci/devices.", 1, 1, "", do_vfio_rm },
	{ ROW("memory add", "NAME ADDRESS SIZE", "map new memory into the guest"),
	  "Maps SIZE of new memory at a guest physical ADDRESS, beside RAM and devices. The guest\n"
	  "may read and write it. No snapshot can be taken until 'torpor memory rm'.",
	  2, 2, "file", do_memory_add },
	{ ROW("memory rm", "NAME REGION", "take memory out of the guest"),
	  "REGION is what 'torpor memory add' printed: the address.", 1, 1, "", do_memory_rm },
	{ ROW("checkpoint policy", "NAME [--every TIME] [--keep RULES] [--off]",
	      "set or show when snapshots are taken by themselves"),
	  "Says from now on how often the VM takes a snapshot by itself, and which of these stay. "
	  "What is\n"
	  "left out stays as it was; without options: shows it. It is gone with the VM's process: "
	  "see\n"
	  "--checkpoint-every of 'torpor run' and 'torpor restore'.",
	  0, 0, "every keep off", do_checkpoint_policy },
	{ ROW("checkpoint status", "NAME", "show the last automatic snapshot"),
	  "Shows the policy of automatic snapshots, how many there were, and the last one.", 0, 0,
	  "", do_checkpoint_status },
	{ ROW("job list", "NAME", "list what lasts, and what has lasted"),
	  "Lists the VM's jobs: takes, rewinds and other requests that are not answered at once; "
	  "of "
	  "those that\n"
	  "have ended the last 16.",
	  0, 0, "", do_job_list },
	{ ROW("job show", "NAME JOB", "show how far a job is"),
	  "Shows one job: how far it is, or what came of it.", 1, 1, "", do_job_show },
	{ ROW("job wait", "NAME JOB", "wait for a job"),
	  "Returns when the job has ended, and fails if that failed.", 1, 1, "timeout",
	  do_job_wait },
	{ ROW("job cancel", "NAME JOB", "give a job up"),
	  "Gives the job up; whoever waits for it is told.", 1, 1, "", do_job_cancel },
	{ ROW("events", "NAME", "show what happens to a VM"),
	  "Prints events as they come, one JSON document per line.", 0, 0, "follow count timeout",
	  do_events },
	{ ROW("descriptor", "NAME", "show the descriptor of the VM"),
	  "Asks for the descriptor of the KVM VM and shows what it is.", 0, 0, "", do_descriptor },
	{ ROW("listener add", "NAME PATH EVENT", "have events sent to a socket"),
	  "PATH is the absolute path of a listening SOCK_SEQPACKET socket. The VM connects to it "
	  "and "
	  "sends\n"
	  "each EVENT as a packet. See torpor-control(7).",
	  2, 2, "", do_listener_add },
	{ ROW("listener rm", "NAME PATH [EVENT]", "send no more events there"),
	  "Without EVENT: none at all.", 1, 2, "", do_listener_rm },
	{ ROW("request", "NAME JSON", "send any packet to a VM"),
	  "Sends JSON as it is to the control socket and prints the answer. See torpor-control(7).",
	  1, 1, "timeout", do_request },
};

const struct verb *live_verb(size_t i)
{
	return i < ARRAY_LEN(rows) ? &rows[i].verb : NULL;
}

static bool has_option(const struct live_row *row, const char *name)
{
	size_t len = strlen(name);
	for (const char *p = row->options; *p != 0; p += strcspn(p, " "), p += *p == ' ') {
		if (strcspn(p, " ") == len && strncmp(p, name, len) == 0) {
			return true;
		}
	}
	return false;
}

static struct err *run_live(struct args *a, int *ret_status)
{
	(void)ret_status;
	const struct live_row *row =
		CONTAINER_OF((struct verb *)(uintptr_t)a->verb, struct live_row, verb);
	struct live l = { .a = a };
	const struct opt all[] = {
		{ "wait", NULL, OPT_FLAG, &l.o.wait, "until the guest has done it" },
		{ "follow", NULL, OPT_FLAG, &l.o.follow, "until the VM ends" },
		{ "count", "N", OPT_UINT, &l.o.count, "that many; default 1" },
		{ "timeout", "SECONDS", OPT_UINT, &l.o.timeout_s,
		  "give up when nothing comes for so long; default: never" },
		{ "file", "FILE", OPT_TEXT, &l.o.file, "its first content; the rest is zero" },
		{ "every", "TIME", OPT_TEXT, &l.o.every,
		  "from one to the next, like 30s, 5m, 2h or 1d" },
		{ "keep", "RULES", OPT_TEXT, &l.o.keep,
		  "which stay: a number, hourly=N, daily=N, with commas; or all" },
		{ "force", NULL, OPT_FLAG, &l.o.force,
		  "take it out at once, whatever the guest does" },
		{ "off", NULL, OPT_FLAG, &l.o.off, "none any more; those there are stay" },
	};
	struct opt opts[ARRAY_LEN(all)];
	size_t n = 0;
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		if (has_option(row, all[i].name)) {
			opts[n++] = all[i];
		}
	}
	TRY(opts_parse(a, row->about, opts, n, 1 + row->min_args, 1 + row->max_args));
	if (a->help) {
		return NULL;
	}
	char store[PATH_MAX];
	if (a->store != NULL) {
		TRY(opts_store_dir(a, store, sizeof(store)));
	}
	SCOPE(client_closep) struct client *c = NULL;
	TRY(client_open(a->pos[0], a->store != NULL ? store : NULL, &c));
	l.c = c;
	l.lib = client_lib(c);
	l.arg = a->pos + 1;
	l.nargs = a->npos - 1;
	return row->fn(&l);
}
