/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process of one VM. See vmm.h.
 *
 * Order: files, serial port and console are opened, the process splits (--detach), the store is
 * opened and the configuration known (prepare), the name is claimed, the control socket listens,
 * the jail closes, and only then the VM is built or loaded: what decodes a snapshot or unpacks a
 * kernel is jailed already. The guest runs last.
 */
#include "tools/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/log.h"
#include "core/ctl.h"
#include "core/jail.h"
#include "core/rundir.h"
#include "core/share.h"
#include "core/uffd.h"
#include "tools/console.h"
#include "tools/detach.h"
#include "tools/disks.h"
#include "tools/nets.h"
#include "tools/out.h"
#include "tools/sweep.h"

enum {
	TERM_RETRY_NS = 200000000, /* a take by somebody else is under way: look again */
	MMAP_BYTES = 1024 * 1024,
	SETTLE_NS = 200000000, /* all threads have begun by then */
};

/* The living part; everything on the main loop's thread. */
struct session_vm {
	struct vmm *v;
	struct loop *loop;
	struct life *life;
	struct fd signals;
	struct loop_timer *retry;
	struct loop_timer *settle;
	bool terminating; /* a signal has been acted upon; the next one ends at once */
	bool ended;
	enum vm_end end;
	char *report;
	struct fd uffd; /* opened before privileges go; -1: memory is read at once */
	struct share_spare spare;
	struct shared_memory shared; /* FD_NONE: the VM's own */
	struct fd swap_uffd;         /* as uffd; -1: no swap, because: */
	char swap_why_not[256];
	char uuid[37];
	char name[NAME_BYTES_MAX + 1];
	char socket_path[256];
	char readonly_path[256]; /* "": none */
	char vsock_path[HOST_SOCKET_BYTES_MAX + 1];
};

void vmm_init(struct vmm *v)
{
	*v = (struct vmm){
		.kernel = FD_NONE,
		.initrd = FD_NONE,
		.end_fd = FD_NONE,
		.on_term = "stop",
		.disk_changed = "refuse",
		.checkpoint_every = "off",
		.checkpoint_keep = "10",
		.watchdog = "off",
		.clock = CLOCK_CONTINUE,
	};
}

void vmm_done(struct vmm *v)
{
	fd_close(&v->kernel);
	fd_close(&v->initrd);
	fd_close(&v->end_fd);
	config_done(&v->config);
	host_ends_done(&v->ends);
	snap_image_free(v->image);
	v->image = NULL;
	store_close(v->store);
	v->store = NULL;
}

/* ---- signals ---- */

static void term_take(struct session_vm *s);

static void term_take_done(void *arg, struct err *e, const struct snap_result *result)
{
	struct session_vm *s = arg;
	if (e != NULL) {
		log_err(err_wrap(e, "checkpoint at SIGTERM failed, the VM goes on; a second signal "
				    "ends it"));
		return;
	}
	LOG_I("checkpoint %s@%llu taken", s->name, (unsigned long long)result->number);
	life_stop(s->life);
}

static void term_take(struct session_vm *s)
{
	struct life_status status;
	life_status(s->life, &status);
	if (status.taking) {
		loop_timer_set(s->retry, clock_mono_ns() + TERM_RETRY_NS);
		return;
	}
	struct err *e = life_take(s->life, NULL, 0, term_take_done, s);
	if (e != NULL) {
		term_take_done(s, e, NULL);
	}
}

static void on_retry(void *arg)
{
	struct session_vm *s = arg;
	if (!s->ended) {
		term_take(s);
	}
}

/* What the threads' filters and the loading took goes back to the host: 2 MiB. */
static void on_settled(void *arg)
{
	(void)arg;
	(void)malloc_trim(0);
}

static void on_signal(void *arg, uint32_t events)
{
	(void)events;
	struct session_vm *s = arg;
	struct signalfd_siginfo info;
	if (read(s->signals.n, &info, sizeof(info)) != (ssize_t)sizeof(info) || s->ended) {
		return;
	}
	bool again = s->terminating;
	s->terminating = true;
	if (!again && strcmp(s->v->on_term, "checkpoint") == 0) {
		term_take(s);
	} else {
		life_stop(s->life);
	}
}

/* Blocked before any lasting thread exists: all inherit it, and signals come by descriptor only. */
static struct err *open_signals(struct fd *ret)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) {
		return ERR_ERRNO("blocking signals");
	}
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0) {
		return ERR_ERRNO("making a descriptor for signals");
	}
	*ret = (struct fd){ fd };
	return NULL;
}

/* ---- the end ---- */

static void on_end(void *arg, enum vm_end end, const char *report)
{
	struct session_vm *s = arg;
	s->ended = true;
	s->end = end;
	s->report = report != NULL ? strdup(report) : NULL;
	loop_quit(s->loop);
}

static const char *end_name(enum vm_end end)
{
	switch (end) {
	case VM_END_POWEROFF:
		return "poweroff";
	case VM_END_RESET:
		return "reset";
	case VM_END_CRASH:
		return "crash";
	case VM_END_PANIC:
		return "panic";
	case VM_END_WATCHDOG:
		return "watchdog";
	case VM_END_STOPPED:
		return "stopped";
	case VM_END_ERROR:
		return "error";
	case VM_END_EXIT:
		break;
	}
	return "exit"; /* VM_END_EXIT and the 31 behind it */
}

/* To whoever looks after the VM. Nobody there is no error. */
static void tell_keeper(const struct session_vm *s, int status)
{
	json_t *j = json_pack("{s:s,s:s,s:i,s:s?}", "name", s->name, "end", end_name(s->end),
			      "status", status, "report", s->report);
	SCOPE(freep) char *text = j != NULL ? json_dumps(j, JSON_COMPACT) : NULL;
	json_decref(j);
	if (text != NULL && s->v->end_fd.n >= 0) {
		err_drop(io_write_full(s->v->end_fd.n, text, strlen(text)),
			 "then the end is seen, and no reason");
	}
}

static struct err *tell_end(const struct session_vm *s, int *ret_status)
{
	*ret_status = s->end == VM_END_STOPPED ? 0 : (int)s->end;
	if (s->report != NULL) {
		fprintf(stderr, "%s%s", s->report,
			s->report[strlen(s->report) - 1] == '\n' ? "" : "\n");
	}
	if (*ret_status != 0) {
		LOG_E("VM '%s' ended: %s", s->name, end_name(s->end));
	}
	tell_keeper(s, *ret_status);
	if (!s->v->json || s->v->detach) {
		return NULL;
	}
	return out_json(json_pack("{s:s,s:s,s:s,s:i,s:s?}", "name", s->name, "uuid", s->uuid, "end",
				  end_name(s->end), "status", *ret_status, "report", s->report));
}

/* ---- the start ---- */

static struct err *enter_jail(const struct session_vm *s, const char *run_dir)
{
	bool landlock = false;
	TRY(jail_process(s->v->store_dir, run_dir, &landlock));
	if (!landlock && !s->v->no_jail) {
		LOG_I("this kernel has no Landlock: file access is limited by seccomp alone");
	}
	return jail_thread(JAIL_MAIN);
}

/* Claims the name and the control socket; the caller owns both until the end. */
static struct err *claim(struct session_vm *s, const char *run_dir, struct fd *ret_lock,
			 struct fd *ret_listen, struct fd *ret_monitors)
{
	char path[4096];
	if (s->v->socket_abs[0] != 0) {
		snprintf(path, sizeof(path), "%s", s->v->socket_abs);
	} else {
		snprintf(path, sizeof(path), "%s/%s.sock", run_dir, s->name);
	}
	TRY(rundir_claim(s->name, s->v->store_dir, path, ret_lock));
	TRY(rundir_listen(s->name, path, ret_listen, s->socket_path, sizeof(s->socket_path)));
	if (s->v->readonly_abs[0] == 0) {
		return NULL;
	}
	return err_wrap(rundir_listen(s->name, s->v->readonly_abs, ret_monitors, s->readonly_path,
				      sizeof(s->readonly_path)),
			"--socket-readonly");
}

/* What the guest's serial port and its virtio console are tied to. */
enum port { PORT_SERIAL, PORT_CONSOLE, PORTS };

/* The console's end goes to those of the devices. */
static struct err *tie_console(struct vmm *v, const struct console *con)
{
	for (unsigned i = 0; i < v->config.devs.n; i++) {
		const struct config_dev *d = &v->config.devs.d[i];
		if (d->kind != CONFIG_CONSOLE) {
			continue;
		}
		struct host_end *end = &v->ends.e[v->ends.n++];
		*end = (struct host_end){
			.fd = FD_NONE,
			.in = con->in,
			.out = con->out,
			.listen = con->listen.n,
		};
		memcpy(end->id, d->id, sizeof(end->id));
		return NULL; /* there is but one */
	}
	ENSURE(v->console == NULL, ERR_USAGE, "--console: the VM has no virtio console");
	return NULL;
}

enum { VSOCK_BACKLOG = 64 };

/* The socket at which programs of the host find the guest. After the name is claimed: whoever had
 * it before is gone. */
static struct err *tie_vsock(struct session_vm *s, const char *run_dir)
{
	struct vmm *v = s->v;
	for (unsigned i = 0; i < v->config.devs.n; i++) {
		const struct config_dev *d = &v->config.devs.d[i];
		if (d->kind != CONFIG_VSOCK) {
			continue;
		}
		char where[4096 + 16];
		struct console c;
		struct host_end *end = host_end_next(&v->ends, d->id);
		if (v->vsock_abs[0] != 0) {
			snprintf(where, sizeof(where), "unix:%s", v->vsock_abs);
		} else {
			snprintf(where, sizeof(where), "unix:%s/%s.vsock", run_dir, s->name);
		}
		const char *path = where + strlen("unix:");
		ENSURE(strlen(path) <= HOST_SOCKET_BYTES_MAX, ERR_USAGE,
		       "the path of the guest's sockets has more than %d bytes: '%s': give a "
		       "shorter one by --vsock-path",
		       HOST_SOCKET_BYTES_MAX, path);
		console_init(&c, "--vsock-path");
		TRY(console_open(&c, where));
		end->fd = fd_move(&c.listen);
		if (listen(end->fd.n, VSOCK_BACKLOG) != 0) {
			return ERR_ERRNO("listening on '%s'", path);
		}
		snprintf(end->path, sizeof(end->path), "%s", path);
		snprintf(s->vsock_path, sizeof(s->vsock_path), "%s", path);
		v->ends.n++;
		return NULL; /* there is but one */
	}
	ENSURE(v->vsock_path == NULL, ERR_USAGE, "--vsock-path: the VM has no socket device");
	return NULL;
}

/* The jailed process may remove files in the run folder only. */
static struct err *begin_sweep(const struct session_vm *s, const char *run_dir, struct sweep *ret)
{
	const char *const sockets[] = { s->socket_path, s->readonly_path, s->vsock_path };
	const char *outside[ARRAY_LEN(sockets)];
	size_t len = strlen(run_dir);
	unsigned n = 0;
	for (size_t i = 0; i < ARRAY_LEN(sockets); i++) {
		const char *p = sockets[i];
		if (p[0] != 0 && (strncmp(p, run_dir, len) != 0 || p[len] != '/')) {
			outside[n++] = p;
		}
	}
	return n > 0 ? sweep_begin(outside, n, ret) : NULL;
}

/* Builds or loads the VM; its parts move from v into it. */
static struct err *build(struct session_vm *s, const struct console *con, struct life **ret_life)
{
	struct vmm *v = s->v;
	SCOPE(progress_freep) struct progress *progress = progress_new();
	const struct life_opts opts = {
		.config = &v->config,
		.store_dir = v->store_dir,
		.kernel_fd = fd_move(&v->kernel).n,
		.initrd_fd = fd_move(&v->initrd).n,
		.image = MOVE(v->image),
		.store = MOVE(v->store),
		.uffd = fd_move(&s->uffd).n,
		.shared = s->shared.memory.n >= 0 ? &s->shared : NULL,
		.swap_uffd = fd_move(&s->swap_uffd).n,
		.swap_why_not = s->swap_why_not,
		.no_fill = v->no_fill,
		.clock = v->clock,
		.serial_in = con[PORT_SERIAL].in,
		.serial_out = con[PORT_SERIAL].out,
		.serial_listen = con[PORT_SERIAL].listen.n,
		.ends = &v->ends,
		.start_paused = v->paused,
		.checkpoint = v->checkpoint,
		.watchdog_ns = v->watchdog_ns,
		.progress = { .fn = progress_show, .arg = progress },
	};
	return life_new(s->loop, &opts, ret_life);
}

static char *started_text(const struct session_vm *s)
{
	json_t *j = json_pack("{s:s,s:s,s:i,s:s,s:s}", "name", s->name, "uuid", s->uuid, "pid",
			      (int)getpid(), "socket", s->socket_path, "store", s->v->store_dir);
	char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	return text;
}

static struct err *serve(struct session_vm *s, struct fd listen[2], struct console *con,
			 struct fd *tell)
{
	SCOPE(life_freep) struct life *life = NULL;
	TRY(build(s, con, &life));
	s->life = life;
	life_on_end(life, on_end, s);
	SCOPE(ctl_freep) struct ctl *ctl = NULL;
	TRY(ctl_new(s->loop, fd_move(&listen[0]).n, fd_move(&listen[1]).n, life, &ctl));
	/* Until here a signal ended the process as usual: nothing of the guest's was lost yet. */
	TRY(open_signals(&s->signals));
	struct loop_fd *watch = NULL;
	TRY(loop_fd_add(s->loop, s->signals.n, EPOLLIN, on_signal, s, &watch));
	TRY(loop_timer_add(s->loop, on_retry, s, &s->retry));
	TRY(loop_timer_add(s->loop, on_settled, s, &s->settle));
	for (unsigned i = 0; i < PORTS; i++) {
		TRY(console_raw(&con[i]));
	}
	TRY(life_start(life));
	loop_timer_set(s->settle, clock_mono_ns() + SETTLE_NS);
	SCOPE(freep) char *text = started_text(s);
	detach_tell_ok(tell, text != NULL ? text : "{}");
	if (con[PORT_SERIAL].raw || con[PORT_CONSOLE].raw) {
		fprintf(stderr, "torpor: every key goes to the guest; 'torpor stop %s' ends it\n",
			s->name);
	}
	TRY(loop_run(s->loop));
	loop_timer_del(s->retry);
	loop_timer_del(s->settle);
	loop_fd_del(watch);
	return NULL;
}

/* Before the jail closes. Without permission the restore is an eager one, and says so. */
static struct err *open_uffd(struct session_vm *s)
{
	struct err *e = uffd_open(&s->uffd);
	if (e != NULL && err_class(e) == ERR_INCOMPAT) {
		LOG_W("%s; until then all memory is read before the guest runs", err_msg(e));
		err_free(e);
		e = NULL;
	}
	return e;
}

static struct err *share(struct session_vm *s, const char *run_dir)
{
	const struct vmm *v = s->v;
	struct share_want want = {
		.root = snap_image_info(v->image)->root,
		.bytes = v->config.mem_bytes,
		.no_jail = v->no_jail,
	};
	ENSURE(strlen(run_dir) < sizeof(want.run_dir), ERR_USAGE,
	       "the path of the run folder is too long for --share-memory: '%s'", run_dir);
	snprintf(want.run_dir, sizeof(want.run_dir), "%s", run_dir);
	snprintf(want.store_dir, sizeof(want.store_dir), "%s", v->store_dir);
	snprintf(want.ref, sizeof(want.ref), "%s", v->ref);
	TRY(share_join(&want, &s->spare, &s->shared));
	share_spare_end(&s->spare);
	return NULL;
}

/* Likewise; whoever asks for swap is told why it cannot be. */
static struct err *open_swap(struct session_vm *s)
{
	struct err *e = uffd_open_minor(&s->swap_uffd);
	if (e != NULL && err_class(e) == ERR_INCOMPAT) {
		snprintf(s->swap_why_not, sizeof(s->swap_why_not), "%s", err_msg(e));
		err_free(e);
		e = NULL;
	}
	return e;
}

/* From the claim to the end. run_dir is the run folder, listen the control and the monitors'
 * socket. */
static struct err *run_claimed(struct session_vm *s, const char *run_dir, struct fd listen[2],
			       struct console *con, struct fd *tell)
{
	SCOPE(loop_freep) struct loop *loop = NULL;
	TRY(loop_new(&loop));
	s->loop = loop;
	if (s->v->lazy) {
		TRY(open_uffd(s));
	}
	if (s->v->share) {
		TRY(share(s, run_dir));
	}
	TRY(open_swap(s));
	if (s->v->no_jail) {
		jail_disable();
	}
	TRY(nets_open(&s->v->config.devs, &s->v->net_map, s->v->image != NULL, &s->v->ends));
	TRY(enter_jail(s, run_dir));
	return serve(s, listen, con, tell);
}

/* A log that says nothing is not kept. */
static void drop_empty_log(const char *path)
{
	struct stat st;
	fflush(stderr);
	if (fstat(STDERR_FILENO, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0) {
		unlink(path);
	}
}

static UNUSED void fds_close(struct fd (*fds)[2])
{
	fd_close(&(*fds)[0]);
	fd_close(&(*fds)[1]);
}

static void consoles_done(struct console *con)
{
	for (unsigned i = 0; i < PORTS; i++) {
		console_done(&con[i]);
	}
}

static void spare_end(struct share_spare *s)
{
	share_spare_end(s);
}

static struct err *run_vm(struct vmm *v, struct console *con, struct fd *tell, int *ret_status)
{
	SCOPE(spare_end) struct share_spare spare = { FD_NONE };
	if (v->share) { /* before the store is opened */
		TRY(share_spare_begin(&spare));
	}
	TRY(v->prepare(v, v->arg));
	TRY(config_check(&v->config));
	TRY(disks_open(v));
	TRY(tie_console(v, &con[PORT_CONSOLE]));
	struct session_vm s = {
		.v = v,
		.signals = FD_NONE,
		.uffd = FD_NONE,
		.swap_uffd = FD_NONE,
		.spare = { fd_move(&spare.wire) },
		.shared = { FD_NONE, FD_NONE },
	};
	snprintf(s.name, sizeof(s.name), "%s", v->config.name);
	uuid_text(v->config.uuid, s.uuid);
	char run_dir[4096 - NAME_BYTES_MAX - 8];
	TRY(rundir_path(run_dir, sizeof(run_dir)));
	SCOPE(fd_close) struct fd lock = FD_NONE;
	SCOPE(fds_close) struct fd listen[2] = { FD_NONE, FD_NONE };
	TRY(claim(&s, run_dir, &lock, &listen[0], &listen[1]));
	struct sweep sweep = { FD_NONE };
	struct err *e = tie_vsock(&s, run_dir);
	if (e == NULL) {
		e = begin_sweep(&s, run_dir, &sweep);
	}
	char log_path[4096];
	snprintf(log_path, sizeof(log_path), "%s/%s.log", run_dir, s.name);
	if (e == NULL && v->detach) {
		e = detach_log_to(log_path);
	}
	if (e == NULL) {
		e = run_claimed(&s, run_dir, listen, con, tell);
	}
	consoles_done(con);
	sweep_end(&sweep);
	rundir_unlink(s.name, s.socket_path);
	if (s.readonly_path[0] != 0) {
		(void)unlink(s.readonly_path);
	}
	if (s.vsock_path[0] != 0) {
		(void)unlink(s.vsock_path);
	}
	fd_close(&s.signals);
	fd_close(&s.swap_uffd);
	fd_close(&s.uffd); /* not used: the start failed before */
	share_spare_end(&s.spare);
	shared_memory_done(&s.shared);
	if (e == NULL) {
		e = tell_end(&s, ret_status);
	}
	if (tell->n >= 0 && e != NULL) {
		unlink(log_path); /* the starter is told */
	} else if (v->detach && e == NULL) {
		drop_empty_log(log_path);
	}
	free(s.report);
	return e;
}

/* The parent of a detached VM: says what was started. */
static struct err *tell_started(const struct vmm *v, const char *text)
{
	json_t *j = json_loads(text, 0, NULL);
	ENSURE(j != NULL, ERR_SYS, "the VM's process said something else than expected");
	if (v->json) {
		return out_json(j);
	}
	json_decref(j);
	return NULL;
}

static struct err *run_detached(struct vmm *v, struct console *con, int *ret_status)
{
	int keep[7 + VMM_NET_FDS] = {
		v->kernel.n,
		v->initrd.n,
		con[PORT_SERIAL].file.n,
		con[PORT_SERIAL].listen.n,
		con[PORT_CONSOLE].file.n,
		con[PORT_CONSOLE].listen.n,
		v->end_fd.n,
	};
	memcpy(keep + 7, v->net_fds, v->nnet_fds * sizeof(keep[0]));
	bool parent = false;
	SCOPE(fd_close) struct fd tell = FD_NONE;
	SCOPE(freep) char *text = NULL;
	TRY(detach_split(keep, 7 + v->nnet_fds, &parent, &tell, &text));
	if (parent) {
		return tell_started(v, text);
	}
	struct err *e = run_vm(v, con, &tell, ret_status);
	if (e != NULL) {
		detach_tell_error(&tell, e);
	}
	return e;
}

static UNUSED void consoles_donep(struct console (*c)[PORTS])
{
	consoles_done(*c);
}

/* Opens both ports' host ends. */
static struct err *open_ports(const struct vmm *v, struct console *con)
{
	const char *where[PORTS] = {
		v->serial,
		v->console != NULL ? v->console : "null",
	};
	bool taken = strcmp(where[PORT_CONSOLE], "stdio") == 0;
	if (where[PORT_SERIAL] == NULL) {
		where[PORT_SERIAL] = v->detach || taken ? "null" : "stdio";
	}
	bool stdio = strcmp(where[PORT_SERIAL], "stdio") == 0;
	ENSURE(!stdio || !taken, ERR_USAGE,
	       "--serial and --console are both stdio: give one of them file:PATH, unix:PATH or "
	       "null");
	const char *option = taken ? "--console" : "--serial";
	ENSURE((!stdio && !taken) || !v->detach, ERR_USAGE,
	       "%s stdio does not go with --detach: use file:PATH, unix:PATH or null", option);
	ENSURE((!stdio && !taken) || !v->json || v->detach, ERR_USAGE,
	       "with --json stdout is not the guest's: give %s file:PATH, unix:PATH or null",
	       option);
	for (unsigned i = 0; i < PORTS; i++) {
		TRY(console_open(&con[i], where[i]));
	}
	return NULL;
}

/* From here on it is ours, and nobody's whom we start. */
static struct err *take_end_fd(struct vmm *v)
{
	if (v->end_fd_number == 0) {
		return NULL;
	}
	int n = (int)MIN(v->end_fd_number, (unsigned)INT32_MAX);
	ENSURE(n > STDERR_FILENO && fcntl(n, F_SETFD, FD_CLOEXEC) == 0, ERR_USAGE,
	       "--end-fd %u: there is no such descriptor", v->end_fd_number);
	v->end_fd = (struct fd){ n };
	return NULL;
}

struct err *vmm_run(struct vmm *v, int *ret_status)
{
	/* One arena: malloc_trim gives back the end of the main arena only, and each thread's own
	 * would keep 0.2 to 3 MiB for good after a take. */
	(void)mallopt(M_ARENA_MAX, 1);
	/* Large and hardly touched tables stay out of the heap, where they would be filled with
	 * zeros. Unset, the limit rises with the first large piece that is freed. */
	(void)mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
	TRY(err_wrap(checkpoint_parse_every(v->checkpoint_every, &v->checkpoint.every_ns),
		     "--checkpoint-every"));
	TRY(err_wrap(checkpoint_parse_keep(v->checkpoint_keep, &v->checkpoint.keep),
		     "--checkpoint-keep"));
	TRY(err_wrap(checkpoint_parse_every(v->watchdog, &v->watchdog_ns), "--watchdog"));
	TRY(take_end_fd(v));
	v->accept_disks = strcmp(v->disk_changed, "accept") == 0;
	SCOPE(consoles_donep) struct console con[PORTS];
	console_init(&con[PORT_SERIAL], "--serial");
	console_init(&con[PORT_CONSOLE], "--console");
	TRY(open_ports(v, con));
	if (v->socket_path != NULL) {
		/* Before the split: the child has another working directory. */
		TRY(err_wrap(opts_absolute(v->socket_path, v->socket_abs, sizeof(v->socket_abs)),
			     "--socket"));
	}
	if (v->socket_readonly != NULL) {
		TRY(err_wrap(
			opts_absolute(v->socket_readonly, v->readonly_abs, sizeof(v->readonly_abs)),
			"--socket-readonly"));
	}
	if (v->vsock_path != NULL) {
		TRY(err_wrap(opts_absolute(v->vsock_path, v->vsock_abs, sizeof(v->vsock_abs)),
			     "--vsock-path"));
	}
	return v->detach ? run_detached(v, con, ret_status)
			 : run_vm(v, con, &(struct fd){ -1 }, ret_status);
}
