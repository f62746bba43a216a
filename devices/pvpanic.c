/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pvpanic and the exit device. See pvpanic.h. Reading pvpanic's port gives the events that it
 * knows: the panic alone, so a guest with a crash kernel loaded says nothing and lets that kernel
 * work.
 */
#include "devices/pvpanic.h"

struct port_device {
	struct device dev;
};

static void pvpanic_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
			 uint64_t *data)
{
	(void)dev;
	(void)range;
	(void)off;
	(void)len;
	*data = PVPANIC_PANICKED;
}

static void pvpanic_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
			  uint64_t data)
{
	(void)range;
	(void)off;
	(void)len;
	if ((data & PVPANIC_PANICKED) != 0) {
		dev->host->request(dev->host->self, DEV_PANIC);
	}
}

static void exit_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
		      uint64_t *data)
{
	(void)dev;
	(void)range;
	(void)off;
	(void)len;
	*data = 0;
}

static void exit_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
		       uint64_t data)
{
	(void)range;
	(void)off;
	(void)len;
	dev->host->request(dev->host->self, DEV_EXIT + (unsigned)(data % DEV_EXITS));
}

static void port_free(struct device *dev)
{
	if (dev != NULL) {
		free(CONTAINER_OF(dev, struct port_device, dev));
	}
}

static const struct dev_ops pvpanic_ops = {
	.name = "pvpanic",
	.read = pvpanic_read,
	.write = pvpanic_write,
	.free = port_free,
};

static const struct dev_ops exit_ops = {
	.name = "exit",
	.read = exit_read,
	.write = exit_write,
	.free = port_free,
};

static struct err *port_new(const struct dev_host *host, const struct dev_ops *ops, uint64_t port,
			    struct device **ret_dev)
{
	struct port_device *p = calloc(1, sizeof(*p));
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	p->dev = (struct device){
		.ops = ops,
		.host = host,
		.ranges = { { .space = DEV_PIO, .base = port, .len = 1 } },
		.nranges = 1,
	};
	*ret_dev = &p->dev;
	return NULL;
}

struct err *pvpanic_new(const struct dev_host *host, struct device **ret_dev)
{
	return port_new(host, &pvpanic_ops, PVPANIC_PORT, ret_dev);
}

struct err *exit_device_new(const struct dev_host *host, struct device **ret_dev)
{
	return port_new(host, &exit_ops, EXIT_DEVICE_PORT, ret_dev);
}
