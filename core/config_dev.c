/* SPDX-License-Identifier: Apache-2.0 */
/* The list of devices in a configuration. See config_dev.h. */
#include "core/config_dev.h"

#include <stdio.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/config.h"

static const char *const kind_names[CONFIG__KINDS] = {
	[CONFIG_RNG] = "rng",   [CONFIG_CONSOLE] = "console", [CONFIG_BALLOON] = "balloon",
	[CONFIG_DISK] = "disk", [CONFIG_NET] = "net",         [CONFIG_VSOCK] = "vsock",
	[CONFIG_PORT] = "port",
};

const char *config_kind_name(enum config_kind kind)
{
	BUG_ON((unsigned)kind >= CONFIG__KINDS);
	return kind_names[kind];
}

const struct config_dev *config_dev_find(const struct config_devs *l, const char *id)
{
	for (unsigned i = 0; i < l->n; i++) {
		if (strcmp(l->d[i].id, id) == 0) {
			return &l->d[i];
		}
	}
	return NULL;
}

const struct config_dev *config_dev_in(const struct config_devs *l, unsigned slot)
{
	for (unsigned i = 0; i < l->n; i++) {
		if (l->d[i].slot == slot) {
			return &l->d[i];
		}
	}
	return NULL;
}

unsigned config_dev_count(const struct config_devs *l, enum config_kind kind)
{
	unsigned n = 0;
	for (unsigned i = 0; i < l->n; i++) {
		n += l->d[i].kind == kind;
	}
	return n;
}

static void choose_id(const struct config_devs *l, struct config_dev *dev)
{
	unsigned n = config_dev_count(l, dev->kind);
	do {
		snprintf(dev->id, sizeof(dev->id), "%s%u", config_kind_name(dev->kind), n++);
	} while (config_dev_find(l, dev->id) != NULL);
}

/* One of a kind: guests' drivers know but one console and one socket device, and one balloon is all
 * the memory there is. */
static bool is_single(enum config_kind kind)
{
	return kind == CONFIG_CONSOLE || kind == CONFIG_BALLOON || kind == CONFIG_VSOCK;
}

static struct err *check_slot(const struct config_devs *l, const struct config_dev *dev)
{
	ENSURE(dev->slot % CONFIG_BEHIND >= 1 && dev->slot < 2 * CONFIG_BEHIND, ERR_USAGE,
	       "device '%s': PCI slot %u: 1 to %d are possible", dev->id, dev->slot,
	       CONFIG_SLOT_MAX);
	if (dev->slot > CONFIG_SLOT_MAX) {
		const struct config_dev *port = config_dev_in(l, dev->slot - CONFIG_BEHIND);
		ENSURE(port != NULL && port->kind == CONFIG_PORT, ERR_USAGE,
		       "device '%s': there is no root port in PCI slot %u", dev->id,
		       dev->slot - CONFIG_BEHIND);
		ENSURE(dev->kind == CONFIG_DISK || dev->kind == CONFIG_NET, ERR_USAGE,
		       "device '%s': a %s cannot be behind a root port", dev->id,
		       config_kind_name(dev->kind));
	}
	ENSURE(dev->kind != CONFIG_PORT || config_dev_count(l, CONFIG_PORT) < CONFIG_PORTS_MAX,
	       ERR_USAGE, "a VM has at most %d root ports", CONFIG_PORTS_MAX);
	return NULL;
}

static struct err *check(const struct config_devs *l, const struct config_dev *dev)
{
	TRY(err_wrap(config_check_name(dev->id), "device"));
	ENSURE(config_dev_find(l, dev->id) == NULL, ERR_USAGE,
	       "two devices are called '%s': give each another id=NAME", dev->id);
	TRY(check_slot(l, dev));
	const struct config_dev *other = config_dev_in(l, dev->slot);
	ENSURE(other == NULL, ERR_USAGE, "devices '%s' and '%s' are both in PCI slot %u",
	       other != NULL ? other->id : "", dev->id, dev->slot);
	ENSURE(!is_single(dev->kind) || config_dev_count(l, dev->kind) == 0, ERR_USAGE,
	       "a VM has at most one %s", config_kind_name(dev->kind));
	ENSURE(dev->kind != CONFIG_DISK || (dev->queues >= 1 && dev->queues <= CONFIG_QUEUES_MAX),
	       ERR_USAGE, "disk '%s': %u queues: 1 to %d are possible", dev->id, dev->queues,
	       CONFIG_QUEUES_MAX);
	ENSURE(dev->iops <= CONFIG_RATE_MAX && dev->bps <= CONFIG_RATE_MAX, ERR_USAGE,
	       "disk '%s': a rate limit is at most %llu a second", dev->id,
	       (unsigned long long)CONFIG_RATE_MAX);
	ENSURE(!dev->capture || (dev->kind == CONFIG_DISK && !dev->read_only), ERR_USAGE,
	       "device '%s': only a writable disk can be captured", dev->id);
	ENSURE(dev->kind != CONFIG_NET || dev->mtu == 0 ||
		       (dev->mtu >= CONFIG_MTU_MIN && dev->mtu <= CONFIG_MTU_MAX),
	       ERR_USAGE, "network device '%s': MTU %u: %d to %d are possible", dev->id, dev->mtu,
	       CONFIG_MTU_MIN, CONFIG_MTU_MAX);
	ENSURE(dev->kind != CONFIG_VSOCK ||
		       (dev->cid >= CONFIG_CID_MIN && dev->cid <= CONFIG_CID_MAX),
	       ERR_USAGE, "device '%s': CID %u: %d to %d are possible", dev->id, dev->cid,
	       CONFIG_CID_MIN, CONFIG_CID_MAX);
	return NULL;
}

struct err *config_dev_add(struct config_devs *l, const struct config_dev *dev,
			   struct config_dev **ret)
{
	ENSURE(l->n < CONFIG_DEVS_MAX, ERR_USAGE, "too many devices: at most %d fit",
	       CONFIG_DEVS_MAX);
	struct config_dev d = *dev;
	if (d.id[0] == 0) {
		choose_id(l, &d);
	}
	for (unsigned slot = 1; d.slot == 0 && slot <= CONFIG_SLOT_MAX; slot++) {
		d.slot = config_dev_in(l, slot) == NULL ? slot : 0;
	}
	TRY(check(l, &d));
	unsigned at = l->n;
	while (at > 0 && l->d[at - 1].slot > d.slot) {
		l->d[at] = l->d[at - 1];
		at--;
	}
	l->d[at] = d;
	l->n++;
	if (ret != NULL) {
		*ret = &l->d[at];
	}
	return NULL;
}

unsigned config_dev_free_port(const struct config_devs *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		const struct config_dev *d = &l->d[i];
		if (d->kind == CONFIG_PORT && config_dev_in(l, CONFIG_BEHIND + d->slot) == NULL) {
			return CONFIG_BEHIND + d->slot;
		}
	}
	return 0;
}

void config_dev_remove(struct config_devs *l, unsigned slot)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < l->n; i++) {
		if (l->d[i].slot != slot) {
			l->d[kept++] = l->d[i];
		}
	}
	l->n = kept;
}

/* ---- addresses of network devices ---- */

struct err *config_mac_make(uint8_t ret_mac[CONFIG_MAC_BYTES])
{
	TRY(random_bytes(ret_mac, CONFIG_MAC_BYTES));
	/* Of one device, administered here. */
	ret_mac[0] = (uint8_t)((ret_mac[0] & ~1u) | 2u);
	return NULL;
}

struct err *config_devs_new_macs(struct config_devs *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		if (l->d[i].kind == CONFIG_NET && !l->d[i].mac_chosen) {
			TRY(config_mac_make(l->d[i].mac));
		}
	}
	return NULL;
}

void config_mac_text(const uint8_t mac[CONFIG_MAC_BYTES], char out[3 * CONFIG_MAC_BYTES])
{
	for (unsigned i = 0; i < CONFIG_MAC_BYTES; i++) {
		snprintf(out + 3 * i, 3 * (CONFIG_MAC_BYTES - i), "%02x%s", mac[i],
			 i + 1 < CONFIG_MAC_BYTES ? ":" : "");
	}
}

struct err *config_mac_parse(const char *text, uint8_t ret_mac[CONFIG_MAC_BYTES])
{
	static const char digits[] = "0123456789abcdefABCDEF";
	bool sound = strlen(text) == 3 * CONFIG_MAC_BYTES - 1;
	for (unsigned i = 0; sound && i < CONFIG_MAC_BYTES; i++) {
		const char *p = text + 3 * i;
		sound = strspn(p, digits) == 2 && (p[2] == ':' || p[2] == 0);
		unsigned byte = 0;
		sound = sound && sscanf(p, "%2x", &byte) == 1;
		ret_mac[i] = (uint8_t)byte;
	}
	ENSURE(sound && (ret_mac[0] & 1) == 0, ERR_USAGE,
	       "'%.40s' is no MAC address of one device, like 02:00:00:00:00:01", text);
	return NULL;
}

/* ---- text ---- */

/* Limits are there only where there are some: snapshots of before have none. */
static bool put_limit(json_t *j, const char *key, uint64_t limit)
{
	return limit == 0 || json_object_set_new(j, key, json_integer((json_int_t)limit)) == 0;
}

static json_t *dev_json(const struct config_dev *d)
{
	json_t *j = json_pack("{s:s s:s s:i}", "kind", config_kind_name(d->kind), "id", d->id,
			      "slot", (int)d->slot);
	json_t *more = NULL;
	if (j != NULL && d->kind == CONFIG_DISK) {
		more = json_pack("{s:b s:b s:i s:s}", "ro", (int)d->read_only, "capture",
				 (int)d->capture, "queues", (int)d->queues, "path", d->path);
	} else if (j != NULL && d->kind == CONFIG_NET) {
		char mac[3 * CONFIG_MAC_BYTES];
		config_mac_text(d->mac, mac);
		more = json_pack("{s:s s:b s:i s:s}", "mac", mac, "mac_chosen", (int)d->mac_chosen,
				 "mtu", (int)d->mtu, "end", d->path);
	} else if (j != NULL && d->kind == CONFIG_VSOCK) {
		more = json_pack("{s:i}", "cid", (int)d->cid);
	} else {
		return j;
	}
	if (more == NULL || !put_limit(more, "iops", d->iops) || !put_limit(more, "bps", d->bps) ||
	    json_object_update(j, more) != 0) {
		json_decref(j);
		j = NULL;
	}
	json_decref(more);
	return j;
}

json_t *config_devs_json(const struct config_devs *l)
{
	json_t *array = json_array();
	for (unsigned i = 0; array != NULL && i < l->n; i++) {
		if (json_array_append_new(array, dev_json(&l->d[i])) != 0) {
			json_decref(array);
			array = NULL;
		}
	}
	return array;
}

static struct err *get_uint(const json_t *o, const char *key, unsigned max, unsigned *ret)
{
	const json_t *v = json_object_get(o, key);
	ENSURE(json_is_integer(v) && json_integer_value(v) >= 0 &&
		       json_integer_value(v) <= (json_int_t)max,
	       ERR_CORRUPT, "configuration: a device's '%s' is missing or no number up to %u", key,
	       max);
	*ret = (unsigned)json_integer_value(v);
	return NULL;
}

static struct err *get_limit(const json_t *o, const char *key, size_t *keys, uint64_t *ret)
{
	const json_t *v = json_object_get(o, key);
	if (v == NULL) {
		return NULL;
	}
	ENSURE(json_is_integer(v) && json_integer_value(v) > 0 &&
		       (uint64_t)json_integer_value(v) <= CONFIG_RATE_MAX,
	       ERR_CORRUPT, "configuration: a disk's '%s' is no number from 1 to %llu", key,
	       (unsigned long long)CONFIG_RATE_MAX);
	*ret = (uint64_t)json_integer_value(v);
	++*keys;
	return NULL;
}

static struct err *get_bool(const json_t *o, const char *key, bool *ret)
{
	const json_t *v = json_object_get(o, key);
	ENSURE(json_is_boolean(v), ERR_CORRUPT,
	       "configuration: a device's '%s' is missing or not true or false", key);
	*ret = json_is_true(v);
	return NULL;
}

static struct err *get_text(const json_t *o, const char *key, char *ret, size_t size)
{
	const json_t *v = json_object_get(o, key);
	ENSURE(json_is_string(v) && json_string_length(v) < size, ERR_CORRUPT,
	       "configuration: a device's '%s' is missing or too long", key);
	snprintf(ret, size, "%s", json_string_value(v));
	return NULL;
}

static struct err *parse_net(const json_t *o, struct config_dev *d)
{
	char mac[3 * CONFIG_MAC_BYTES];
	TRY(get_text(o, "mac", mac, sizeof(mac)));
	TRY(err_reclass(config_mac_parse(mac, d->mac), ERR_CORRUPT));
	TRY(get_bool(o, "mac_chosen", &d->mac_chosen));
	TRY(get_uint(o, "mtu", CONFIG_MTU_MAX, &d->mtu));
	return get_text(o, "end", d->path, sizeof(d->path));
}

static struct err *parse_kind(const char *name, enum config_kind *ret)
{
	for (unsigned i = 0; i < CONFIG__KINDS; i++) {
		if (strcmp(kind_names[i], name) == 0) {
			*ret = (enum config_kind)i;
			return NULL;
		}
	}
	return ERR(ERR_INCOMPAT, "configuration: device kind '%.20s' is not known to this version",
		   name);
}

static struct err *parse_dev(const json_t *o, struct config_dev *ret)
{
	struct config_dev d = { 0 };
	const json_t *kind = json_object_get(o, "kind");
	const json_t *id = json_object_get(o, "id");
	ENSURE(json_is_string(kind) && json_is_string(id), ERR_CORRUPT,
	       "configuration: a device has no kind or no id");
	TRY(parse_kind(json_string_value(kind), &d.kind));
	TRY(err_reclass(config_check_name(json_string_value(id)), ERR_CORRUPT));
	snprintf(d.id, sizeof(d.id), "%s", json_string_value(id));
	TRY(get_uint(o, "slot", 2 * CONFIG_BEHIND - 1, &d.slot));
	ENSURE(d.slot > 0, ERR_CORRUPT, "configuration: device '%s' has no slot", d.id);
	size_t keys = 3;
	if (d.kind == CONFIG_DISK) {
		keys += 3;
		TRY(get_bool(o, "ro", &d.read_only));
		if (json_object_get(o, "capture") != NULL) { /* older snapshots lack it */
			keys++;
			TRY(get_bool(o, "capture", &d.capture));
		}
		TRY(get_uint(o, "queues", CONFIG_QUEUES_MAX, &d.queues));
		TRY(get_limit(o, "iops", &keys, &d.iops));
		TRY(get_limit(o, "bps", &keys, &d.bps));
		TRY(get_text(o, "path", d.path, sizeof(d.path)));
	} else if (d.kind == CONFIG_NET) {
		keys += 4;
		TRY(parse_net(o, &d));
	} else if (d.kind == CONFIG_VSOCK) {
		keys++;
		TRY(get_uint(o, "cid", CONFIG_CID_MAX, &d.cid));
	}
	ENSURE(json_object_size(o) == keys, ERR_CORRUPT,
	       "configuration: device '%s' has an unknown key", d.id);
	*ret = d;
	return NULL;
}

struct err *config_devs_parse(const json_t *array, struct config_devs *ret)
{
	struct config_devs l = { 0 };
	ENSURE(json_is_array(array), ERR_CORRUPT, "configuration: 'devices' is no list");
	size_t n = json_array_size(array);
	for (size_t i = 0; i < n; i++) {
		struct config_dev d;
		TRY(parse_dev(json_array_get(array, i), &d));
		TRY(err_reclass(config_dev_add(&l, &d, NULL), ERR_CORRUPT));
	}
	*ret = l;
	return NULL;
}
