/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libtorpor-client: speaks to a living VM of torpor over its control socket. Every request of the
 * protocol has a function; torpor_request takes any packet. See torpor-control(7).
 *
 * Functions return 0, or a negative errno, after which torpor_error says what happened in one line.
 * Outputs are untouched on failure. Each request waits at most for the client's time limit
 * (torpor_set_timeout); -ETIMEDOUT leaves the request with the VM, and the next one makes a new
 * connection. Texts that are returned are freed with free(3); descriptors are the caller's.
 *
 * A client is used by one thread at a time; different clients are independent. The library keeps no
 * global state, starts no thread, and raises no signal.
 */
#ifndef TORPOR_CLIENT_H
#define TORPOR_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct torpor_client;

/* ---- connections ---- */

/* NULL without memory. */
struct torpor_client *torpor_new(void);
void torpor_free(struct torpor_client *c); /* NULL is fine */
/*
 * Connects to a VM: `vm` is a name, or the path of a control socket (what has a '/' in it).
 * -ENOENT: no such VM is running; -ECONNREFUSED and others of connect(2).
 */
int torpor_connect(struct torpor_client *c, const char *vm);
/* Time limit of each request; the default is 30000. Negative: none. */
void torpor_set_timeout(struct torpor_client *c, int timeout_ms);
/* Why the last function failed; "" after success. Valid until the next call with this client. */
const char *torpor_error(const struct torpor_client *c);

/* ---- any packet ---- */

/*
 * Sends a packet with nfds descriptors and waits for its answer. An answer that is a refusal
 * (ErrString, Err, and the failures within BatResponse, UsbResponse and GpuResponse) is a failure.
 * ret_answer (may be NULL) gets the answer's JSON; ret_fd (may be NULL) a descriptor that came
 * along, or -1.
 */
int torpor_request(struct torpor_client *c, const char *json, const int *fds, unsigned nfds,
		   char **ret_answer, int *ret_fd);
/* The two halves: for who does something while the VM works, like asking how far a take is. */
int torpor_send(struct torpor_client *c, const char *json, const int *fds, unsigned nfds);
/* -ETIMEDOUT when nothing came within timeout_ms; the answer may be waited for again. */
int torpor_receive(struct torpor_client *c, int timeout_ms, char **ret_answer, int *ret_fd);

/* ---- life ---- */

int torpor_exit(struct torpor_client *c); /* accepted; the end shows by the process */
int torpor_suspend_vcpus(struct torpor_client *c);
int torpor_resume_vcpus(struct torpor_client *c);
int torpor_suspend_vm(struct torpor_client *c);
int torpor_resume_vm(struct torpor_client *c);

struct torpor_status {
	char name[65];
	char uuid[37];
	char family[37];
	char state[32]; /* built, running, vcpus-suspended, suspended, ended */
	bool taking;
	uint64_t resets;
	uint64_t suspended_ns; /* guest time that suspends took away */
	uint64_t mem_bytes;
	uint64_t mem_allocated;
	unsigned cpus;
	int pid;
	char store[4096];
	char s2idle[16]; /* awake, asleep, ignored; "": the VM was started without */
};
int torpor_status(struct torpor_client *c, struct torpor_status *ret);

/* ---- snapshots ---- */

struct torpor_take {
	char ref[160];
	uint64_t number;
	uint64_t frozen_at_ns; /* host clock, since 1970 */
	uint64_t pause_us;
	uint64_t elapsed_us;
	uint64_t pages_stored;
	uint64_t bytes_stored;
};
/* tag NULL or "": none. Waits until the snapshot is durable: mind the time limit. ret may be NULL.
 */
int torpor_snapshot_take(struct torpor_client *c, const char *tag, struct torpor_take *ret);

struct torpor_take_status {
	bool taking;
	char step[64];
	uint64_t done;
	uint64_t total;
};
int torpor_take_status(struct torpor_client *c, struct torpor_take_status *ret);

int torpor_take_cancel(struct torpor_client *c); /* given up; the take's own answer says so */

/* ref is NAME@TAG or NAME@NUMBER. Mind the time limit. ret may be NULL. */
struct torpor_rewound {
	char ref[160];
	uint64_t number;
	char safety[160]; /* what the VM was before */
	uint64_t safety_number;
	uint64_t pages_written;
	uint64_t stopped_us;
	uint64_t elapsed_us;
};
int torpor_rewind(struct torpor_client *c, const char *ref, struct torpor_rewound *ret);

/* What lasts, by its number: anybody may ask about it, wait for it, and give it up. */
struct torpor_job {
	uint64_t id;
	char kind[32];        /* Take, Rewind, SuspendVm, ... */
	char state[16];       /* running, done, failed, cancelled */
	uint64_t begun_at_ns; /* host clock, since 1970 */
	uint64_t elapsed_us;  /* 0: it runs */
	char step[64];        /* "": not told */
	uint64_t done;
	uint64_t total;
	char error[512]; /* why it failed; "" */
};
/* Returns when the job has begun. max_pause_us 0: the default. */
int torpor_take_begin(struct torpor_client *c, const char *tag, uint64_t max_pause_us,
		      uint64_t *ret_id);
int torpor_rewind_begin(struct torpor_client *c, const char *ref, uint64_t *ret_id);
/* -ENOENT: no such job, or it is long over. */
int torpor_job(struct torpor_client *c, uint64_t id, struct torpor_job *ret);
/* At most max of them into ret; *ret_n is how many there are. */
int torpor_jobs(struct torpor_client *c, struct torpor_job *ret, unsigned max, unsigned *ret_n);
/* Returns what the job returns, when it has ended: mind the time limit. */
int torpor_job_wait(struct torpor_client *c, uint64_t id);
int torpor_job_cancel(struct torpor_client *c, uint64_t id);

/* Automatic snapshots of the VM. */
struct torpor_checkpoint {
	char every[64]; /* like "30s"; "off" */
	char keep[64];  /* like "10,hourly=24"; "all" */
	bool taking;
	uint64_t taken; /* since the VM's process began */
	uint64_t failed;
	uint64_t last_number;       /* 0: none yet */
	uint64_t last_frozen_at_ns; /* host clock, since 1970 */
	char error[256];            /* of the last one; "" */
};
int torpor_checkpoint_status(struct torpor_client *c, struct torpor_checkpoint *ret);
/* every, keep: as above; NULL leaves what is in force. ret, which may be NULL, is as it is then. */
int torpor_checkpoint_policy(struct torpor_client *c, const char *every, const char *keep,
			     struct torpor_checkpoint *ret);

/* ---- vCPUs ---- */

struct torpor_vcpu {
	unsigned index;
	int pid;
	int tid;
};
/* At most max of them into ret; *ret_n is how many there are. */
int torpor_vcpus(struct torpor_client *c, struct torpor_vcpu *ret, unsigned max, unsigned *ret_n);
int torpor_make_rt(struct torpor_client *c);
int torpor_throttle(struct torpor_client *c, unsigned vcpu, unsigned us);
int torpor_vm_descriptor(struct torpor_client *c, int *ret_fd);

/* ---- memory of the client in the guest ---- */

/* memfd: sealable. [start, end) are guest physical addresses. */
int torpor_register_memory(struct torpor_client *c, int memfd, uint64_t offset, uint64_t start,
			   uint64_t end, uint64_t *ret_region_id);
int torpor_unregister_memory(struct torpor_client *c, uint64_t region_id);

/* ---- buttons and platform events ---- */

int torpor_powerbtn(struct torpor_client *c);
int torpor_sleepbtn(struct torpor_client *c);
/* clear_evt: an eventfd that ends the event, -1 for none. */
int torpor_gpe(struct torpor_client *c, unsigned gpe, int clear_evt);
int torpor_rtc(struct torpor_client *c, int clear_evt);
int torpor_pci_pme(struct torpor_client *c, uint16_t requester_id);

/* ---- swap ---- */

int torpor_swap_enable(struct torpor_client *c);
int torpor_swap_trim(struct torpor_client *c);
int torpor_swap_out(struct torpor_client *c);
int torpor_swap_disable(struct torpor_client *c, bool slow_file_cleanup);
struct torpor_swap_status {
	char state[32];
	uint64_t resident_pages;
	uint64_t copied_from_file_pages;
	uint64_t copied_from_staging_pages;
	uint64_t zeroed_pages;
	uint64_t redundant_pages;
	uint64_t staging_pages;
	uint64_t swap_pages;
	uint64_t transition_pages;
	uint64_t transition_ms;
};
int torpor_swap_status(struct torpor_client *c, struct torpor_swap_status *ret);

/* ---- devices ---- */

int torpor_balloon_adjust(struct torpor_client *c, uint64_t bytes, bool wait_for_success);
struct torpor_balloon_stats { /* UINT64_MAX: not told */
	uint64_t balloon_actual;
	uint64_t swap_in, swap_out, major_faults, minor_faults;
	uint64_t free_memory, total_memory, available_memory, disk_caches;
	uint64_t hugetlb_allocations, hugetlb_failures, shared_memory, unevictable_memory;
};
int torpor_balloon_stats(struct torpor_client *c, struct torpor_balloon_stats *ret);
struct torpor_ws_bucket {
	uint64_t age_ms;
	uint64_t anon_bytes;
	uint64_t file_bytes;
};
int torpor_balloon_ws(struct torpor_client *c, struct torpor_ws_bucket *ret, unsigned max,
		      unsigned *ret_n, uint64_t *ret_balloon_actual);
int torpor_balloon_ws_config(struct torpor_client *c, const unsigned *bins_ms, unsigned nbins,
			     unsigned refresh_ms, unsigned report_ms);

int torpor_disk_resize(struct torpor_client *c, unsigned disk_index, uint64_t bytes);

int torpor_usb_attach(struct torpor_client *c, int device_fd, unsigned *ret_port);
int torpor_usb_attach_key(struct torpor_client *c, int hidraw_fd, unsigned *ret_port);
int torpor_usb_detach(struct torpor_client *c, unsigned port);
struct torpor_usb_device {
	unsigned port;
	unsigned vendor_id;
	unsigned product_id;
};
/* Of ports 1 to 16; *ret_n devices are there, at most 16. */
int torpor_usb_list(struct torpor_client *c, struct torpor_usb_device ret[16], unsigned *ret_n);

struct torpor_display {
	unsigned width, height;
	bool hidden;
	unsigned refresh_hz;   /* 0: the default */
	unsigned dpi_x, dpi_y; /* 0: the default */
};
int torpor_gpu_add(struct torpor_client *c, const struct torpor_display *displays, unsigned n);
int torpor_gpu_list(struct torpor_client *c, char **ret_json); /* {"0":{...},...} */
int torpor_gpu_remove(struct torpor_client *c, const unsigned *ids, unsigned n);
int torpor_gpu_mouse(struct torpor_client *c, unsigned display_id, bool relative);

/*
 * type: "goldfish". property: status, health, present, capacity, aconline, set_fake_bat_config,
 * cancel_fake_bat_config (target NULL). target: a word (charging, good, ...) or a number.
 */
int torpor_battery(struct torpor_client *c, const char *type, const char *property,
		   const char *target);
int torpor_snd_mute(struct torpor_client *c, bool mute);
/* device_type: UpstreamPort, DownstreamPort, EndPoint. */
int torpor_vfio(struct torpor_client *c, const char *device_type, const char *path,
		bool hp_interrupt, bool add);
/* tap_fd: the tap, open (IFF_NO_PI, IFF_VNET_HDR, header of 12 bytes): the VM opens no interface. */
int torpor_net_add(struct torpor_client *c, const char *tap, int tap_fd, unsigned *ret_bus);
int torpor_net_remove(struct torpor_client *c, unsigned bus);

/*
 * Devices that come and go, behind the VM's root ports. The descriptor goes to the VM, whose
 * restore opens `path`, or what `end` says (as --net has it), anew. NULL or 0: the VM chooses.
 */
struct torpor_added {
	char id[68];
	unsigned slot;
	unsigned bus; /* behind the port, as the guest numbers it */
};
struct torpor_disk {
	int fd;
	const char *path; /* absolute */
	const char *id;
	bool read_only;
	unsigned queues;
};
int torpor_disk_plug(struct torpor_client *c, const struct torpor_disk *d,
		     struct torpor_added *ret);
struct torpor_net {
	int fd;      /* a tap, or a socket that keeps messages apart; -1: no cable */
	bool header; /* frames have virtio's header */
	const char *end;
	const char *id;
	const char *mac;
	unsigned mtu;
};
int torpor_net_plug(struct torpor_client *c, const struct torpor_net *n, struct torpor_added *ret);
/* kind: "disk" or "net". Waits until the guest has given the device up, or force. timeout_ms 0: the
 * default; mind the client's own limit. */
int torpor_unplug(struct torpor_client *c, const char *kind, const char *id, bool force,
		  unsigned timeout_ms);

/* ---- events ---- */

/* The VM connects to the listening SOCK_SEQPACKET socket at `path` and sends events of that name.
 */
int torpor_register_listener(struct torpor_client *c, const char *path, const char *event);
int torpor_unregister_listener(struct torpor_client *c, const char *path, const char *event);
int torpor_unregister(struct torpor_client *c, const char *path); /* all events */
/*
 * From now on this client's connection gets all events: call torpor_next_event only, and nothing
 * else but torpor_free. -ECONNRESET when the VM has ended.
 */
int torpor_subscribe(struct torpor_client *c);
int torpor_next_event(struct torpor_client *c, int timeout_ms, char **ret_json);

#ifdef __cplusplus
}
#endif

#endif
