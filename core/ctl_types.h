/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every request, answer and event of the control protocol as a type: the C structs that requests
 * are decoded into, and the tables (ctl_wire.h) that say what they look like. Values only. Used by
 * ctl_proto.c, ctl.c, ctl_event.c and tests.
 *
 * FD members are indices into the packet's descriptors, -1 for none.
 */
#ifndef TORPOR_CORE_CTL_TYPES_H
#define TORPOR_CORE_CTL_TYPES_H

#include "core/base/limits.h"
#include "core/checkpoint.h"
#include "core/config_dev.h"
#include "core/ctl_wire.h"

/* Every variant of VmRequest, in the order of its definition: C name, wire name. */
#define CTL_VARIANTS(X)                                                                            \
	X(EXIT, "Exit")                                                                            \
	X(POWERBTN, "Powerbtn")                                                                    \
	X(SLEEPBTN, "Sleepbtn")                                                                    \
	X(RTC, "Rtc")                                                                              \
	X(SUSPEND_VCPUS, "SuspendVcpus")                                                           \
	X(SWAP, "Swap")                                                                            \
	X(RESUME_VCPUS, "ResumeVcpus")                                                             \
	X(GPE, "Gpe")                                                                              \
	X(PCI_PME, "PciPme")                                                                       \
	X(MAKE_RT, "MakeRT")                                                                       \
	X(BALLOON, "BalloonCommand")                                                               \
	X(DISK, "DiskCommand")                                                                     \
	X(USB, "UsbCommand")                                                                       \
	X(GPU, "GpuCommand")                                                                       \
	X(BAT, "BatCommand")                                                                       \
	X(SND, "SndCommand")                                                                       \
	X(HOTPLUG_VFIO, "HotPlugVfioCommand")                                                      \
	X(HOTPLUG_NET, "HotPlugNetCommand")                                                        \
	X(SNAPSHOT, "Snapshot")                                                                    \
	X(REGISTER_LISTENER, "RegisterListener")                                                   \
	X(UNREGISTER_LISTENER, "UnregisterListener")                                               \
	X(UNREGISTER, "Unregister")                                                                \
	X(SUSPEND_VM, "SuspendVm")                                                                 \
	X(RESUME_VM, "ResumeVm")                                                                   \
	X(VCPU_PID_TID, "VcpuPidTid")                                                              \
	X(THROTTLE, "Throttle")                                                                    \
	X(GET_VM_DESCRIPTOR, "GetVmDescriptor")                                                    \
	X(REGISTER_MEMORY, "RegisterMemory")                                                       \
	X(UNREGISTER_MEMORY, "UnregisterMemory")                                                   \
	X(TORPOR, "Torpor")

enum ctl_variant {
#define X(id, name) CTL_##id,
	CTL_VARIANTS(X)
#undef X
		CTL__COUNT,
};

/* What a listener can ask for: crosvm's three, then ours. */
#define CTL_EVENTS(X)                                                                              \
	X(BALLOON_WS, "VirtioBalloonWsReport")                                                     \
	X(BALLOON_RESIZE, "VirtioBalloonResize")                                                   \
	X(BALLOON_OOM, "VirtioBalloonOOMDeflation")                                                \
	X(STATE, "StateChange")                                                                    \
	X(SNAPSHOT_BEGUN, "SnapshotBegun")                                                         \
	X(SNAPSHOT_PUBLISHED, "SnapshotPublished")                                                 \
	X(SNAPSHOT_FAILED, "SnapshotFailed")                                                       \
	X(SWAP_STATE, "SwapState")                                                                 \
	X(GUEST_PANIC, "GuestPanic")                                                               \
	X(NEEDS_RESET, "DeviceNeedsReset")                                                         \
	X(REWOUND, "SnapshotRewound")                                                              \
	X(REWIND_FAILED, "SnapshotRewindFailed")

enum ctl_event {
#define X(id, name) CTL_EVENT_##id,
	CTL_EVENTS(X)
#undef X
		CTL_EVENT__COUNT,
};

/* Members of enums, in the order of their tables. */
enum ctl_swap_cmd {
	CTL_SWAP_ENABLE,
	CTL_SWAP_TRIM,
	CTL_SWAP_OUT,
	CTL_SWAP_DISABLE,
	CTL_SWAP_STATUS
};
enum ctl_balloon_cmd {
	CTL_BALLOON_ADJUST,
	CTL_BALLOON_STATS,
	CTL_BALLOON_WS,
	CTL_BALLOON_WS_CONFIG,
};
enum ctl_usb_cmd { CTL_USB_ATTACH, CTL_USB_ATTACH_KEY, CTL_USB_DETACH, CTL_USB_LIST };
enum ctl_gpu_cmd { CTL_GPU_ADD, CTL_GPU_LIST, CTL_GPU_REMOVE, CTL_GPU_MOUSE };
enum ctl_bat_cmd {
	CTL_BAT_STATUS,
	CTL_BAT_HEALTH,
	CTL_BAT_PRESENT,
	CTL_BAT_CAPACITY,
	CTL_BAT_AC,
	CTL_BAT_FAKE,
	CTL_BAT_CANCEL_FAKE,
};
enum ctl_net_cmd { CTL_NET_ADD, CTL_NET_REMOVE };
enum ctl_torpor_cmd {
	CTL_TORPOR_STATUS,
	CTL_TORPOR_TAKE,
	CTL_TORPOR_TAKE_STATUS,
	CTL_TORPOR_TAKE_CANCEL,
	CTL_TORPOR_SUBSCRIBE,
	CTL_TORPOR_CHECKPOINT_POLICY,
	CTL_TORPOR_CHECKPOINT_STATUS,
	CTL_TORPOR_REWIND,
	CTL_TORPOR_JOBS,
	CTL_TORPOR_JOB,
	CTL_TORPOR_JOB_WAIT,
	CTL_TORPOR_JOB_CANCEL,
	CTL_TORPOR_SWAP_ENABLE,
	CTL_TORPOR_SWAP_STATUS,
	CTL_TORPOR_DISK_ADD,
	CTL_TORPOR_NET_ADD,
	CTL_TORPOR_DEVICE_REMOVE,
};

enum {
	CTL_PATH_MAX = 4095,
	CTL_SOCKET_PATH_MAX = 107, /* sun_path less its NUL */
	CTL_USB_PORTS = 16,
	CTL_DISPLAYS_MAX = 16,
	CTL_WS_BINS_MAX = 16,
	CTL_TAP_MAX = 15, /* IFNAMSIZ less its NUL */
	CTL_DEADLINE_MS_MAX = 24 * 3600 * 1000,
	CTL_UNPLUG_MS_MAX = 600000,
};

struct ctl_swap {
	uint32_t cmd; /* enum ctl_swap_cmd */
	struct {
		bool slow_file_cleanup;
	} disable;
};

struct ctl_gpe {
	uint64_t gpe;
	int clear_evt;
};

struct ctl_balloon {
	uint32_t cmd; /* enum ctl_balloon_cmd */
	union {
		struct {
			uint64_t num_bytes;
			bool wait_for_success;
		} adjust;
		struct {
			struct {
				uint64_t n;
				uint64_t at[CTL_WS_BINS_MAX];
			} bins;
			uint64_t refresh_threshold;
			uint64_t report_threshold;
		} ws_config;
	};
};

struct ctl_disk {
	uint64_t disk_index;
	struct {
		uint32_t cmd; /* 0: Resize */
		struct {
			uint64_t new_size;
		} resize;
	} command;
};

struct ctl_usb {
	uint32_t cmd; /* enum ctl_usb_cmd */
	union {
		int file; /* both attaches */
		uint64_t port;
		uint64_t ports[CTL_USB_PORTS];
	};
};

struct ctl_display {
	struct {
		uint32_t kind; /* 0: windowed */
		struct {
			uint64_t width;
			uint64_t height;
		} windowed;
	} mode;
	bool hidden;
	uint64_t refresh_rate; /* 0: the default */
	struct {
		uint64_t x;
		uint64_t y;
	} dpi; /* 0, 0: the default */
	uint64_t horizontal_dpi;
	uint64_t vertical_dpi;
};

struct ctl_gpu {
	uint32_t cmd; /* enum ctl_gpu_cmd */
	union {
		struct {
			uint64_t n;
			struct ctl_display at[CTL_DISPLAYS_MAX];
		} displays;
		struct {
			uint64_t n;
			uint64_t at[CTL_DISPLAYS_MAX];
		} display_ids;
		struct {
			uint64_t display_id;
			uint32_t mouse_mode; /* 0: touchscreen, 1: relative */
		} mouse;
	};
};

struct ctl_bat {
	uint32_t type; /* 0: goldfish */
	struct {
		uint32_t cmd;   /* enum ctl_bat_cmd */
		uint32_t word;  /* status or health: index as crosvm numbers them */
		uint64_t value; /* the others */
	} set;
};

struct ctl_vfio {
	struct {
		uint32_t device_type; /* 0: upstream port, 1: downstream port, 2: end point */
		char path[CTL_PATH_MAX + 1];
		bool hp_interrupt;
	} device;
	bool add;
};

struct ctl_net {
	uint32_t cmd; /* enum ctl_net_cmd */
	union {
		char tap[CTL_TAP_MAX + 1];
		uint64_t bus;
	};
};

struct ctl_take {
	char tag[NAME_BYTES_MAX + 1]; /* "": none */
	uint64_t max_pause_us;        /* 0: the default; not for Snapshot.Take */
	bool compress_memory;         /* the store compresses always: granted either way */
	bool encrypt;
};

struct ctl_listener {
	char socket_addr[CTL_SOCKET_PATH_MAX + 1];
	uint32_t event; /* enum ctl_event; not for Unregister */
};

struct ctl_throttle {
	uint64_t vcpu;
	uint64_t us;
};

struct ctl_memory {
	int fd;
	uint64_t offset;
	uint64_t range_start;
	uint64_t range_end; /* exclusive */
	bool cache_coherent;
};

/* "": as it was. */
struct ctl_checkpoint {
	char every[CHECKPOINT_TEXT_MAX + 1];
	char keep[CHECKPOINT_TEXT_MAX + 1];
};

struct ctl_rewind {
	char ref[REF_BYTES_MAX + 1];
};

struct ctl_job_id {
	uint64_t id;
};

struct ctl_swap_enable {
	char as_snapshot[NAME_BYTES_MAX + 1]; /* "": none */
};

/* Devices that come and go. "": the VM chooses; 0: the default. */
struct ctl_disk_add {
	int fd;
	char path[CONFIG_PATH_BYTES_MAX + 1];
	char id[NAME_BYTES_MAX + 1];
	bool ro;
	uint64_t queues;
};

struct ctl_net_add {
	int fd; /* -1: no cable */
	bool header;
	char end[CONFIG_PATH_BYTES_MAX + 1];
	char id[NAME_BYTES_MAX + 1];
	char mac[3 * CONFIG_MAC_BYTES];
	uint64_t mtu;
};

struct ctl_device_remove {
	uint32_t kind; /* 0: disk, 1: net */
	char id[NAME_BYTES_MAX + 1];
	bool force;
	uint64_t timeout_ms;
};

struct ctl_torpor {
	uint64_t v;
	uint64_t deadline_ms; /* 0: the request's own */
	bool detach;          /* Take, Rewind: answered by the job that was begun */
	struct {
		uint32_t cmd; /* enum ctl_torpor_cmd */
		union {
			struct ctl_take take;
			struct ctl_checkpoint checkpoint;
			struct ctl_rewind rewind;
			struct ctl_job_id job;
			struct ctl_swap_enable swap_enable;
			struct ctl_disk_add disk_add;
			struct ctl_net_add net_add;
			struct ctl_device_remove device_remove;
		};
	} cmd;
};

/* A decoded request. */
struct ctl_request {
	uint32_t variant; /* enum ctl_variant: says which member holds */
	union {
		struct {
			int clear_evt;
		} rtc;
		struct ctl_swap swap;
		struct ctl_gpe gpe;
		uint64_t pme_id;
		struct ctl_balloon balloon;
		struct ctl_disk disk;
		struct ctl_usb usb;
		struct ctl_gpu gpu;
		struct ctl_bat bat;
		struct {
			uint32_t cmd; /* 0: MuteAll */
			bool mute;
		} snd;
		struct ctl_vfio vfio;
		struct ctl_net net;
		struct {
			uint32_t cmd; /* 0: Take */
			struct ctl_take take;
		} snapshot;
		struct ctl_listener listener;
		struct ctl_throttle throttle;
		struct ctl_memory memory;
		uint64_t region_id;
		struct ctl_torpor torpor;
	};
};

extern const struct wire_type ctl_request_type; /* decodes into struct ctl_request */
extern const struct wire_type ctl_answer_type;  /* only checked: answers are made, not read, here */
extern const struct wire_type ctl_event_type;   /* as ctl_answer_type */

/* The whole protocol as one JSON Schema document; what docs/control.schema.json holds. */
json_t *ctl_schema(void);

#endif
