/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of devices/virtio.c and virtio_pci.c through the simplest device, devices/virtio_rng.c:
 * negotiation, queues, interrupts both ways, doorbells, resets, hostile drivers, saved state.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "devices/virtio_rng.h"
#include "tests/lib/fake_driver.h"

enum { DATA = 0x200000 };

static void begin(struct fake_driver *d)
{
	struct pci_dev *p = NULL;
	fd_init(d);
	ok_(virtio_rng_new(&d->host.host, "rng0", &p));
	fd_plug(d, p);
}

static bool any_byte(struct fake_driver *d, uint64_t gpa, size_t len)
{
	uint8_t buf[4096];
	ok_(gmem_read(d->g, GPA(gpa), buf, len));
	for (size_t i = 0; i < len; i++) {
		if (buf[i] != 0) {
			return true;
		}
	}
	return false;
}

static void ask(struct fake_driver *d, uint32_t len)
{
	fd_desc(d, 0, 0, DATA, len, FD_WRITE, 0);
	fd_offer(d, 0, 0, true);
	fake_loop(&d->host);
}

static void test_identity(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	assert_int_equal(fd_ecam(&d, PCI_VENDOR_ID, 4), 0x10441af4);
	assert_int_equal(fd_ecam(&d, PCI_REVISION, 1), 1);
	/* The five capabilities of virtio and MSI-X; each of virtio's inside the BAR. */
	unsigned kinds = 0;
	for (unsigned at = (unsigned)fd_ecam(&d, PCI_CAP_POINTER, 1); at != 0;
	     at = (unsigned)fd_ecam(&d, at + 1, 1)) {
		if (fd_ecam(&d, at, 1) == PCI_CAP_VENDOR) {
			kinds |= 1u << fd_ecam(&d, at + 3, 1);
			assert_true(fd_ecam(&d, at + 8, 4) + fd_ecam(&d, at + 12, 4) <= 0x8000);
		}
	}
	assert_int_equal(kinds, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5); /* it has no configuration */
	assert_int_equal(fd_features(&d), VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC |
						  VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_RESET);
	assert_int_equal(fd_get(&d, 0x12, 2), 1);
	/* A queue that there is not has size 0. */
	fd_put(&d, 0x16, 2, 1);
	assert_int_equal(fd_get(&d, 0x18, 2), 0);
	fd_done(&d);
}

static void test_traffic(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	fd_start(&d, 1, 0);
	ask(&d, 64);
	uint32_t head, len;
	assert_true(fd_take(&d, 0, &head, &len));
	assert_int_equal(len, 64);
	assert_true(any_byte(&d, DATA, 64));
	assert_false(any_byte(&d, DATA + 64, 64));
	assert_int_equal(d.host.nmsi, 1);
	assert_int_equal(d.host.msi_data, 0x40);
	assert_int_equal(d.host.msi_addr, 0xfee00000);
	assert_int_equal(d.host.ndoorbells, 1);
	assert_int_equal(d.host.doorbell_gpa, d.bar + FD_NOTIFY);
	/* Masked: pending, told when the mask goes. */
	fd_put(&d, FD_MSIX + 12, 4, 1);
	ask(&d, 8);
	assert_int_equal(d.host.nmsi, 1);
	assert_int_equal(fd_get(&d, 0x5000, 8), 1);
	fd_put(&d, FD_MSIX + 12, 4, 0);
	assert_int_equal(d.host.nmsi, 2);
	assert_int_equal(fd_get(&d, 0x5000, 8), 0);
	fd_done(&d);
}

static void test_intx(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	assert_int_equal(fd_agree(&d, VIRTIO_F_VERSION_1), 0xb);
	fd_queue(&d, 0, 8, VIRTIO_NO_VECTOR);
	fd_put(&d, 0x14, 1, 0xf);
	ask(&d, 16);
	unsigned gsi = PCI_GSI_BASE + FD_SLOT % PCI_GSIS;
	assert_true(d.host.level[gsi]);
	assert_int_equal(fd_ecam(&d, PCI_INT_PIN, 1), 1);
	assert_true((fd_ecam(&d, PCI_STATUS, 2) & PCI_STS_INTX) != 0);
	/* The interrupt-disable bit takes the line down and up again. */
	fd_ecam_put(&d, PCI_COMMAND, 2, PCI_CMD_MEMORY | PCI_CMD_MASTER | PCI_CMD_INTX_OFF);
	assert_false(d.host.level[gsi]);
	fd_ecam_put(&d, PCI_COMMAND, 2, PCI_CMD_MEMORY | PCI_CMD_MASTER);
	assert_true(d.host.level[gsi]);
	assert_int_equal(fd_get(&d, FD_ISR, 1), 1); /* reading clears */
	assert_false(d.host.level[gsi]);
	assert_int_equal(fd_get(&d, FD_ISR, 1), 0);
	ask(&d, 16);
	assert_true(d.host.level[gsi]);
	fd_put(&d, 0x14, 1, 0); /* a reset takes it down */
	assert_false(d.host.level[gsi]);
	assert_int_equal(d.host.nmsi, 0);
	fd_done(&d);
}

static void test_negotiation(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	assert_int_equal(fd_agree(&d, 0), 3);                           /* no VERSION_1 */
	assert_int_equal(fd_agree(&d, VIRTIO_F_VERSION_1 | 1 << 5), 3); /* never offered */
	assert_int_equal(fd_agree(&d, VIRTIO_F_VERSION_1 | 1ull << 63), 3);
	/* Features do not change after FEATURES_OK. */
	assert_int_equal(fd_agree(&d, VIRTIO_F_VERSION_1), 0xb);
	fd_put(&d, 0x08, 4, 0);
	fd_put(&d, 0x0c, 4, 0xffffffff);
	assert_int_equal(fd_get(&d, 0x0c, 4), 0);
	/* A driver that starts before it agreed on features, or enables a queue. */
	fd_put(&d, 0x14, 1, 0);
	fd_put(&d, 0x14, 1, 7);
	assert_int_equal(fd_get(&d, 0x14, 1), 7 | VIRTIO_STATUS_NEEDS_RESET);
	fd_put(&d, 0x14, 1, 0);
	fd_put(&d, 0x14, 1, 3);
	fd_queue(&d, 0, 8, 0);
	assert_int_equal(fd_get(&d, 0x14, 1), 3 | VIRTIO_STATUS_NEEDS_RESET);
	/* Widths that no field has change nothing, and vectors that do not exist read as none. */
	fd_agree(&d, VIRTIO_F_VERSION_1);
	fd_put(&d, 0x16, 2, 0);
	fd_put(&d, 0x18, 1, 4);
	fd_put(&d, 0x20, 2, 0xffff);
	fd_put(&d, 0x1a, 2, 7);
	assert_int_equal(fd_get(&d, 0x18, 2), 64);
	assert_int_equal(fd_get(&d, 0x20, 8), 0);
	assert_int_equal(fd_get(&d, 0x1a, 2), VIRTIO_NO_VECTOR);
	fd_done(&d);
}

static void test_hostile(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	/* A ring outside memory. */
	fd_agree(&d, VIRTIO_F_VERSION_1);
	fd_put(&d, 0x16, 2, 0);
	fd_put(&d, 0x20, 8, 0xfee00000);
	fd_put(&d, 0x1c, 2, 1);
	assert_true((fd_get(&d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET) != 0);
	assert_int_equal(d.host.nbroken, 1);
	assert_non_null(d.host.broken);
	fd_put(&d, 0x1c, 2, 1); /* told once */
	assert_int_equal(d.host.nbroken, 1);
	/* A loop: the device stops, says so by its configuration vector, and works after a reset.
	 */
	fd_start(&d, 1, 0);
	fd_msix(&d, 1, 0x77);
	fd_put(&d, 0x10, 2, 1);
	fd_desc(&d, 0, 0, DATA, 16, FD_WRITE | FD_NEXT, 0);
	fd_offer(&d, 0, 0, true);
	fake_loop(&d.host);
	assert_true((fd_get(&d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET) != 0);
	assert_int_equal(d.host.msi_data, 0x77);
	assert_int_equal(d.host.nbroken, 2);
	assert_int_equal(fd_used_index(&d, 0), 0);
	fd_start(&d, 1, 0);
	ask(&d, 16);
	assert_int_equal(fd_used_index(&d, 0), 1);
	/* A request without room. */
	fd_desc(&d, 0, 1, DATA, 16, 0, 0);
	fd_offer(&d, 0, 1, true);
	fake_loop(&d.host);
	assert_true((fd_get(&d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET) != 0);
	/* Registers everywhere, in every width: nothing but refusals. */
	for (unsigned off = 0; off < 0x8000; off += 1) {
		for (unsigned len = 1; len <= 8; len *= 2) {
			if (off + len <= 0x8000) {
				fd_put(&d, off, len, 0xa5a5a5a5a5a5a5a5ull);
				(void)fd_get(&d, off, len);
			}
		}
	}
	for (unsigned off = 0; off < 4096; off++) {
		for (unsigned len = 1; len <= 4 && off + len <= 4096; len *= 2) {
			fd_ecam_put(&d, off, len, 0xffffffff);
			(void)fd_ecam(&d, off, len);
		}
	}
	fd_done(&d);
}

static void test_relocation(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	fd_start(&d, 1, 0);
	uint64_t old = d.bar;
	/* Sizing, as firmware does it. */
	fd_ecam_put(&d, PCI_COMMAND, 2, PCI_CMD_MASTER);
	assert_int_equal(d.host.ndoorbells, 0);
	fd_ecam_put(&d, PCI_BAR0, 4, 0xffffffff);
	assert_int_equal(fd_ecam(&d, PCI_BAR0, 4), 0xffff8004);
	fd_ecam_put(&d, PCI_BAR0, 4, 0xd0000000);
	fd_ecam_put(&d, PCI_BAR0 + 4, 4, 0);
	assert_int_equal(fd_get(&d, 0x14, 1), 0xff); /* not decoded */
	fd_ecam_put(&d, PCI_COMMAND, 2, PCI_CMD_MEMORY | PCI_CMD_MASTER);
	assert_int_equal(fd_get(&d, 0x14, 1), 0xff); /* nothing at the old place */
	d.bar = 0xd0000000;
	assert_int_equal(fd_get(&d, 0x14, 1), 0xf);
	assert_int_equal(d.host.ndoorbells, 1);
	assert_int_equal(d.host.doorbell_gpa, d.bar + FD_NOTIFY);
	ask(&d, 16);
	assert_int_equal(fd_used_index(&d, 0), 1);
	d.bar = old;
	assert_int_equal(fd_get(&d, 0x14, 1), 0xff);
	fd_done(&d);
}

/* The window in configuration space that reaches the same registers. */
static void test_config_window(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	unsigned cap = 0;
	for (unsigned at = (unsigned)fd_ecam(&d, PCI_CAP_POINTER, 1); at != 0;
	     at = (unsigned)fd_ecam(&d, at + 1, 1)) {
		if (fd_ecam(&d, at, 1) == PCI_CAP_VENDOR && fd_ecam(&d, at + 3, 1) == 5) {
			cap = at;
		}
	}
	assert_int_not_equal(cap, 0);
	fd_ecam_put(&d, cap + 8, 4, 0x14);
	fd_ecam_put(&d, cap + 12, 4, 1);
	fd_ecam_put(&d, cap + 16, 4, 3);
	assert_int_equal(fd_get(&d, 0x14, 1), 3);
	assert_int_equal(fd_ecam(&d, cap + 16, 1), 3);
	fd_ecam_put(&d, cap + 8, 4, 0xfffffff0); /* outside the BAR: nothing happens */
	(void)fd_ecam(&d, cap + 16, 4);
	fd_ecam_put(&d, cap + 16, 4, 0);
	assert_int_equal(fd_get(&d, 0x14, 1), 3);
	fd_done(&d);
}

static void test_queue_reset(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	fd_start(&d, 1, VIRTIO_F_RING_RESET);
	ask(&d, 16);
	fd_put(&d, 0x16, 2, 0);
	fd_put(&d, 0x3a, 2, 1);
	assert_int_equal(fd_get(&d, 0x3a, 2), 0);
	assert_int_equal(fd_get(&d, 0x1c, 2), 0);
	assert_int_equal(fd_get(&d, 0x18, 2), 64);
	const uint8_t zero[4] = { 0 };
	fd_mem(&d, fd_desc_gpa(0) + FD_AVAIL, zero, 4);
	fd_mem(&d, fd_desc_gpa(0) + FD_USED, zero, 4);
	d.avail[0] = 0;
	d.used[0] = 0;
	fd_queue(&d, 0, 4, 0);
	ask(&d, 16);
	assert_int_equal(fd_used_index(&d, 0), 1);
	fd_done(&d);
}

/* A chain that was offered, and kicked, just before the park is served after the load. */
static void test_carry_over(void **state)
{
	(void)state;
	struct fake_driver d, e;
	begin(&d);
	fd_start(&d, 1, VIRTIO_F_EVENT_IDX);
	ask(&d, 16);
	fd_desc(&d, 0, 1, DATA + 0x1000, 32, FD_WRITE, 0);
	fd_offer(&d, 0, 1, true); /* the main loop never sees this kick */
	begin(&e);
	SCOPE(freep) uint8_t *mem = malloc(GMEM_MIN_BYTES);
	assert_non_null(mem);
	ok_(gmem_read(d.g, GPA(0), mem, GMEM_MIN_BYTES));
	ok_(gmem_write(e.g, GPA(0), mem, GMEM_MIN_BYTES));
	memcpy(e.size, d.size, sizeof(e.size));
	memcpy(e.used, d.used, sizeof(e.used));
	memcpy(e.avail, d.avail, sizeof(e.avail));
	dev_carry_over(&d.dev->dev, &e.dev->dev);
	assert_int_equal(e.host.nmsi, 0);
	assert_int_equal(e.host.ndoorbells, 1);
	fake_loop(&e.host);
	assert_int_equal(fd_used_index(&e, 0), 2);
	assert_true(any_byte(&e, DATA + 0x1000, 32));
	fd_done(&d);
	/* What another device saved is refused. */
	struct virtio_rng_state *st = e.dev->dev.part.state;
	ok_(e.dev->dev.part.ops->fetch(e.dev->dev.part.self));
	struct virtio_rng_state good = *st;
	st->virtio.pci.config[PCI_DEVICE_ID] ^= 1;
	struct err *err = e.dev->dev.part.ops->commit(e.dev->dev.part.self);
	assert_non_null(err);
	assert_int_equal(err_class(err), ERR_INCOMPAT);
	err_free(err);
	*st = good;
	st->virtio.features |= 1ull << 50;
	err = e.dev->dev.part.ops->commit(e.dev->dev.part.self);
	assert_non_null(err);
	err_free(err);
	fd_done(&e);
}

static void test_coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&virtio_rng_desc));
	ok_(desc_check_coverage(&virtio_desc));
	ok_(desc_check_coverage(&pci_dev_desc));
	ok_(desc_check_coverage(&pci_host_desc));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),    cmocka_unit_test(test_traffic),
		cmocka_unit_test(test_intx),        cmocka_unit_test(test_negotiation),
		cmocka_unit_test(test_hostile),     cmocka_unit_test(test_relocation),
		cmocka_unit_test(test_queue_reset), cmocka_unit_test(test_config_window),
		cmocka_unit_test(test_carry_over),  cmocka_unit_test(test_coverage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
