/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration value: checks, JSON text and its strict parser. See config.h. Called by the
 * tools before a VM exists and by life for each take; no state, any thread.
 *
 * The text is canonical (sorted keys, no spaces): equal configurations have equal bytes, so a
 * snapshot of an unchanged VM shares nothing less than it could. "v" is the version of this text.
 */
#include "core/config.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "core/base/hash.h"

enum {
	/* 2 has "devices" and "vmgenid", and may have "battery", "s2idle", "exit_device" and
	   "gpe_methods". A VM with none is written as 1: equal text for equal VMs. */
	CONFIG_VERSION = 2,
	KERNEL_NAME_BYTES_MAX = 255, /* NAME_MAX of Linux file systems */
};

void config_done(struct config *c)
{
	if (c == NULL) {
		return;
	}
	free(c->cmdline);
	free(c->kernel_name);
	c->cmdline = NULL;
	c->kernel_name = NULL;
}

struct err *config_copy(const struct config *from, struct config *ret)
{
	struct config c = *from;
	c.cmdline = strdup(from->cmdline != NULL ? from->cmdline : "");
	c.kernel_name = from->kernel_name != NULL ? strdup(from->kernel_name) : NULL;
	if (c.cmdline == NULL || (from->kernel_name != NULL && c.kernel_name == NULL)) {
		config_done(&c);
		return ERR(ERR_SYS, "out of memory for the configuration");
	}
	*ret = c;
	return NULL;
}

static bool name_char(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

/* The shared rule of names and tags; `what` is for the message. */
static struct err *check_word(const char *what, const char *word)
{
	size_t len = strnlen(word, NAME_BYTES_MAX + 1);
	ENSURE(len > 0, ERR_USAGE, "%s is empty: give 1 to %u of A-Z a-z 0-9 . _ -", what,
	       NAME_BYTES_MAX);
	ENSURE(len <= NAME_BYTES_MAX, ERR_USAGE, "%s '%.20s...' is too long: at most %u bytes",
	       what, word, NAME_BYTES_MAX);
	ENSURE(word[0] != '.' && word[0] != '-', ERR_USAGE,
	       "%s '%s' starts with '%c': begin with a letter, digit or _", what, word, word[0]);
	for (size_t i = 0; i < len; i++) {
		ENSURE(name_char(word[i]), ERR_USAGE,
		       "%s has a byte 0x%02x at position %zu that is not allowed: use A-Z a-z 0-9 "
		       ". _ -",
		       what, (unsigned)(unsigned char)word[i], i + 1);
	}
	return NULL;
}

struct err *config_check_name(const char *name)
{
	return check_word("VM name", name);
}

struct err *config_check_tag(const char *tag)
{
	TRY(check_word("tag", tag));
	ENSURE(strspn(tag, "0123456789") != strlen(tag), ERR_USAGE,
	       "tag '%s' is all digits, which would read as a snapshot number: add a letter", tag);
	return NULL;
}

/* Memory that the host has, in bytes. */
static uint64_t host_memory(void)
{
	struct sysinfo si;
	if (sysinfo(&si) != 0) {
		return UINT64_MAX; /* gmem_new finds out */
	}
	return (uint64_t)si.totalram * si.mem_unit;
}

static bool known_model(const char *model)
{
	static const char *const models[] = { "host", "x86-64-v2", "x86-64-v3" };
	for (size_t i = 0; i < ARRAY_LEN(models); i++) {
		if (strcmp(models[i], model) == 0) {
			return true;
		}
	}
	return false;
}

static struct err *check_text(const char *what, const char *text, size_t max)
{
	ENSURE(strlen(text) <= max, ERR_LIMIT, "%s is %zu bytes long: at most %zu", what,
	       strlen(text), max);
	json_t *probe = json_string(text); /* NULL for text that is not UTF-8 */
	bool utf8 = probe != NULL;
	json_decref(probe);
	ENSURE(utf8, ERR_USAGE, "%s is not valid UTF-8", what);
	return NULL;
}

struct err *config_check(const struct config *c)
{
	TRY(config_check_name(c->name));
	ENSURE(c->ncpus >= 1 && c->ncpus <= VCPUS_MAX, ERR_LIMIT,
	       "%u vCPUs asked for: a VM has 1 to %u", c->ncpus, VCPUS_MAX);
	ENSURE(c->mem_bytes >= GMEM_MIN_BYTES, ERR_LIMIT,
	       "%" PRIu64 " bytes of memory asked for: a VM has at least %llu MiB", c->mem_bytes,
	       GMEM_MIN_BYTES / MIB);
	ENSURE(c->mem_bytes % PAGE_BYTES == 0, ERR_LIMIT,
	       "%" PRIu64 " bytes of memory asked for: not a multiple of %u", c->mem_bytes,
	       PAGE_BYTES);
	uint64_t host = host_memory();
	ENSURE(c->mem_bytes <= host, ERR_LIMIT,
	       "%" PRIu64 " MiB of memory asked for: this host has %llu MiB", c->mem_bytes >> 20,
	       host / MIB);
	ENSURE(memchr(c->cpu_model, 0, sizeof(c->cpu_model)) != NULL && known_model(c->cpu_model),
	       ERR_USAGE, "unknown CPU model '%.31s': use host, x86-64-v2 or x86-64-v3",
	       c->cpu_model);
	BUG_ON(c->cmdline == NULL);
	TRY(check_text("kernel command line", c->cmdline, CMDLINE_BYTES_MAX));
	if (c->kernel_name != NULL) {
		TRY(check_text("kernel file name", c->kernel_name, KERNEL_NAME_BYTES_MAX));
	}
	return NULL;
}

struct err *config_parse_size(const char *text, uint64_t *ret_bytes)
{
	uint64_t v = 0;
	const char *p = text;
	ENSURE(*p >= '0' && *p <= '9', ERR_USAGE,
	       "'%.40s' is no size: give a number with K, M or G behind it, like 512M", text);
	for (; *p >= '0' && *p <= '9'; p++) {
		ENSURE(!MUL_OVERFLOWS(v, 10u, &v) && !ADD_OVERFLOWS(v, (uint64_t)(*p - '0'), &v),
		       ERR_USAGE, "size '%.40s' does not fit in 64 bits", text);
	}
	uint64_t unit = 1;
	switch (*p) {
	case 'k':
	case 'K':
		unit = KIB;
		break;
	case 'm':
	case 'M':
		unit = MIB;
		break;
	case 'g':
	case 'G':
		unit = GIB;
		break;
	default:
		break;
	}
	if (unit != 1) {
		p++;
	}
	ENSURE(*p == 0, ERR_USAGE,
	       "'%.40s' is no size: give a number with K, M or G behind it, like 512M", text);
	ENSURE(!MUL_OVERFLOWS(v, unit, &v), ERR_USAGE, "size '%.40s' does not fit in 64 bits",
	       text);
	*ret_bytes = v;
	return NULL;
}

/* Absent is false. */
static int put_option(json_t *root, const char *key, bool on)
{
	return on ? json_object_set_new(root, key, json_true()) : 0;
}

struct err *config_text(const struct config *c, char **ret_text)
{
	char uuid[37];
	char family[37];
	uuid_text(c->uuid, uuid);
	uuid_text(c->family, family);
	ENSURE(c->mem_bytes <= INT64_MAX, ERR_LIMIT, "memory size does not fit the text form");
	bool plain = !c->vmgenid && c->devs.n == 0 && !c->battery && !c->s2idle &&
		     !c->exit_device && !c->gpe_methods;
	json_t *root = json_pack(
		"{s:i s:s s:s s:s s:I s:I s:s s:s s:s? s:b s:b}", "v", plain ? 1 : 2, "name",
		c->name, "uuid", uuid, "family", family, "cpus", (json_int_t)c->ncpus, "mem_bytes",
		(json_int_t)c->mem_bytes, "cpu", c->cpu_model, "cmdline", c->cmdline, "kernel",
		c->kernel_name, "initrd", (int)c->has_initrd, "no_reboot", (int)c->no_reboot);
	ENSURE(root != NULL, ERR_USAGE, "configuration of VM '%s' has text that is not UTF-8",
	       c->name);
	if (!plain && (json_object_set_new(root, "vmgenid", json_boolean(c->vmgenid)) != 0 ||
		       json_object_set_new(root, "devices", config_devs_json(&c->devs)) != 0 ||
		       put_option(root, "battery", c->battery) != 0 ||
		       put_option(root, "s2idle", c->s2idle) != 0 ||
		       put_option(root, "gpe_methods", c->gpe_methods) != 0 ||
		       put_option(root, "exit_device", c->exit_device) != 0)) {
		json_decref(root);
		return ERR(ERR_SYS, "out of memory for the configuration text");
	}
	char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(root);
	ENSURE(text != NULL, ERR_SYS, "out of memory for the configuration text");
	*ret_text = text;
	return NULL;
}

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

/* One member of the wanted JSON type; jansson's json_type has no boolean of its own. */
static struct err *get_text(const json_t *root, const char *key, const char **ret)
{
	const json_t *v = json_object_get(root, key);
	ENSURE(json_is_string(v), ERR_CORRUPT, "configuration: '%s' is missing or no text", key);
	*ret = json_string_value(v);
	return NULL;
}

static struct err *get_number(const json_t *root, const char *key, uint64_t max, uint64_t *ret)
{
	const json_t *v = json_object_get(root, key);
	ENSURE(json_is_integer(v) && json_integer_value(v) >= 0 &&
		       (uint64_t)json_integer_value(v) <= max,
	       ERR_CORRUPT, "configuration: '%s' is missing or no number from 0 to %" PRIu64, key,
	       max);
	*ret = (uint64_t)json_integer_value(v);
	return NULL;
}

static struct err *get_bool(const json_t *root, const char *key, bool *ret)
{
	const json_t *v = json_object_get(root, key);
	ENSURE(json_is_boolean(v), ERR_CORRUPT,
	       "configuration: '%s' is missing or not true or false", key);
	*ret = json_is_true(v);
	return NULL;
}

static struct err *get_option(const json_t *root, const char *key, bool *ret)
{
	return json_object_get(root, key) == NULL ? NULL : get_bool(root, key, ret);
}

static struct err *check_keys(json_t *root, uint64_t version)
{
	static const char *const keys[] = { "v",      "name",      "uuid",     "family",
					    "cpus",   "mem_bytes", "cpu",      "cmdline",
					    "kernel", "initrd",    "no_reboot" };
	static const char *const keys_2[] = { "vmgenid",     "devices",     "battery",
					      "exit_device", "gpe_methods", "s2idle" };
	const char *key;
	json_t *value;
	json_object_foreach(root, key, value)
	{
		bool known = false;
		for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
			known = known || strcmp(keys[i], key) == 0;
		}
		for (size_t i = 0; version >= 2 && i < ARRAY_LEN(keys_2); i++) {
			known = known || strcmp(keys_2[i], key) == 0;
		}
		ENSURE(known, ERR_CORRUPT, "configuration: unknown key '%.40s'", key);
	}
	return NULL;
}

/* Fills everything but the owned texts. */
static struct err *parse_scalars(const json_t *root, struct config *c)
{
	const char *text = NULL;
	TRY(get_text(root, "name", &text));
	TRY(err_reclass(config_check_name(text), ERR_CORRUPT));
	snprintf(c->name, sizeof(c->name), "%s", text);
	TRY(get_text(root, "uuid", &text));
	TRY(err_reclass(uuid_parse(text, c->uuid), ERR_CORRUPT));
	TRY(get_text(root, "family", &text));
	TRY(err_reclass(uuid_parse(text, c->family), ERR_CORRUPT));
	TRY(get_text(root, "cpu", &text));
	ENSURE(known_model(text), ERR_INCOMPAT,
	       "configuration: CPU model '%.31s' is not known to this version", text);
	snprintf(c->cpu_model, sizeof(c->cpu_model), "%s", text);
	uint64_t n = 0;
	TRY(get_number(root, "cpus", VCPUS_MAX, &n));
	c->ncpus = (unsigned)n;
	TRY(get_number(root, "mem_bytes", INT64_MAX, &c->mem_bytes));
	TRY(get_bool(root, "initrd", &c->has_initrd));
	return get_bool(root, "no_reboot", &c->no_reboot);
}

struct err *config_parse(const void *p, size_t len, struct config *ret)
{
	json_error_t why;
	SCOPE(json_put) json_t *root = json_loadb(p, len, JSON_REJECT_DUPLICATES, &why);
	ENSURE(root != NULL, ERR_CORRUPT, "configuration: no JSON at byte %d", why.position);
	ENSURE(json_is_object(root), ERR_CORRUPT, "configuration: no JSON object");
	uint64_t version = 0;
	TRY(get_number(root, "v", INT64_MAX, &version));
	ENSURE(version <= CONFIG_VERSION, ERR_INCOMPAT,
	       "configuration of version %" PRIu64 ": this torpor reads up to %d; use a newer one",
	       version, CONFIG_VERSION);
	ENSURE(version >= 1, ERR_CORRUPT, "configuration: version 0");
	TRY(check_keys(root, version));
	struct config c = { 0 };
	TRY(parse_scalars(root, &c));
	if (version >= 2) {
		TRY(get_bool(root, "vmgenid", &c.vmgenid));
		TRY(config_devs_parse(json_object_get(root, "devices"), &c.devs));
		TRY(get_option(root, "battery", &c.battery));
		TRY(get_option(root, "s2idle", &c.s2idle));
		TRY(get_option(root, "exit_device", &c.exit_device));
		TRY(get_option(root, "gpe_methods", &c.gpe_methods));
	}
	const char *cmdline = NULL;
	TRY(get_text(root, "cmdline", &cmdline));
	const json_t *kernel = json_object_get(root, "kernel");
	ENSURE(json_is_string(kernel) || json_is_null(kernel), ERR_CORRUPT,
	       "configuration: 'kernel' is missing or no text");

	SCOPE(freep) char *cmdline_own = strdup(cmdline);
	SCOPE(freep)
	char *kernel_own = json_is_string(kernel) ? strdup(json_string_value(kernel)) : NULL;
	ENSURE(cmdline_own != NULL && (kernel_own != NULL || json_is_null(kernel)), ERR_SYS,
	       "out of memory for the configuration");
	c.cmdline = cmdline_own;
	c.kernel_name = kernel_own;
	TRY(err_wrap(config_check(&c), "configuration"));
	*ret = c;
	cmdline_own = NULL;
	kernel_own = NULL;
	return NULL;
}
