/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A defined guest: the options of its VM and what is wanted of it, and the record of what became of
 * it; both as the typed JSON texts that the store's registry keeps (store/guest.h). Used by the
 * verbs on guests on their one thread.
 */
#ifndef TORPOR_TOOLS_GUESTDEF_H
#define TORPOR_TOOLS_GUESTDEF_H

#include <jansson.h>

#include "store/guest.h"
#include "tools/opts.h"

enum { GUEST_PRIORITY_MAX = 100, GUEST_REPORT_BYTES = 1024 };

/* How a guest's last run ended, as far as anybody could tell. */
enum guest_state {
	GUEST_NEVER,   /* it has not run yet */
	GUEST_RUNNING, /* nobody has seen its end: it lives, or died with its host */
	GUEST_SAVED,   /* ended behind a generation: nothing is lost */
	GUEST_OFF,     /* the guest powered itself off: there is nothing to bring back */
	GUEST_STOPPED, /* ended by somebody, its newest generation is what there is */
	GUEST_FAILED,  /* crash, panic, hang */
	GUEST__STATES,
};
extern const char *const guest_state_names[GUEST__STATES];

struct guest_record {
	enum guest_state state;
	uint64_t since_ns;  /* CLOCK_REALTIME of that state */
	char end[16];       /* how it ended: "panic", "poweroff", ...; "" */
	uint64_t clean;     /* with SAVED: the generation's number */
	uint64_t used;      /* number of the generation that was brought back last, 0: none */
	char used_host[37]; /* the boot of the host (guest_host) on which it was */
	uint64_t lived;     /* 1: and it came to life there */
	uint64_t again;     /* fresh boots by policy in a row, since again_ns */
	uint64_t again_ns;
	char report[GUEST_REPORT_BYTES]; /* what somebody should read; "" */
};

/* The options that say what is wanted; their names are the members of the policy. */
struct guest_policy {
	const char *wanted, *fresh, *verify, *on_crash, *on_panic, *on_hang;
	unsigned priority;
	struct opt_list needs;
};
#define GUEST_POLICY_DEFAULTS                                                                      \
	((struct guest_policy){ .wanted = "off",                                                   \
				.fresh = "never",                                                  \
				.verify = "always",                                                \
				.on_crash = "rewind",                                              \
				.on_panic = "report",                                              \
				.on_hang = "report",                                               \
				.priority = 50 })
#define GUEST_POLICY_OPTS(p)                                                                       \
	{ "wanted", "on|off|saved", OPT_CHOICE, &(p)->wanted,                                      \
	  "on: 'torpor guests start' brings it up and 'guests stop' saves it; saved:\n"            \
	  "the latter only; off (the default): neither" },                                         \
		{ "priority", "N", OPT_UINT, &(p)->priority,                                       \
		  "0 to 100, the higher the more urgent; default 50" },                            \
		{ "needs", "NAME", OPT_LIST, &(p)->needs,                                          \
		  "a guest that must be up before; may be given several times" },                  \
		{ "fresh", "never|lost|always", OPT_CHOICE, &(p)->fresh,                           \
		  "when it is booted although it has generations: never (the default),\n"          \
		  "when none of them can be used, or at every start" },                            \
		{ "verify", "always|crash", OPT_CHOICE, &(p)->verify,                              \
		  "read every byte of a generation before it is brought back: always (the\n"       \
		  "default), or only where the last run did not end by a save; else damage\n"      \
		  "ends the guest when it is met" },                                               \
		{ "on-crash", "report|rewind|restart", OPT_CHOICE, &(p)->on_crash,                 \
		  "when the VM ends by a crash: leave it so, go back to the newest\n"              \
		  "generation (the default), or boot it" },                                        \
		{ "on-panic", "report|rewind|restart", OPT_CHOICE, &(p)->on_panic,                 \
		  "the same when the guest says that it panics; default report" },                 \
	{                                                                                          \
		"on-hang", "report|rewind|restart", OPT_CHOICE, &(p)->on_hang,                     \
			"the same when its watchdog (--watchdog) finds it stuck; default report"   \
	}

struct guest {
	char name[NAME_BYTES_MAX + 1];
	json_t *root;          /* owned: {"v":1,"vm":{...},"policy":{...}} */
	json_t *vm;            /* in root: options of `torpor run`, by name */
	struct guest_policy p; /* texts in root, or constant */
	struct guest_record r;
};
void guest_done(struct guest *g);
static inline UNUSED void guest_donep(struct guest *g)
{
	guest_done(g);
}

/* ERR_CORRUPT names what is wrong. */
MUST_USE struct err *guest_parse(const struct store_guest *from, struct guest *ret);
/* ERR_NOTFOUND says how to define one. */
MUST_USE struct err *guest_load(struct store *s, const char *name, struct guest *ret);
/* All, by name; released by guests_free. */
MUST_USE struct err *guests_load(struct store *s, struct guest **ret, size_t *ret_n);
void guests_free(struct guest *g, size_t n);

/* {"v":1,"vm":{...},"policy":{...}}: takes over both. */
MUST_USE struct err *guest_wanted_text(json_t *vm, json_t *policy, char **ret_text);

/* Changes the record in one transaction: fn sees it as it is. A guest that is gone is no error. */
typedef void guest_note_fn(struct guest_record *r, const void *arg);
MUST_USE struct err *guest_note(struct store *s, const char *name, guest_note_fn *fn,
				const void *arg);

/* Which boot of the host this is: a uuid in the run folder, which is gone with a reboot. */
MUST_USE struct err *guest_host(char ret_uuid[37]);

#endif
