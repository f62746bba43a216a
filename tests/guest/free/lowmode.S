/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stage guests without paging: stage=prot32 stays in 32-bit protected mode as PVH enters it,
 * stage=real16 goes back to real mode. Each fills its registers and segments with a pattern, takes
 * timer interrupts by its own descriptor or vector table, says 1 on the sync port (0x5e0), waits
 * while the port reads 0, and compares. 0xd0: all as it was, 0xf1: not.
 */
#define SYNC 0x5e0
#define DONE 0xd0
#define FAIL 0xf1
#define VEC_PIC 0x30
#define CODE32 0x08
#define DATA32 0x10
#define ODD32 0x18 /* base 0x20000, 64 KiB */
#define CODE16 0x20
#define DATA16 0x28

	.section .note.pvh, "a", @note
	.align 4
	.long 4, 8, 18
	.asciz "Xen"
	.quad start

	.section .text.start, "ax"
	.code32
	.globl start
start:
	cld
	movl 24(%ebx), %esi /* hvm_start_info: the command line "stage=..." */
	movb 6(%esi), %dl
	lgdt gdt_desc
	ljmp $CODE32, $1f
1:
	movl $DATA32, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $stack_top, %esp
	/* 8259 at VEC_PIC, only IRQ 0; PIT channel 0 in mode 2 at 100 Hz. */
	movb $0x11, %al
	outb %al, $0x20
	movb $VEC_PIC, %al
	outb %al, $0x21
	movb $4, %al
	outb %al, $0x21
	movb $1, %al
	outb %al, $0x21
	movb $0xfe, %al
	outb %al, $0x21
	movl $0x17f, 0xfee000f0 /* a local APIC that is off keeps its entries masked */
	movl $0x700, 0xfee00350 /* ExtINT */
	movb $0x34, %al
	outb %al, $0x43
	movb $0x9c, %al
	outb %al, $0x40
	movb $0x2e, %al
	outb %al, $0x40
	cmpb $'r', %dl
	je to_real

	movl $tick32, %eax
	movw %ax, idt+8*VEC_PIC
	movw $CODE32, idt+8*VEC_PIC+2
	movw $0x8e00, idt+8*VEC_PIC+4
	shrl $16, %eax
	movw %ax, idt+8*VEC_PIC+6
	lidt idt_desc
	movl $ODD32, %eax
	movl %eax, %fs
	movl $0x5a5aa5a5, %fs:0x1234
	movl $0x11112222, %ebx
	movl $0x33334444, %ecx
	movl $0x55556666, %esi
	movl $0x77778888, %edi
	movl $0x9999aaaa, %ebp
	sti
2:	cmpl $2, ticks
	jb 2b
	movl $SYNC, %edx
	movb $1, %al
	outb %al, %dx
3:	inb %dx, %al
	testb %al, %al
	jz 3b
	cmpl $0x11112222, %ebx
	jne bad
	cmpl $0x33334444, %ecx
	jne bad
	cmpl $0x55556666, %esi
	jne bad
	cmpl $0x77778888, %edi
	jne bad
	cmpl $0x9999aaaa, %ebp
	jne bad
	cmpl $0x5a5aa5a5, %fs:0x1234
	jne bad
	cmpl $0x5a5aa5a5, 0x21234
	jne bad
	movl ticks, %ecx
	addl $3, %ecx
4:	cmpl %ecx, ticks
	jb 4b
	movb $DONE, %al
	jmp say32
bad:
	movb $FAIL, %al
say32:
	movl $SYNC, %edx
	outb %al, %dx
5:	hlt
	jmp 5b

tick32:
	pushl %eax
	incl ticks
	movb $0x20, %al
	outb %al, $0x20
	popl %eax
	/* A software KVM interprets no iretl: flags first, then a far return past them. */
	pushl 8(%esp)
	popfl
	lretl $4

	/* The 16-bit code is copied to 0x8000 and entered through a 16-bit segment. */
to_real:
	movl $real_code, %esi
	movl $0x8000, %edi
	movl $real_end - real_code, %ecx
	rep movsb
	lidt real_idt
	ljmp $CODE16, $0x8000

	.code16
real_code:
	movw $DATA16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl %cr0, %eax
	andl $~1, %eax
	movl %eax, %cr0
	ljmp $0x800, $(real_far - real_code)
real_far:
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw $0x7000, %sp
	movw $(tick16 - real_code), 4*VEC_PIC
	movw $0x800, 4*VEC_PIC+2
	movl $0, 0x6000
	movw $0x2345, %ax
	movw %ax, %es
	movl $0x5a5aa5a5, %es:0x10
	movl $0x11112222, %ebx
	movl $0x33334444, %ecx
	movl $0x55556666, %esi
	movl $0x77778888, %edi
	movl $0x9999aaaa, %ebp
	sti
1:	cmpl $2, 0x6000
	jb 1b
	movw $SYNC, %dx
	movb $1, %al
	outb %al, %dx
2:	inb %dx, %al
	testb %al, %al
	jz 2b
	movw $FAIL, %ax
	cmpl $0x11112222, %ebx
	jne 9f
	cmpl $0x33334444, %ecx
	jne 9f
	cmpl $0x55556666, %esi
	jne 9f
	cmpl $0x77778888, %edi
	jne 9f
	cmpl $0x9999aaaa, %ebp
	jne 9f
	movw %es, %cx
	cmpw $0x2345, %cx
	jne 9f
	cmpl $0x5a5aa5a5, %es:0x10
	jne 9f
	movl 0x6000, %ecx
	addl $3, %ecx
3:	cmpl %ecx, 0x6000
	jb 3b
	movw $DONE, %ax
9:	movw $SYNC, %dx
	outb %al, %dx
4:	hlt
	jmp 4b

tick16:
	pushw %ax
	pushw %ds
	xorw %ax, %ax
	movw %ax, %ds
	incl 0x6000
	movb $0x20, %al
	outb %al, $0x20
	popw %ds
	popw %ax
	iretw
real_end:

	.section .data, "aw"
	.align 8
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff
	.quad 0x00cf93000000ffff
	.quad 0x004093020000ffff /* base 0x20000, limit 64 KiB */
	.quad 0x00009b000000ffff
	.quad 0x000093000000ffff
gdt_desc:
	.word gdt_desc - gdt - 1
	.long gdt
	.align 4
idt_desc:
	.word 64 * 8 - 1
	.long idt
	.align 4
real_idt:
	.word 0x3ff
	.long 0
	.align 4
ticks:
	.long 0
	.align 8
idt:
	.fill 64, 8, 0

	.section .bss, "aw", @nobits
	.align 16
	.skip 4096
stack_top:

	.section .note.GNU-stack, "", @progbits
