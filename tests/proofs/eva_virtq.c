/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proof of the ring walk: a device's side of a virtqueue, with any registers and any contents of
 * guest memory, which may change between two reads, touches nothing outside memory or its own
 * objects, and a chain that pop returned holds what virtq.c's I2 says. Guest memory is one region
 * of MEM bytes; what lies in it is never the same twice. Parsed by Frama-C only (tests/proofs/run).
 */
#include "__fc_builtin.h"
#include "devices/virtq.h"

enum { MEM = 1 << 16 };
static uint8_t mem[MEM];
static struct virtq q;
static struct virtq_chain c;

struct err {
	int unused;
};
static struct err no_ram;

void *gmem_at(const struct gmem *g, gpa_t gpa, uint64_t len)
{
	if (gpa.v > MEM || len > MEM - gpa.v) {
		return NULL;
	}
	Frama_C_make_unknown((char *)mem, sizeof(mem)); /* the guest runs */
	return mem + gpa.v;
}

struct err *gmem_write(struct gmem *g, gpa_t gpa, const void *p, uint64_t len)
{
	uint8_t *to = gmem_at(g, gpa, len);
	if (to == NULL) {
		return &no_ram;
	}
	memcpy(to, p, len);
	return NULL;
}

struct err *gmem_read(const struct gmem *g, gpa_t gpa, void *ret, uint64_t len)
{
	const uint8_t *from = gmem_at(g, gpa, len);
	if (from == NULL) {
		return &no_ram;
	}
	memcpy(ret, from, len);
	return NULL;
}

void gmem_mark_dirty(struct gmem *g, gpa_t gpa, uint64_t len)
{
}

void err_drop(struct err *e, const char *why)
{
}

/* Any registers that a driver can write. */
static void any_registers(void)
{
	Frama_C_make_unknown((char *)&q.st.desc, sizeof(q.st.desc));
	Frama_C_make_unknown((char *)&q.st.avail, sizeof(q.st.avail));
	Frama_C_make_unknown((char *)&q.st.used, sizeof(q.st.used));
	q.st.size = Frama_C_unsigned_short_interval(0, UINT16_MAX);
	virtq_start(&q);
}

/* A ring of that size at the end of memory, with any indices and any contents. */
static void any_ring(uint16_t size)
{
	q.st.desc = MEM - 16 * size;
	q.st.avail = MEM - 16 * size - (6 + 2 * size);
	q.st.used = (MEM - 16 * size - (6 + 2 * size) - (6 + 8 * size)) & ~3ull;
	q.st.size = size;
	virtq_start(&q);
	/*@ assert it_is_sound: q.bad == \null; */
	q.st.next_avail = Frama_C_unsigned_short_interval(0, UINT16_MAX);
	q.st.next_used = Frama_C_unsigned_short_interval(0, UINT16_MAX);
	q.st.told_used = Frama_C_unsigned_short_interval(0, UINT16_MAX);
	virtq_waiting(&q);
	virtq_kicks(&q, Frama_C_nondet(0, 1));
	if (virtq_pop(&q, &c) == VIRTQ_GOT) {
		Frama_C_show_each_decoded(c.nread, c.nwrite);
		virtq_push(&q, c.head, Frama_C_unsigned_int_interval(0, UINT32_MAX));
	}
	virtq_wants_irq(&q);
}

void main(void)
{
	q.st.ready = true;
	q.st.told = Frama_C_nondet(0, 1);
	q.event_idx = Frama_C_nondet(0, 1);
	q.indirect = Frama_C_nondet(0, 1);
#ifdef RING
	any_ring(RING);
#else
	any_registers();
#endif
}
