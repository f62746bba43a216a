/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One KVM virtual machine. See kvm_vm.h. Section numbers are those of Linux
 * Documentation/virt/kvm/api.rst. Built and freed on core's VM thread; interrupt lines from any.
 */
#include "core/kvm_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/base/io.h"
#include "core/kvm_cap.h"

#ifndef KVM_CAP_X86_TRIPLE_FAULT_EVENT
#define KVM_CAP_X86_TRIPLE_FAULT_EVENT 218
#endif

/*
 * Four pages KVM uses for itself on Intel hosts that cannot run real mode (4.27, 4.34): below the
 * BIOS area at the top of 4 GiB, so inside the device hole that gmem.h keeps free.
 */
#define IDENTITY_MAP_GPA 0xfffbc000ull
#define TSS_GPA 0xfffbd000ull

struct kvm_vm {
	int kvm; /* borrowed */
	struct fd fd;
	const struct gmem *gmem; /* borrowed */
	bool any_length;         /* KVM_CAP_IOEVENTFD_ANY_LENGTH */
	bool log_on;
	bool log_manual; /* a fetch clears nothing */
};

struct err *kvm_open(struct fd *ret_kvm)
{
	int n = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (n < 0) {
		switch (errno) {
		case ENOENT:
		case ENXIO:
		case ENODEV:
			return ERR_ERRNO("/dev/kvm: this host offers no KVM; load kvm_intel or "
					 "kvm_amd, or switch virtualization on in the firmware");
		case EACCES:
		case EPERM:
			return ERR_ERRNO("/dev/kvm: not allowed; join the group that owns it "
					 "(usually kvm) or run as root");
		default:
			return ERR_ERRNO("/dev/kvm");
		}
	}
	SCOPE(fd_close) struct fd fd = { n };
	int api = ioctl(fd.n, KVM_GET_API_VERSION, 0);
	ENSURE(api == KVM_API_VERSION, ERR_INCOMPAT,
	       "/dev/kvm speaks API version %d, not %d: another host kernel is needed", api,
	       KVM_API_VERSION);
	TRY(kvm_cap_check(fd.n));
	*ret_kvm = fd_move(&fd);
	return NULL;
}

/* 4.2. The call restarts when a signal cut it short. */
static struct err *create_vm(int kvm, struct fd *ret_fd)
{
	int n;
	do {
		n = ioctl(kvm, KVM_CREATE_VM, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return ERR_ERRNO("KVM_CREATE_VM");
	}
	ret_fd->n = n;
	return NULL;
}

/* 4.35. One slot per region, slot number = region number. */
static struct err *set_slots(struct kvm_vm *vm, uint32_t flags)
{
	for (unsigned i = 0; i < gmem_nregions(vm->gmem); i++) {
		struct gmem_region r = gmem_region(vm->gmem, i);
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.flags = flags,
			.guest_phys_addr = r.base.v,
			.memory_size = r.len_bytes,
			.userspace_addr = (uint64_t)(uintptr_t)r.host,
		};
		if (ioctl(vm->fd.n, KVM_SET_USER_MEMORY_REGION, &slot) < 0) {
			return ERR_ERRNO("KVM_SET_USER_MEMORY_REGION of %llu bytes at 0x%llx",
					 (unsigned long long)r.len_bytes,
					 (unsigned long long)r.base.v);
		}
	}
	return NULL;
}

/*
 * Two optional switches that make the vCPU's pending events complete (5.x of the capability list):
 * an exception with its payload, and a triple fault that has not been reported yet.
 */
static struct err *enable_caps(struct kvm_vm *vm)
{
	static const struct {
		int cap;
		const char *name;
	} wanted[] = {
		{ KVM_CAP_EXCEPTION_PAYLOAD, "EXCEPTION_PAYLOAD" },
		{ KVM_CAP_X86_TRIPLE_FAULT_EVENT, "X86_TRIPLE_FAULT_EVENT" },
	};
	for (unsigned i = 0; i < ARRAY_LEN(wanted); i++) {
		if (kvm_cap_value(vm->fd.n, wanted[i].cap) == 0) {
			continue;
		}
		struct kvm_enable_cap c = { .cap = (uint32_t)wanted[i].cap, .args = { 1 } };
		if (ioctl(vm->fd.n, KVM_ENABLE_CAP, &c) < 0) {
			return ERR_ERRNO("KVM_ENABLE_CAP %s", wanted[i].name);
		}
	}
	return NULL;
}

/* ---- the dirty log ---- */

/*
 * Manual clearing and, if asked for, "everything is dirty" at the start
 * (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2). It may be set again at any time; what it says counts for
 * slots whose log starts later.
 */
static struct err *log_mode(struct kvm_vm *vm, bool all_dirty)
{
	int can = kvm_cap_value(vm->fd.n, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	uint64_t want = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			(all_dirty ? (uint64_t)KVM_DIRTY_LOG_INITIALLY_SET : 0);
	vm->log_manual = can > 0 && ((uint64_t)can & want) == want;
	if (!vm->log_manual) {
		return NULL;
	}
	struct kvm_enable_cap c = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { want } };
	if (ioctl(vm->fd.n, KVM_ENABLE_CAP, &c) < 0) {
		return ERR_ERRNO("KVM_ENABLE_CAP MANUAL_DIRTY_LOG_PROTECT2");
	}
	return NULL;
}

bool kvm_vm_log_on(const struct kvm_vm *vm)
{
	return vm->log_on;
}

struct err *kvm_vm_log_start(struct kvm_vm *vm)
{
	BUG_ON(vm->log_on);
	TRY(log_mode(vm, true));
	TRY(set_slots(vm, KVM_MEM_LOG_DIRTY_PAGES));
	vm->log_on = true;
	return NULL;
}

/* 4.8 */
struct err *kvm_vm_log_fetch(struct kvm_vm *vm, unsigned region, uint64_t *bits)
{
	struct kvm_dirty_log l = { .slot = region, .dirty_bitmap = bits };
	BUG_ON(!vm->log_on || region >= gmem_nregions(vm->gmem));
	if (ioctl(vm->fd.n, KVM_GET_DIRTY_LOG, &l) < 0) {
		return ERR_ERRNO("KVM_GET_DIRTY_LOG of region %u", region);
	}
	return NULL;
}

/* 4.117 */
struct err *kvm_vm_log_clear(struct kvm_vm *vm, unsigned region, uint64_t first, uint64_t npages,
			     const uint64_t *bits)
{
	uint64_t total = gmem_region(vm->gmem, region).len_bytes / PAGE_BYTES;
	BUG_ON(!vm->log_on || first % 64 != 0 || npages > UINT32_MAX || first + npages > total ||
	       (npages % 64 != 0 && first + npages != total));
	if (!vm->log_manual) {
		return NULL;
	}
	struct kvm_clear_dirty_log l = {
		.slot = region,
		.num_pages = (uint32_t)npages,
		.first_page = first,
		.dirty_bitmap = (void *)(uintptr_t)(bits + first / 64), /* only read */
	};
	if (ioctl(vm->fd.n, KVM_CLEAR_DIRTY_LOG, &l) < 0) {
		return ERR_ERRNO("KVM_CLEAR_DIRTY_LOG of %llu pages from %llu in region %u",
				 (unsigned long long)npages, (unsigned long long)first, region);
	}
	return NULL;
}

/* ---- building ---- */

static struct err *vm_new(int kvm, const struct gmem *gmem, bool logged, struct kvm_vm **ret_vm)
{
	SCOPE(kvm_vm_freep) struct kvm_vm *vm = calloc(1, sizeof(*vm));
	ENSURE(vm != NULL, ERR_SYS, "KVM VM: out of memory");
	vm->kvm = kvm;
	vm->gmem = gmem;
	vm->fd = FD_NONE;
	TRY(create_vm(kvm, &vm->fd));
	uint64_t identity = IDENTITY_MAP_GPA;
	if (ioctl(vm->fd.n, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0) {
		return ERR_ERRNO("KVM_SET_IDENTITY_MAP_ADDR");
	}
	if (ioctl(vm->fd.n, KVM_SET_TSS_ADDR, TSS_GPA) < 0) {
		return ERR_ERRNO("KVM_SET_TSS_ADDR");
	}
	TRY(enable_caps(vm));
	vm->any_length = kvm_cap_value(vm->fd.n, KVM_CAP_IOEVENTFD_ANY_LENGTH) != 0;
	if (logged) {
		TRY(log_mode(vm, false));
	}
	TRY(set_slots(vm, logged ? KVM_MEM_LOG_DIRTY_PAGES : 0));
	vm->log_on = logged;
	if (ioctl(vm->fd.n, KVM_CREATE_IRQCHIP, 0) < 0) {
		return ERR_ERRNO("KVM_CREATE_IRQCHIP");
	}
	/* The dummy speaker gives port 0x61, whose gate bit kernels use to calibrate the TSC. */
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	if (ioctl(vm->fd.n, KVM_CREATE_PIT2, &pit) < 0) {
		return ERR_ERRNO("KVM_CREATE_PIT2");
	}
	*ret_vm = MOVE(vm);
	return NULL;
}

struct err *kvm_vm_new(int kvm, const struct gmem *gmem, struct kvm_vm **ret_vm)
{
	return vm_new(kvm, gmem, false, ret_vm);
}

struct err *kvm_vm_new_logged(int kvm, const struct gmem *gmem, struct kvm_vm **ret_vm)
{
	return vm_new(kvm, gmem, true, ret_vm);
}

void kvm_vm_free(struct kvm_vm *vm)
{
	if (vm != NULL) {
		fd_close(&vm->fd);
		free(vm);
	}
}

int kvm_vm_fd(const struct kvm_vm *vm)
{
	return vm->fd.n;
}

int kvm_vm_kvm(const struct kvm_vm *vm)
{
	return vm->kvm;
}

const struct gmem *kvm_vm_gmem(const struct kvm_vm *vm)
{
	return vm->gmem;
}

/* 4.25. */
struct err *kvm_vm_irq_line(struct kvm_vm *vm, unsigned gsi, bool level)
{
	struct kvm_irq_level line = { .irq = gsi, .level = level ? 1 : 0 };
	if (ioctl(vm->fd.n, KVM_IRQ_LINE, &line) < 0) {
		return ERR_ERRNO("KVM_IRQ_LINE of GSI %u", gsi);
	}
	return NULL;
}

/* 4.70. Returns 0 when the guest's own masks kept it out, as on hardware: no error. */
struct err *kvm_vm_msi(struct kvm_vm *vm, uint64_t addr, uint32_t data)
{
	struct kvm_msi msi = {
		.address_lo = (uint32_t)addr,
		.address_hi = (uint32_t)(addr >> 32),
		.data = data,
	};
	if (ioctl(vm->fd.n, KVM_SIGNAL_MSI, &msi) < 0) {
		return ERR_ERRNO("KVM_SIGNAL_MSI 0x%x to 0x%llx", data, (unsigned long long)addr);
	}
	return NULL;
}

/* 4.59. Length 0 matches any width (KVM_CAP_IOEVENTFD_ANY_LENGTH), and is fast on VMX. */
struct err *kvm_vm_ioeventfd(struct kvm_vm *vm, int fd, uint64_t gpa, bool on)
{
	ENSURE(vm->any_length, ERR_INCOMPAT, "KVM takes no doorbell of any width");
	struct kvm_ioeventfd io = {
		.addr = gpa,
		.fd = fd,
		.flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
	};
	if (ioctl(vm->fd.n, KVM_IOEVENTFD, &io) < 0) {
		return ERR_ERRNO("KVM_IOEVENTFD at 0x%llx", (unsigned long long)gpa);
	}
	return NULL;
}

/* 4.29. The flags say which of the optional members are filled. */
struct err *kvm_vm_clock_get(struct kvm_vm *vm, struct kvm_clock_state *ret)
{
	struct kvm_clock_data d;
	memset(&d, 0, sizeof(d));
	if (ioctl(vm->fd.n, KVM_GET_CLOCK, &d) < 0) {
		return ERR_ERRNO("KVM_GET_CLOCK");
	}
	*ret = (struct kvm_clock_state){
		.clock_ns = d.clock,
		.realtime_ns = (d.flags & KVM_CLOCK_REALTIME) != 0 ? d.realtime : 0,
		.host_tsc = (d.flags & KVM_CLOCK_HOST_TSC) != 0 ? d.host_tsc : 0,
	};
	return NULL;
}

/* 4.30. No flags: wall time is the caller's policy, not KVM's. */
struct err *kvm_vm_clock_set(struct kvm_vm *vm, uint64_t clock_ns)
{
	struct kvm_clock_data d;
	memset(&d, 0, sizeof(d));
	d.clock = clock_ns;
	if (ioctl(vm->fd.n, KVM_SET_CLOCK, &d) < 0) {
		return ERR_ERRNO("KVM_SET_CLOCK to %llu ns", (unsigned long long)clock_ns);
	}
	return NULL;
}
