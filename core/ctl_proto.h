/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words of the control protocol: a packet's bytes to a request, and answers to packets. JSON in
 * serde's externally tagged form: "Variant" or {"Variant": content}. docs/control.md has every
 * packet. Pure: no socket, no VM, any thread. Used by ctl.c and by its tests.
 *
 * What comes in is hostile: every parse ends in a request or an error, and every error text can be
 * put into an answer.
 */
#ifndef TORPOR_CORE_CTL_PROTO_H
#define TORPOR_CORE_CTL_PROTO_H

#include <jansson.h>

#include "core/base/bytes.h"
#include "core/base/limits.h"

/*
 * Every variant of VmRequest, in the order of its definition: C name, wire name, and why it cannot
 * be served ("" where it can: ctl.c has its handler).
 */
#define CTL_VARIANTS(X)                                                                            \
	X(EXIT, "Exit", "")                                                                        \
	X(POWERBTN, "Powerbtn", "it has no power button")                                          \
	X(SLEEPBTN, "Sleepbtn", "it has no sleep button")                                          \
	X(RTC, "Rtc", "its RTC has no wake-up event")                                              \
	X(SUSPEND_VCPUS, "SuspendVcpus", "")                                                       \
	X(SWAP, "Swap", "it was started without a swap")                                           \
	X(RESUME_VCPUS, "ResumeVcpus", "")                                                         \
	X(GPE, "Gpe", "it has no general purpose events")                                          \
	X(PCI_PME, "PciPme", "it has no PCI bus")                                                  \
	X(MAKE_RT, "MakeRT", "it has no real-time vCPUs")                                          \
	X(BALLOON_COMMAND, "BalloonCommand", "it has no balloon")                                  \
	X(DISK_COMMAND, "DiskCommand", "it has no disk")                                           \
	X(USB_COMMAND, "UsbCommand", "it has no USB controller")                                   \
	X(GPU_COMMAND, "GpuCommand", "it has no GPU")                                              \
	X(BAT_COMMAND, "BatCommand", "it has no battery")                                          \
	X(SND_COMMAND, "SndCommand", "it has no sound device")                                     \
	X(HOTPLUG_VFIO, "HotPlugVfioCommand", "it has no PCI bus")                                 \
	X(HOTPLUG_NET, "HotPlugNetCommand", "it has no PCI bus")                                   \
	X(SNAPSHOT, "Snapshot", "")                                                                \
	X(REGISTER_LISTENER, "RegisterListener", "it sends no events")                             \
	X(UNREGISTER_LISTENER, "UnregisterListener", "it sends no events")                         \
	X(UNREGISTER, "Unregister", "it sends no events")                                          \
	X(SUSPEND_VM, "SuspendVm", "")                                                             \
	X(RESUME_VM, "ResumeVm", "")                                                               \
	X(VCPU_PID_TID, "VcpuPidTid", "")                                                          \
	X(THROTTLE, "Throttle", "it has no vCPU throttle")                                         \
	X(GET_VM_DESCRIPTOR, "GetVmDescriptor", "its descriptor is not given away")                \
	X(REGISTER_MEMORY, "RegisterMemory", "it takes no memory of others")                       \
	X(UNREGISTER_MEMORY, "UnregisterMemory", "it takes no memory of others")                   \
	X(TORPOR, "Torpor", "")

enum ctl_variant {
#define X(id, name, why) CTL_##id,
	CTL_VARIANTS(X)
#undef X
		CTL__COUNT,
};

/* Commands below {"Torpor":{"v":1,"cmd":...}}. */
enum ctl_torpor { CTL_TORPOR_STATUS, CTL_TORPOR_TAKE, CTL_TORPOR_TAKE_STATUS };

struct ctl_request {
	enum ctl_variant variant;
	enum ctl_torpor torpor;       /* variant CTL_TORPOR */
	char tag[NAME_BYTES_MAX + 1]; /* SNAPSHOT and TORPOR_TAKE; "": none */
};

const char *ctl_variant_name(enum ctl_variant v);

/*
 * One packet. ERR_USAGE for what is no request, ERR_NOTFOUND for an unknown variant, ERR_NOT_NOW
 * for one that this VM has no device for.
 */
MUST_USE struct err *ctl_parse(const void *p, size_t len, struct ctl_request *ret_req);

/*
 * Answers; each is one JSON text in malloc'ed memory, at most CTL_PACKET_BYTES_MAX long. They do
 * not fail: without memory a constant answer is made (ctl_answer_free knows).
 */
char *ctl_answer_ok(void);
char *ctl_answer_error(const char *text); /* any bytes; those that JSON cannot carry become '?' */
char *ctl_answer_json(json_t *answer);    /* takes over the reference; NULL: out of memory */
void ctl_answer_free(char *answer);

#endif
