/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what a VM is and its threads, takes a snapshot when it is told a tag, and shows the events
 * that come with it. Build and run:
 *
 *	cc -o watch watch.c $(pkg-config --cflags --libs torpor-client)
 *	./watch web before-upgrade
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <torpor-client.h>

static int fail(const char *what, const struct torpor_client *c)
{
	fprintf(stderr, "watch: %s: %s\n", what, torpor_error(c));
	return 1;
}

/* Events that have come so far. */
static int show_events(struct torpor_client *events)
{
	char *text;
	int rc;
	while ((rc = torpor_next_event(events, 200, &text)) == 0) {
		printf("event %s\n", text);
		free(text);
	}
	return rc == -ETIMEDOUT ? 0 : fail("events", events);
}

static int take(struct torpor_client *c, const char *vm, const char *tag)
{
	struct torpor_take result;
	struct torpor_client *events = torpor_new();
	int rc = 1;
	if (events == NULL || torpor_connect(events, vm) != 0 || torpor_subscribe(events) != 0) {
		fprintf(stderr, "watch: no events\n");
	} else if (torpor_snapshot_take(c, tag, &result) != 0) {
		rc = fail("snapshot", c);
	} else {
		printf("taken %s: %llu bytes, guest paused %llu us\n", result.ref,
		       (unsigned long long)result.bytes_stored,
		       (unsigned long long)result.pause_us);
		rc = show_events(events);
	}
	torpor_free(events);
	return rc;
}

static int watch(struct torpor_client *c, const char *vm, const char *tag)
{
	struct torpor_status status;
	struct torpor_vcpu vcpus[64];
	unsigned n;
	if (torpor_connect(c, vm) != 0) {
		return fail("connect", c);
	}
	torpor_set_timeout(c, 60000);
	if (torpor_status(c, &status) != 0 || torpor_vcpus(c, vcpus, 64, &n) != 0) {
		return fail("status", c);
	}
	printf("%s is %s: %u vCPUs, %llu MiB\n", status.name, status.state, status.cpus,
	       (unsigned long long)(status.mem_bytes >> 20));
	for (unsigned i = 0; i < n && i < 64; i++) {
		printf("vcpu %u thread %d\n", vcpus[i].index, vcpus[i].tid);
	}
	return tag != NULL ? take(c, vm, tag) : 0;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: watch VM [TAG]\n");
		return 2;
	}
	struct torpor_client *c = torpor_new();
	int rc = c != NULL ? watch(c, argv[1], argc > 2 ? argv[2] : NULL) : 1;
	torpor_free(c);
	return rc;
}
