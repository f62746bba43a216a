/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of core/ctl.c: connections that end right behind a packet. The requests are ones that
 * no VM is needed for; whole VMs are asked by tests/integration/it_control.sh and it_protocol.sh.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/ctl.h"
#include "core/life_internal.h"
#include "core/loop.h"
#include "tests/lib/expect.h"
#include "tests/lib/tmp_root.h"

enum { ANSWER_MS = 20000 };

static const char bad_request[] = "\"NoSuchRequest\"";

/* A control socket of a VM that is never built, and one client. */
struct fix {
	char dir[64];
	struct sockaddr_un address;
	struct loop *loop;
	struct life *life;
	struct ctl *ctl;
	struct loop_timer *timer;
	int client;
};

/* The client of whom the next read that finds nothing makes a racer; -1: none. */
static int racer = -1;

/*
 * Takes the place of libc's. The kernel's own race, made certain: a packet and the end of its
 * sender come after the read found no packet and before it looks whether the sender has ended.
 */
ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	ssize_t n = syscall(SYS_recvmsg, fd, msg, flags);
	if (n >= 0 || errno != EAGAIN || racer < 0) {
		return n;
	}
	assert_int_equal(send(racer, bad_request, sizeof(bad_request) - 1, 0),
			 sizeof(bad_request) - 1);
	assert_int_equal(shutdown(racer, SHUT_WR), 0);
	racer = -1;
	msg->msg_controllen = 0;
	msg->msg_flags = 0;
	return 0;
}

static void on_timer(void *arg)
{
	struct fix *f = arg;
	struct pollfd p = { .fd = f->client, .events = POLLIN };
	if (poll(&p, 1, 0) != 0) {
		loop_quit(f->loop);
		return;
	}
	loop_timer_set(f->timer, clock_mono_ns() + 1000000u);
}

static void on_limit(void *arg)
{
	loop_quit(((struct fix *)arg)->loop);
}

/* Lets the socket work until the client has something to read. */
static void serve(struct fix *f)
{
	struct loop_timer *limit;
	ok(loop_timer_add(f->loop, on_limit, f, &limit));
	loop_timer_set(limit, clock_mono_ns() + ANSWER_MS * 1000000ull);
	loop_timer_set(f->timer, clock_mono_ns());
	ok(loop_run(f->loop));
	loop_timer_del(limit);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	snprintf(f->dir, sizeof(f->dir), "%.40s/tctl.XXXXXX", tmp_root());
	assert_non_null(mkdtemp(f->dir));
	f->address.sun_family = AF_UNIX;
	snprintf(f->address.sun_path, sizeof(f->address.sun_path), "%s/s", f->dir);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&f->address, sizeof(f->address)), 0);
	assert_int_equal(listen(fd, 4), 0);
	f->life = calloc(1, sizeof(*f->life));
	ok(loop_new(&f->loop));
	ok(ctl_new(f->loop, fd, -1, f->life, &f->ctl));
	ok(loop_timer_add(f->loop, on_timer, f, &f->timer));
	f->client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(f->client, (struct sockaddr *)&f->address, sizeof(f->address)), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;
	close(f->client);
	ctl_free(f->ctl);
	loop_timer_del(f->timer);
	loop_free(f->loop);
	free(f->life);
	unlink(f->address.sun_path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void expect_refusal(struct fix *f)
{
	char answer[512];
	serve(f);
	ssize_t n = recv(f->client, answer, sizeof(answer) - 1, MSG_DONTWAIT);
	assert_true(n > 0);
	answer[n] = 0;
	assert_non_null(strstr(answer, "NoSuchRequest"));
}

static void expect_end(struct fix *f)
{
	char byte;
	serve(f);
	assert_int_equal(recv(f->client, &byte, 1, MSG_DONTWAIT), 0);
}

static void ask(const struct fix *f)
{
	assert_int_equal(send(f->client, bad_request, sizeof(bad_request) - 1, 0),
			 sizeof(bad_request) - 1);
}

static void answered_then_ended(void **state)
{
	struct fix *f = *state;
	ask(f);
	expect_refusal(f);
	ask(f);
	assert_int_equal(shutdown(f->client, SHUT_WR), 0);
	expect_refusal(f);
	expect_end(f);
}

/* The packet that the kernel's "end" overlooked is answered, and the end is seen behind it. */
static void overlooked_packet(void **state)
{
	struct fix *f = *state;
	ask(f);
	racer = f->client;
	expect_refusal(f);
	assert_int_equal(racer, -1);
	expect_refusal(f);
	expect_end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(answered_then_ended, setup, teardown),
		cmocka_unit_test_setup_teardown(overlooked_packet, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
