/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entry of the freestanding test guests: PVH (32-bit), multiboot 1 (32-bit) and the 64-bit Linux boot
 * protocol all end in ring 3, where a software KVM runs code at native speed. Ring 0 does as little
 * as it can: the page tables are laid out by the assembler, the rest is in rt.c.
 *
 * Interrupt stubs save the general registers only: ring 0 code is built without vector instructions,
 * so vector state of ring 3 stays live in the CPU across a handler.
 */
#define CS64 0x08
#define DS64 0x10
#define UDS (0x18 | 3)
#define UCS (0x20 | 3)
#define TSS_BSP 0x28
#define TSS_AP 0x38 /* and two more, 16 bytes each */
#define CS32 0x68

#ifdef GUEST_PVH
	.section .note.pvh, "a", @note
	.align 4
	.long 4, 8, 18 /* name and value length, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.quad pvh_start
#endif

#ifdef GUEST_MB
	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 3, -(0x1badb002 + 3)
#endif

	.section .text.start, "ax"
	.code32
	.globl pvh_start
pvh_start:
	movl $0, boot_kind
	jmp enter_long

	.globl mb_start
mb_start:
	movl $1, boot_kind
enter_long:
	cld
	movl %ebx, boot_info
	movl $long_start, %edi
	/* In: edi = where to go in 64-bit mode. */
switch_long:
	movl $pml4, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax /* LME */
	wrmsr
	movl %cr0, %eax
	andl $~0x6000000c, %eax /* CD, NW, TS, EM off */
	orl $0x80000003, %eax   /* PG, MP, PE */
	movl %eax, %cr0
	lgdt gdt_desc
	ljmp $CS64, $1f
	.code64
1:
	movl %edi, %edi
	jmp *%rdi

	/* 64-bit boot protocol: rsi = boot_params. The caller's tables map us; ours replace them. */
	.globl elf64_start
elf64_start:
	cld
	movl $2, boot_kind
	movl %esi, boot_info
	movl $pml4, %eax
	movq %rax, %cr3
	movq %cr4, %rax
	orl $0x620, %eax
	movq %rax, %cr4
	lgdt gdt_desc
	movl $kstack_top, %esp
	pushq $CS64
	pushq $long_start
	lretq

long_start:
	movl $DS64, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $kstack_top, %esp
	xorl %ebp, %ebp
	call rt_init_ring0
	movl $TSS_BSP, %eax
	ltr %ax
	lidt idt_desc
	movl $ustack_top, %ecx
	movl $rt_main, %edx
	jmp to_user

	/* In: ecx = user stack, edx = function that never returns. */
to_user:
	movl $UDS, %eax
	movl %eax, %ds
	movl %eax, %es
	pushq $UDS
	subl $8, %ecx
	pushq %rcx
	pushq $2
	pushq $UCS
	pushq %rdx
	iretq

	/* Application processors: the start-up code is copied to page 8 and entered at 0800:0000. */
	.code16
	.globl ap_start16, ap_start16_end
ap_start16:
	cli
	lgdtl %cs:(ap_gdt_desc - ap_start16)
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $CS32, $ap32
	.align 4
ap_gdt_desc:
	.word gdt_end - gdt - 1
	.long gdt
ap_start16_end:

	.code32
ap32:
	movl $DS64, %eax
	movl %eax, %ds
	movl $ap64, %edi
	jmp switch_long
	.code64
ap64:
	movl $DS64, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	/* Stacks and task state by the order of arrival: at most three application processors. */
	movl $1, %ebx
	lock xaddl %ebx, ap_arrived
	movl %ebx, %eax
	shll $12, %eax
	leal ap_kstacks+4096(%rax), %esp
	movl %ebx, %eax
	shll $4, %eax
	addl $TSS_AP, %eax
	ltr %ax
	lidt idt_desc
	shll $13, %ebx
	leal ap_ustacks+8192(%rbx), %ecx
	movl $rt_ap_main, %edx
	jmp to_user

	/* One 16-byte stub per vector. */
	.section .text, "ax"
	.align 16
	.globl isr_stubs
isr_stubs:
	.set vec, 0
	.rept 128
	.align 16
	.if !((vec == 8) || (vec >= 10 && vec <= 14) || (vec == 17) || (vec == 21))
	pushq $0
	.endif
	pushq $vec
	jmp isr_common
	.set vec, vec + 1
	.endr

isr_common:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	pushq %rbp
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, %rdi
	movq %rsp, %rbp
	andq $-16, %rsp
	call rt_isr
	movq %rbp, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rbp
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	addq $16, %rsp
	iretq

	.section .data, "aw"
	.align 16
	.globl gdt
gdt:
	.quad 0
	.quad 0x00209b0000000000 /* 08 code, ring 0 */
	.quad 0x00cf93000000ffff /* 10 data, ring 0 */
	.quad 0x00cff3000000ffff /* 18 data, ring 3 */
	.quad 0x0020fb0000000000 /* 20 code, ring 3 */
	.quad 0, 0               /* 28 task state, boot processor: filled by rt_init_ring0 */
	.quad 0, 0, 0, 0, 0, 0   /* 38, 48, 58 task state, application processors */
	.quad 0x00cf9b000000ffff /* 68 code, 32-bit, ring 0 */
gdt_end:
	.align 4
	.word 0
gdt_desc:
	.word gdt_end - gdt - 1
	.quad gdt
	.align 4
	.word 0
idt_desc:
	.word 128 * 16 - 1
	.quad idt

	.align 4
ap_arrived:
	.long 0

	.globl boot_kind, boot_info
	.align 8
boot_kind:
	.long 0
	.long 0
boot_info:
	.quad 0

	/* Identity map of 4 GiB in 2 MiB pages, open to ring 3; more is added by rt_map. */
	.section .tables, "aw"
	.align 4096
	.globl pml4, pdpt
pml4:
	.quad pdpt + 7
	.fill 511, 8, 0
pdpt:
	.quad pd + 7, pd + 0x1007, pd + 0x2007, pd + 0x3007
	.fill 508, 8, 0
pd:
	.set gpa, 0
	.rept 2048
	.quad gpa + 0xe7
	.set gpa, gpa + 0x200000
	.endr

	.section .bss, "aw", @nobits
	.align 4096
	.globl idt
idt:
	.skip 2048
	.align 16
	.skip 8192
kstack_top:
	.skip 16384
ustack_top:
	.globl ap_kstacks
ap_kstacks:
	.skip 3 * 4096
ap_ustacks:
	.skip 3 * 8192
	.globl kstack_top

	.section .note.GNU-stack, "", @progbits
