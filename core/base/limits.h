/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every limit of torpor, with unit and reason. A length from outside is checked against one of
 * these before memory is asked for.
 */
#ifndef TORPOR_BASE_LIMITS_H
#define TORPOR_BASE_LIMITS_H

#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)

#define PAGE_BYTES 4096u /* the guest page of x86-64 and the unit of the store */
#define PAGE_SHIFT 12u

#define VCPUS_MAX 64u             /* what MADT and the tests cover */
#define GMEM_MIN_BYTES (16 * MIB) /* below this no supported kernel unpacks */
#define NAME_BYTES_MAX 64u        /* VM names and tags: socket path room (108) less the folder */
#define REF_BYTES_MAX (2 * NAME_BYTES_MAX + 1) /* NAME@TAG */
#define CTL_PACKET_BYTES_MAX (128 * KIB)       /* a request or answer on the control socket */
#define CTL_FDS_MAX 32u                        /* descriptors in one packet, as crosvm's default */
#define CMDLINE_BYTES_MAX 4096u /* Linux x86 COMMAND_LINE_SIZE is 2048; multiboot has no limit */
#define KERNEL_FILE_BYTES_MAX (1 * GIB) /* a kernel file or what it unpacks to */
#define INITRD_BYTES_MAX (8 * GIB)
#define PART_BYTES_MAX (1 * MIB)    /* one encoded part record */
#define PARTS_MAX 4096u             /* part records in one snapshot */
#define BLOB_BYTES_MAX (4 * MIB)    /* one opaque blob in the store */
#define MSRS_MAX 512u               /* MSR entries saved per vCPU */
#define CPUID_MAX 256u              /* CPUID entries: KVM_MAX_CPUID_ENTRIES */
#define XSAVE_BYTES_MAX (64 * KIB)  /* KVM_GET_XSAVE2 area: AMX needs 11 KiB today */
#define TAKE_BATCH_BYTES (32 * MIB) /* one LMDB write transaction of a take, see docs/store.md */

#endif
