/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Port and MMIO dispatch: which device answers at an address. Ranges are added while the machine is
 * built and are constant while vCPUs run, so look-ups take no lock. An address that nobody owns
 * reads as all ones and swallows writes, as on a PC. Called by vCPU threads.
 */
#ifndef TORPOR_CORE_BUS_H
#define TORPOR_CORE_BUS_H

#include "devices/dev.h"

struct bus;

MUST_USE struct err *bus_new(struct bus **ret_bus);
void bus_free(struct bus *b);
DEFINE_SCOPE(struct bus, bus_free)
/* Adds all ranges of the device; ERR_NOT_NOW when one overlaps another device's. */
MUST_USE struct err *bus_add(struct bus *b, struct device *dev);
/* len is 1, 2, 4 or 8 (MMIO may come with other lengths up to 8: split by the bus). */
void bus_read(struct bus *b, enum dev_space space, uint64_t addr, void *data, unsigned len);
void bus_write(struct bus *b, enum dev_space space, uint64_t addr, const void *data, unsigned len);

#endif
