/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Joining those that share a snapshot's memory. See share.h; share_keeper.c is the other end.
 *
 * Who joins holds the lock until it is connected or has made a keeper: so there is one keeper, and
 * none ends while somebody is on the way to it (share_keeper.c, K2).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "core/base/io.h"
#include "core/share_internal.h"

enum { ANSWER_SECONDS = 60 };

struct err *share_path(const struct share_want *want, const char *suffix,
		       char ret_path[SHARE_PATH_MAX + 1])
{
	char root[65];
	sha256_hex(&want->root, root);
	int n = snprintf(ret_path, SHARE_PATH_MAX + 1, "%s-share/%.32s.%s", want->run_dir, root,
			 suffix);
	ENSURE(n > 0 && n <= SHARE_PATH_MAX, ERR_USAGE,
	       "the path of the run folder is too long for --share-memory: '%s'", want->run_dir);
	return NULL;
}

struct err *share_lock(const struct share_want *want, bool wait, bool *ret_got, struct fd *ret_fd)
{
	char path[SHARE_PATH_MAX + 1];
	TRY(share_path(want, "lock", path));
	SCOPE(fd_close) struct fd fd = { open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) };
	if (fd.n < 0) {
		return ERR_ERRNO("opening '%s'", path);
	}
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int rc;
	do {
		rc = fcntl(fd.n, wait ? F_OFD_SETLKW : F_OFD_SETLK, &l);
	} while (rc != 0 && errno == EINTR);
	*ret_got = rc == 0;
	if (rc != 0 && (wait || (errno != EAGAIN && errno != EACCES))) {
		return ERR_ERRNO("locking '%s'", path);
	}
	*ret_fd = fd_move(&fd);
	return NULL;
}

void shared_memory_done(struct shared_memory *s)
{
	fd_close(&s->memory);
	fd_close(&s->hold);
}

/* ---- the spare process ---- */

struct err *share_spare_begin(struct share_spare *ret_spare)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
		return ERR_ERRNO("--share-memory: making a socket");
	}
	fflush(NULL); /* what is buffered is printed once */
	pid_t child = fork();
	if (child < 0) {
		close(ends[0]);
		close(ends[1]);
		return ERR_ERRNO("--share-memory: starting a process");
	}
	if (child == 0) {
		/* Its parent is gone at once: nobody has to wait for it. */
		if (fork() != 0) {
			_exit(0);
		}
		share_keeper_run(ends[1]);
	}
	close(ends[1]);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
	}
	ret_spare->wire.n = ends[0];
	return NULL;
}

void share_spare_end(struct share_spare *s)
{
	fd_close(&s->wire);
}

/* Who answers by a call or two does so sooner, if it is not stopped. */
static void limit_wait(int fd)
{
	const struct timeval most = { .tv_sec = ANSWER_SECONDS };
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof(most));
}

static struct err *make_keeper(const struct share_want *want, struct share_spare *spare)
{
	char answer[SHARE_ANSWER_MAX + 1];
	ssize_t n = -1;
	limit_wait(spare->wire.n);
	if (send(spare->wire.n, want, sizeof(*want), MSG_NOSIGNAL) == (ssize_t)sizeof(*want)) {
		do {
			n = recv(spare->wire.n, answer, SHARE_ANSWER_MAX, 0);
		} while (n < 0 && errno == EINTR);
	}
	ENSURE(n > 0, ERR_SYS,
	       "--share-memory: the keeper of the memory ended before it was ready");
	answer[n] = 0;
	ENSURE(answer[0] == 'R', ERR_SYS, "--share-memory: %s", answer + 1);
	return NULL;
}

/* ---- joining ---- */

static struct err *connect_to(const char *path, bool *ret_there, struct fd *ret_fd)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	SCOPE(fd_close) struct fd fd = { socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0) };
	if (fd.n < 0) {
		return ERR_ERRNO("--share-memory: making a socket");
	}
	limit_wait(fd.n);
	*ret_there = connect(fd.n, (const struct sockaddr *)&at, sizeof(at)) == 0;
	if (!*ret_there && errno != ENOENT && errno != ECONNREFUSED) {
		return ERR_ERRNO("connecting to '%s'", path);
	}
	*ret_fd = fd_move(&fd);
	return NULL;
}

/* One message; its descriptor, or FD_NONE. n < 0: errno, 0: the end. */
static ssize_t hear(int hold, char text[SHARE_ANSWER_MAX + 1], struct fd *ret_fd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = text, .iov_len = SHARE_ANSWER_MAX };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;
	do {
		n = recvmsg(hold, &msg, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	text[MAX(n, 0)] = 0;
	*ret_fd = FD_NONE;
	const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(int))) {
		memcpy(&ret_fd->n, CMSG_DATA(c), sizeof(ret_fd->n));
	}
	return n;
}

/* *ret_there false: the keeper has ended instead. */
static struct err *receive(int hold, bool *ret_there, struct fd *ret_fd)
{
	char text[SHARE_ANSWER_MAX + 1];
	ssize_t n;
	do {
		n = hear(hold, text, ret_fd);
	} while (n > 0 && text[0] == SHARE_READS);
	ENSURE(n <= 0 || text[0] != SHARE_ERROR, ERR_CORRUPT, "--share-memory: %s", text + 1);
	ENSURE(n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK), ERR_SYS,
	       "--share-memory: the keeper of the memory does not answer");
	*ret_there = n > 0 && ret_fd->n >= 0;
	return NULL;
}

static struct err *connect_or_make(const struct share_want *want, struct share_spare *spare,
				   struct fd *ret_hold)
{
	SCOPE(fd_close) struct fd lock = FD_NONE;
	char path[SHARE_PATH_MAX + 1];
	bool got;
	bool there;
	TRY(share_path(want, "sock", path));
	TRY(share_lock(want, true, &got, &lock));
	TRY(connect_to(path, &there, ret_hold));
	if (!there) {
		fd_close(ret_hold);
		TRY(make_keeper(want, spare));
		TRY(connect_to(path, &there, ret_hold));
	}
	ENSURE(there, ERR_SYS, "--share-memory: the keeper of the memory ended at once");
	return NULL;
}

struct err *share_join(const struct share_want *want, struct share_spare *spare,
		       struct shared_memory *ret_shared)
{
	SCOPE(shared_memory_done) struct shared_memory s = { FD_NONE, FD_NONE };
	char dir[SHARE_DIR_MAX + 8];
	bool there = false;
	snprintf(dir, sizeof(dir), "%s-share", want->run_dir);
	if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
		return ERR_ERRNO("making '%s'", dir);
	}
	/* Once more, if one that was there already was killed: then we make another. */
	for (unsigned i = 0; i < 2 && !there; i++) {
		fd_close(&s.hold);
		TRY(connect_or_make(want, spare, &s.hold));
		TRY(receive(s.hold.n, &there, &s.memory));
	}
	ENSURE(there, ERR_SYS, "--share-memory: the keeper of the memory was killed: try again");
	*ret_shared = s;
	s = (struct shared_memory){ FD_NONE, FD_NONE };
	return NULL;
}
