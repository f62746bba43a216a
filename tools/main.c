/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The torpor binary: finds the verb, runs it, prints the error if there is one, and turns it into
 * an exit status: 0 done, 1 failed, 2 usage; a foreground VM gives its own (see torpor-run(1)).
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "tools/cmd.h"
#include "tools/out.h"

static const struct verb verbs[] = {
	{ "run", "--name NAME --kernel FILE [options]", "boot a VM", cmd_run },
	{ "snapshot take", "NAME [--tag TAG] [--max-pause TIME]", "save a living VM into the store",
	  cmd_take },
	{ "snapshot cancel", "NAME", "give up the snapshot that is being taken", cmd_take_cancel },
	{ "snapshot rewind", "NAME REF", "bring a living VM back to a snapshot", cmd_rewind },
	{ "snapshot list", "[NAME]", "list snapshots", cmd_snaps },
	{ "snapshot show", "REF", "print what a snapshot holds", cmd_show },
	{ "snapshot verify", "REF | --all", "check every byte of a snapshot", cmd_verify },
	{ "snapshot rm", "REF...", "remove snapshots", cmd_rm },
	{ "snapshot tag", "REF TAG | REF --none", "name a snapshot", cmd_tag },
	{ "snapshot pin", "REF...", "keep snapshots from being removed", cmd_pin },
	{ "snapshot unpin", "REF...", "let them be removed again", cmd_unpin },
	{ "snapshot prune", "NAME --keep-last N [options]", "remove what no rule keeps",
	  cmd_prune },
	{ "snapshot diff", "A B", "say what differs between two snapshots", cmd_diff },
	{ "snapshot map", "REF [--png FILE]", "count and draw memory by class", cmd_map },
	{ "snapshot export", "REF FILE|-", "write a snapshot to a file or a pipe", cmd_export },
	{ "disk export", "REF ID FILE", "write a disk of a snapshot to a raw file",
	  cmd_disk_export },
	{ "snapshot import", "FILE|-", "read one into the store", cmd_import },
	{ "restore", "REF [options]", "bring a snapshot to life", cmd_restore },
	{ "store stat", "[NAME...]", "say where the store's bytes are", cmd_store_stat },
	{ "store gc", "[NAME...]", "free what nothing uses", cmd_store_gc },
	{ "store compact", "[NAME...]", "make the store as small as it can be", cmd_store_compact },
	{ "store verify", "", "check every byte of the store", cmd_store_verify },
	{ "store recover", "--to NEWDIR", "save what is sound of a damaged store",
	  cmd_store_recover },
	{ "define", "NAME --kernel FILE [options]", "keep what a guest is and what is wanted of it",
	  cmd_define },
	{ "edit", "NAME [options]", "change that", cmd_edit },
	{ "undefine", "NAME", "forget a guest; its snapshots stay", cmd_undefine },
	{ "autostart", "NAME [--off]", "bring a guest up when the host boots", cmd_autostart },
	{ "start", "NAME [--foreground]", "start a defined guest", cmd_start },
	{ "guests start", "[NAME...] [options]", "start all guests that are wanted",
	  cmd_guests_start },
	{ "guests stop", "[NAME...] [options]", "save all guests that are wanted, and end them",
	  cmd_guests_stop },
	{ "guests status", "[NAME...]", "say how the guests are", cmd_guests_status },
	{ "suspend", "NAME [--vcpus]", "stop a VM's time", cmd_suspend },
	{ "resume", "NAME [--vcpus]", "let a suspended VM go on", cmd_resume },
	{ "stop", "NAME", "end a VM without asking the guest", cmd_stop },
	{ "list", "[--all]", "list living VMs and VMs in the store", cmd_list },
	{ "swap enable", "NAME [--as-snapshot TAG]", "make a guest's memory reclaimable",
	  cmd_swap_enable },
	{ "swap trim", "NAME", "give back what is zero or stored already", cmd_swap_trim },
	{ "swap out", "NAME", "move what is not used into the store", cmd_swap_out },
	{ "swap disable", "NAME", "bring everything back", cmd_swap_disable },
	{ "swap status", "NAME", "say where a guest's memory is", cmd_swap_status },
	{ "doctor", "", "say what this host can and cannot do", cmd_doctor },
};

/* The verbs above, then those on living VMs (cmd_live.c). NULL behind the last. */
static const struct verb *verb_at(size_t i)
{
	return i < ARRAY_LEN(verbs) ? &verbs[i] : live_verb(i - ARRAY_LEN(verbs));
}

/* Is `word` the first of several words of v? */
static bool in_group(const struct verb *v, const char *word)
{
	size_t len = strlen(word);
	return strncmp(v->name, word, len) == 0 && v->name[len] == ' ';
}

static bool is_group(const char *word)
{
	for (size_t i = 0; verb_at(i) != NULL; i++) {
		if (in_group(verb_at(i), word)) {
			return true;
		}
	}
	return false;
}

/* "take, list or rm": what may stand behind the first word. */
static void group_words(const char *word, char *ret, size_t len)
{
	size_t n = 0;
	ret[0] = 0;
	for (size_t i = 0; verb_at(i) != NULL; i++) {
		if (in_group(verb_at(i), word) && n < len) {
			n += (size_t)snprintf(ret + n, len - n, "%s%s", n > 0 ? ", " : "",
					      verb_at(i)->name + strlen(word) + 1);
		}
	}
}

static void print_usage(const char *group)
{
	printf("usage: torpor VERB [arguments]\n\n");
	if (group == NULL) {
		printf("torpor runs virtual machines whose state can be saved, kept and brought "
		       "back.\n\n");
	}
	printf("Verbs:\n");
	for (size_t i = 0; verb_at(i) != NULL; i++) {
		if (group == NULL || in_group(verb_at(i), group)) {
			printf("  %-16s  %s\n", verb_at(i)->name, verb_at(i)->summary);
		}
	}
	printf("\n'torpor VERB --help' tells the options of a verb. --store DIR and --json go with "
	       "every verb.\n"
	       "REF is NAME (newest snapshot), NAME@TAG or NAME@NUMBER. SIZE takes K, M or G.\n"
	       "Exit status: 0 done, 1 failed, 2 usage.\n");
}

/* Number of words of argv that name the verb, 0 if they do not. */
static int match(const struct verb *v, int argc, char **argv)
{
	const char *p = v->name;
	int words = 0;
	while (*p != 0) {
		size_t len = strcspn(p, " ");
		if (words >= argc || strlen(argv[words]) != len ||
		    strncmp(argv[words], p, len) != 0) {
			return 0;
		}
		words++;
		p += len;
		p += *p == ' ';
	}
	return words;
}

static bool wants_json(int argc, char **argv)
{
	for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], "--json") == 0) {
			return true;
		}
	}
	return false;
}

/* Prints and frees the error. */
static int fail(struct err *e, bool json)
{
	int status = err_class(e) == ERR_USAGE ? 2 : 1;
	if (json) {
		out_error(e);
	}
	log_err(e);
	return status;
}

static struct err *find_verb(int argc, char **argv, const struct verb **ret, int *ret_words)
{
	for (size_t i = 0; verb_at(i) != NULL; i++) {
		int words = match(verb_at(i), argc, argv);
		if (words > 0) {
			*ret = verb_at(i);
			*ret_words = words;
			return NULL;
		}
	}
	if (argc == 0) {
		return ERR(ERR_USAGE, "a verb is missing: see 'torpor --help'");
	}
	if (is_group(argv[0])) {
		char words[200];
		group_words(argv[0], words, sizeof(words));
		ENSURE(argc > 1, ERR_USAGE, "'%.40s' needs one of %s behind it", argv[0], words);
		return ERR(ERR_USAGE, "unknown verb '%.40s %.40s': use one of %s", argv[0], argv[1],
			   words);
	}
	if (argv[0][0] == '-') {
		return ERR(ERR_USAGE,
			   "unknown option '%.40s': options follow the verb, see 'torpor --help'",
			   argv[0]);
	}
	return ERR(ERR_USAGE, "unknown verb '%.40s': see 'torpor --help'", argv[0]);
}

/* Descriptors 0 to 2 exist from here on, so that no file of ours becomes one of them. */
static void fill_std_fds(void)
{
	int fd = 0;
	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0) {
		close(fd);
	}
}

int main(int argc, char **argv)
{
	fill_std_fds();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* the write fails, and is reported */
	if (getenv("TORPOR_DEBUG") != NULL) {
		log_set_level(LOG_DEBUG);
	}
	argc--;
	argv++;
	if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0 ||
			 strcmp(argv[0], "help") == 0)) {
		print_usage(NULL);
		return out_flush();
	}
	if (argc > 0 && strcmp(argv[0], "--version") == 0) {
		printf("torpor %s\n", TORPOR_VERSION);
		return out_flush();
	}
	if (argc == 2 && is_group(argv[0]) &&
	    (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		print_usage(argv[0]);
		return out_flush();
	}
	bool json = wants_json(argc, argv);
	const struct verb *verb = NULL;
	int words = 0;
	struct err *e = find_verb(argc, argv, &verb, &words);
	if (e != NULL) {
		return fail(e, json);
	}
	struct args a = { .verb = verb, .argc = argc - words, .argv = argv + words };
	int status = 0;
	e = verb->run(&a, &status);
	if (e != NULL) {
		return fail(e, json);
	}
	int flushed = out_flush();
	return status != 0 ? status : flushed;
}
