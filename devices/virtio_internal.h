/* SPDX-License-Identifier: Apache-2.0 */
/* Between virtio.c (life of a device, queues, saved state) and virtio_pci.c (registers). Includable
 * only by virtio*.c. All with the device's lock held. */
#ifndef TORPOR_DEVICES_VIRTIO_INTERNAL_H
#define TORPOR_DEVICES_VIRTIO_INTERNAL_H

#include "devices/virtio.h"

/* The one BAR: a page for each kind of register. */
enum {
	VIRTIO_BAR = 0,
	VIRTIO_BAR_BYTES = 0x8000,
	VIRTIO_AT_COMMON = 0x0000,
	VIRTIO_AT_ISR = 0x1000,
	VIRTIO_AT_CONFIG = 0x2000,
	VIRTIO_AT_NOTIFY = 0x3000,
	VIRTIO_NOTIFY_BYTES = 4, /* between the doorbells of two queues */
	VIRTIO_AT_MSIX = 0x4000,
	VIRTIO_AT_PBA = 0x5000,
	VIRTIO_ISR_QUEUE = 1,
	VIRTIO_ISR_CONFIG = 2,
};

extern const struct pci_ops virtio_pci_ops;
void virtio_pci_build(struct virtio *v, const struct virtio_opts *opts);
/* Sets or removes doorbells as status, BAR and command register say. */
void virtio_pci_doorbells(struct virtio *v);
/* An interrupt for a vector, or by INTA. */
void virtio_pci_irq(struct virtio *v, uint16_t vector, uint8_t isr);

void virtio_set_status(struct virtio *v, uint8_t status);
void virtio_queue_enable(struct virtio *v, unsigned n);
void virtio_queue_reset(struct virtio *v, unsigned n);

#endif
