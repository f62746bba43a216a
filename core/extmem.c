/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of clients in the guest. See extmem.h. Called by life.
 *
 * I1: a region is page-aligned, not empty, inside its sealed file, and overlaps neither RAM, nor
 * the device hole below 4 GiB, nor another region.
 */
#include "core/extmem.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct ext_region {
	uint64_t start;
	uint64_t len_bytes; /* 0: the place is free */
	void *host;         /* owned mapping */
};

struct extmem {
	struct ext_region r[EXTMEM_MAX]; /* index + KVM_SLOT_FIRST_FREE is the KVM slot */
};

struct err *extmem_new(struct extmem **ret_x)
{
	struct extmem *x = calloc(1, sizeof(*x));
	ENSURE(x != NULL, ERR_SYS, "out of memory");
	*ret_x = x;
	return NULL;
}

static void unmap(struct ext_region *r)
{
	if (r->len_bytes != 0) {
		munmap(r->host, r->len_bytes);
		*r = (struct ext_region){ 0 };
	}
}

void extmem_free(struct extmem *x)
{
	if (x == NULL) {
		return;
	}
	for (unsigned i = 0; i < EXTMEM_MAX; i++) {
		unmap(&x->r[i]);
	}
	free(x);
}

/* One past the highest physical address of this host's CPUs: no guest gets further. */
static uint64_t physical_end(void)
{
	unsigned eax = 0;
	unsigned ebx;
	unsigned ecx;
	unsigned edx;
	if (__get_cpuid(0x80000008u, &eax, &ebx, &ecx, &edx) == 0 || (eax & 0xff) < 36) {
		return 1ull << 36;
	}
	return 1ull << MIN(eax & 0xff, 52u);
}

static bool overlaps(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end)
{
	return a < b_end && b < a_end;
}

static struct err *check_range(const struct extmem *x, const struct gmem *gmem, uint64_t offset,
			       uint64_t start, uint64_t end)
{
	ENSURE(start < end, ERR_USAGE, "RegisterMemory: the range 0x%llx to 0x%llx is empty",
	       (unsigned long long)start, (unsigned long long)end);
	ENSURE(start % PAGE_BYTES == 0 && end % PAGE_BYTES == 0 && offset % PAGE_BYTES == 0,
	       ERR_USAGE, "RegisterMemory: range and offset must be multiples of %u", PAGE_BYTES);
	ENSURE(end <= physical_end(), ERR_USAGE,
	       "RegisterMemory: 0x%llx is beyond the guest's physical addresses, which end at "
	       "0x%llx",
	       (unsigned long long)end, (unsigned long long)physical_end());
	for (unsigned i = 0; i < gmem_nregions(gmem); i++) {
		struct gmem_region r = gmem_region(gmem, i);
		ENSURE(!overlaps(start, end, r.base.v, r.base.v + r.len_bytes), ERR_NOT_NOW,
		       "RegisterMemory: the guest's RAM lies at 0x%llx to 0x%llx: choose a range "
		       "beside it",
		       (unsigned long long)r.base.v, (unsigned long long)(r.base.v + r.len_bytes));
	}
	ENSURE(!overlaps(start, end, GMEM_LOW_END, GMEM_HIGH_START), ERR_NOT_NOW,
	       "RegisterMemory: 0x%llx to 0x%llx is kept for devices: choose a range beside it",
	       (unsigned long long)GMEM_LOW_END, (unsigned long long)GMEM_HIGH_START);
	for (unsigned i = 0; i < EXTMEM_MAX; i++) {
		const struct ext_region *r = &x->r[i];
		ENSURE(r->len_bytes == 0 ||
			       !overlaps(start, end, r->start, r->start + r->len_bytes),
		       ERR_NOT_NOW,
		       "RegisterMemory: the region 0x%llx of %llu bytes is there already",
		       (unsigned long long)r->start, (unsigned long long)r->len_bytes);
	}
	return NULL;
}

/* The file has the bytes and cannot lose them. */
static struct err *check_file(int fd, uint64_t offset, uint64_t len_bytes)
{
	int seals = fcntl(fd, F_GET_SEALS);
	ENSURE(seals >= 0, ERR_USAGE,
	       "RegisterMemory: the descriptor is no memfd: make it with memfd_create and "
	       "MFD_ALLOW_SEALING");
	if ((seals & F_SEAL_SHRINK) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
		return ERR_ERRNO("RegisterMemory: the memfd cannot be sealed against shrinking: "
				 "make it with MFD_ALLOW_SEALING");
	}
	/* After the seal: from here on it only grows. */
	struct stat st;
	if (fstat(fd, &st) != 0) {
		return ERR_ERRNO("RegisterMemory: the size of the memfd");
	}
	uint64_t last;
	ENSURE(!ADD_OVERFLOWS(offset, len_bytes, &last) && last <= (uint64_t)st.st_size, ERR_USAGE,
	       "RegisterMemory: the memfd has %llu bytes, not %llu from %llu on",
	       (unsigned long long)st.st_size, (unsigned long long)len_bytes,
	       (unsigned long long)offset);
	return NULL;
}

static struct err *attach(const struct extmem *x, struct kvm_vm *vm, unsigned i)
{
	const struct ext_region *r = &x->r[i];
	return kvm_slot_set(vm, KVM_SLOT_FIRST_FREE + i, r->start, r->len_bytes, r->host);
}

struct err *extmem_add(struct extmem *x, struct kvm_vm *vm, int fd, uint64_t offset, uint64_t start,
		       uint64_t end)
{
	unsigned i = 0;
	while (i < EXTMEM_MAX && x->r[i].len_bytes != 0) {
		i++;
	}
	ENSURE(i < EXTMEM_MAX, ERR_LIMIT,
	       "RegisterMemory: %d regions are registered already: unregister one", EXTMEM_MAX);
	TRY(check_range(x, kvm_vm_gmem(vm), offset, start, end));
	TRY(check_file(fd, offset, end - start));
	void *host = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
	if (host == MAP_FAILED) {
		return ERR_ERRNO("RegisterMemory: mapping the memfd");
	}
	x->r[i] = (struct ext_region){ start, end - start, host };
	struct err *e = attach(x, vm, i);
	if (e != NULL) {
		unmap(&x->r[i]);
	}
	return err_wrap(e, "RegisterMemory");
}

struct err *extmem_remove(struct extmem *x, struct kvm_vm *vm, uint64_t start)
{
	for (unsigned i = 0; i < EXTMEM_MAX; i++) {
		struct ext_region *r = &x->r[i];
		if (r->len_bytes == 0 || r->start != start) {
			continue;
		}
		/* KVM lets go of the mapping first. */
		TRY(kvm_slot_set(vm, KVM_SLOT_FIRST_FREE + i, r->start, 0, NULL));
		unmap(r);
		return NULL;
	}
	return ERR(ERR_NOTFOUND, "UnregisterMemory: there is no region %llu",
		   (unsigned long long)start);
}

struct err *extmem_attach(struct extmem *x, struct kvm_vm *vm)
{
	for (unsigned i = 0; i < EXTMEM_MAX; i++) {
		if (x->r[i].len_bytes != 0) {
			TRY(attach(x, vm, i));
		}
	}
	return NULL;
}

unsigned extmem_count(const struct extmem *x, uint64_t *ret_first)
{
	unsigned n = 0;
	for (unsigned i = 0; i < EXTMEM_MAX; i++) {
		if (x->r[i].len_bytes != 0) {
			*ret_first = n == 0 ? x->r[i].start : MIN(*ret_first, x->r[i].start);
			n++;
		}
	}
	return n;
}
