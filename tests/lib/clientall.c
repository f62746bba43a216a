/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls every function of libtorpor-client on a living VM and on what is none. Usage: clientall VM
 * LISTENER_PATH. Prints what differs from what a VM without devices has to say; exit 1 if anything
 * does. Prints "tid N" of vCPU 0, so that the caller can look at it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <torpor-client.h>

static int failures;
static struct torpor_client *c;

static void want(const char *what, int rc, int wanted, const char *word)
{
	if (rc == wanted && (rc == 0 ? torpor_error(c)[0] == 0
				     : strstr(torpor_error(c), word) != NULL &&
					       strstr(torpor_error(c), "(errno") == NULL)) {
		return;
	}
	printf("%s: %d, wanted %d; '%s', wanted '%s'\n", what, rc, wanted, torpor_error(c), word);
	failures++;
}
#define OK(call) want(#call, (call), 0, "")
#define FAILS(call, sys, word) want(#call, (call), -(sys), (word))

static void check(const char *what, int ok)
{
	if (!ok) {
		printf("%s\n", what);
		failures++;
	}
}

static void life(void)
{
	struct torpor_status s;
	OK(torpor_suspend_vcpus(c));
	OK(torpor_suspend_vcpus(c));
	OK(torpor_status(c, &s));
	check("state after suspend_vcpus", strcmp(s.state, "vcpus-suspended") == 0);
	OK(torpor_resume_vcpus(c));
	OK(torpor_suspend_vm(c));
	OK(torpor_status(c, &s));
	check("state after suspend_vm", strcmp(s.state, "suspended") == 0);
	FAILS(torpor_resume_vcpus(c), EBUSY, "ResumeVm");
	OK(torpor_resume_vm(c));
	OK(torpor_resume_vm(c));
	OK(torpor_status(c, &s));
	check("state after resume_vm", strcmp(s.state, "running") == 0);
	check("status", s.pid > 0 && s.mem_bytes == 64u << 20 && s.cpus == 1 && s.store[0] == '/' &&
				strlen(s.uuid) == 36 && !s.taking);
}

static void snapshots(void)
{
	struct torpor_take t;
	struct torpor_take_status ts;
	OK(torpor_snapshot_take(c, "lib", &t));
	check("take", strstr(t.ref, "@lib") != NULL && t.number > 0 && t.pages_stored > 0);
	OK(torpor_take_status(c, &ts));
	check("take status", !ts.taking);
	FAILS(torpor_snapshot_take(c, "no/tag", NULL), EINVAL, "tag");
}

static void jobs(void)
{
	struct torpor_rewound r;
	struct torpor_job j;
	struct torpor_job all[64];
	uint64_t id = 0;
	unsigned n = 0;
	char ref[200];
	struct torpor_status s;
	OK(torpor_status(c, &s));
	snprintf(ref, sizeof(ref), "%s@lib", s.name);
	FAILS(torpor_take_cancel(c), EBUSY, "no snapshot");
	OK(torpor_take_begin(c, "begun", 0, &id));
	check("job id", id > 0);
	OK(torpor_job(c, id, &j));
	check("job", j.id == id && strcmp(j.kind, "Take") == 0 && j.begun_at_ns > 0);
	OK(torpor_job_wait(c, id));
	OK(torpor_job(c, id, &j));
	check("done job", strcmp(j.state, "done") == 0 && j.elapsed_us > 0 && j.error[0] == 0);
	FAILS(torpor_job_cancel(c, id), ESRCH, "ended already");
	OK(torpor_rewind(c, ref, &r));
	check("rewind", strcmp(r.ref, ref) == 0 && r.number > 0 && r.safety_number > r.number);
	OK(torpor_rewind_begin(c, ref, &id));
	OK(torpor_job_wait(c, id));
	FAILS(torpor_rewind(c, "no@such", NULL), ENOENT, "no");
	OK(torpor_jobs(c, all, 64, &n));
	check("jobs", n >= 3 && all[n - 1].id >= id && strcmp(all[n - 1].kind, "Rewind") == 0);
	OK(torpor_jobs(c, NULL, 0, &n));
	FAILS(torpor_job(c, 999999, &j), ENOENT, "no job 999999");
	FAILS(torpor_job_wait(c, 999999), ENOENT, "no job 999999");
	FAILS(torpor_job_cancel(c, 0), ENOENT, "no job 0");
	FAILS(torpor_take_begin(c, "no/tag", 0, &id), EINVAL, "tag");
	FAILS(torpor_take_begin(c, "lib", 0, &id) != 0 ? 0 : torpor_job_wait(c, id), EBUSY, "lib");
}

static void checkpoints(void)
{
	struct torpor_checkpoint k;
	OK(torpor_checkpoint_status(c, &k));
	check("no checkpoints", strcmp(k.every, "off") == 0 && strcmp(k.keep, "10") == 0 &&
					!k.taking && k.taken == 0 && k.last_number == 0);
	OK(torpor_checkpoint_policy(c, "120m", "3,daily=7", &k));
	check("policy", strcmp(k.every, "2h") == 0 && strcmp(k.keep, "3,daily=7") == 0);
	OK(torpor_checkpoint_policy(c, NULL, "all", NULL));
	OK(torpor_checkpoint_policy(c, "off", NULL, &k));
	check("policy off", strcmp(k.every, "off") == 0 && strcmp(k.keep, "all") == 0);
	FAILS(torpor_checkpoint_policy(c, "soon", NULL, &k), EINVAL, "every: 'soon'");
	FAILS(torpor_checkpoint_policy(c, NULL, "none", &k), EINVAL, "keep: 'none'");
}

static void vcpus(void)
{
	struct torpor_vcpu v[4];
	unsigned n = 0;
	int fd = -1;
	OK(torpor_vcpus(c, v, 4, &n));
	check("vcpus", n == 1 && v[0].index == 0 && v[0].pid > 0);
	printf("tid %d\n", v[0].tid);
	n = 0;
	OK(torpor_vcpus(c, NULL, 0, &n));
	check("vcpus counted", n == 1);
	OK(torpor_throttle(c, 0, 1000));
	FAILS(torpor_throttle(c, 1, 1000), EINVAL, "no vCPU 1");
	int rc = torpor_make_rt(c);
	check("make_rt", rc == 0 || (rc == -EPERM && strstr(torpor_error(c), "SCHED_RR")));
	OK(torpor_vm_descriptor(c, &fd));
	check("vm descriptor", fd >= 0 && close(fd) == 0);
}

static void memory(void)
{
	uint64_t id = 0;
	int fd = memfd_create("clientall", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	check("memfd", ftruncate(fd, 8192) == 0);
	OK(torpor_register_memory(c, fd, 0, 1u << 30, (1u << 30) + 8192, &id));
	check("region id", id == 1u << 30);
	FAILS(torpor_register_memory(c, fd, 0, 1u << 30, (1u << 30) + 8192, &id), EBUSY, "already");
	FAILS(torpor_snapshot_take(c, "lib2", NULL), EBUSY, "memory");
	OK(torpor_unregister_memory(c, id));
	FAILS(torpor_unregister_memory(c, id), ENOENT, "no region");
	FAILS(torpor_register_memory(c, fd, 0, 0, 4096, &id), EBUSY, "RAM");
	FAILS(torpor_register_memory(c, 0, 0, 1u << 30, (1u << 30) + 4096, &id), EINVAL, "memfd");
	close(fd);
}

static void platform(void)
{
	int event = eventfd(0, EFD_CLOEXEC);
	OK(torpor_powerbtn(c));
	OK(torpor_sleepbtn(c));
	OK(torpor_gpe(c, 5, -1));
	OK(torpor_gpe(c, 6, event));
	FAILS(torpor_gpe(c, 256, -1), EINVAL, "no GPE 256");
	OK(torpor_rtc(c, event));
	FAILS(torpor_rtc(c, -1), EINVAL, "clear_evt");
	FAILS(torpor_pci_pme(c, 0xff08), ENODEV, "PCI");
	close(event);
}

static void swap(void)
{
	struct torpor_swap_status s;
	if (torpor_swap_status(c, &s) == -EOPNOTSUPP) { /* not on this host */
		FAILS(torpor_swap_enable(c), EOPNOTSUPP, "Swap");
		FAILS(torpor_swap_trim(c), EOPNOTSUPP, "Swap");
		FAILS(torpor_swap_out(c), EOPNOTSUPP, "Swap");
		FAILS(torpor_swap_disable(c, true), EOPNOTSUPP, "Swap");
		return;
	}
	FAILS(torpor_swap_trim(c), EBUSY, "swap is Ready");
	OK(torpor_swap_enable(c));
	OK(torpor_swap_status(c, &s));
	check("strcmp(s.state, \"Pending\") == 0", strcmp(s.state, "Pending") == 0);
	OK(torpor_swap_out(c));
	while (OK(torpor_swap_status(c, &s)), strcmp(s.state, "SwapOutInProgress") == 0) {
		usleep(10000);
	}
	check("strcmp(s.state, \"Active\") == 0 && s.swap_pages > 0",
	      strcmp(s.state, "Active") == 0 && s.swap_pages > 0);
	FAILS(torpor_swap_out(c), EBUSY, "swap is Active");
	OK(torpor_swap_disable(c, true));
	while (OK(torpor_swap_status(c, &s)), strcmp(s.state, "Ready") != 0) {
		usleep(10000);
	}
	check("s.swap_pages == 0", s.swap_pages == 0);
}

static void devices(void)
{
	struct torpor_balloon_stats stats;
	struct torpor_ws_bucket buckets[2];
	struct torpor_usb_device usb[16];
	const struct torpor_display display = {
		.width = 640, .height = 480, .dpi_x = 96, .dpi_y = 96, .refresh_hz = 60
	};
	const unsigned numbers[2] = { 1, 2 };
	unsigned n;
	uint64_t actual;
	char *text;
	FAILS(torpor_balloon_adjust(c, 1 << 20, true), ENODEV, "balloon");
	FAILS(torpor_balloon_stats(c, &stats), ENODEV, "balloon");
	FAILS(torpor_balloon_ws(c, buckets, 2, &n, &actual), ENODEV, "balloon");
	FAILS(torpor_balloon_ws_config(c, numbers, 2, 3, 4), ENODEV, "balloon");
	FAILS(torpor_disk_resize(c, 3, 1 << 20), ENODEV, "no disk 3");
	FAILS(torpor_usb_attach(c, 0, &n), ENODEV, "USB");
	FAILS(torpor_usb_attach_key(c, 0, &n), ENODEV, "USB");
	FAILS(torpor_usb_detach(c, 1), ENODEV, "USB");
	FAILS(torpor_usb_list(c, usb, &n), ENODEV, "USB");
	FAILS(torpor_gpu_add(c, &display, 1), ENODEV, "GPU");
	FAILS(torpor_gpu_list(c, &text), ENODEV, "GPU");
	FAILS(torpor_gpu_remove(c, numbers, 2), ENODEV, "GPU");
	FAILS(torpor_gpu_mouse(c, 0, true), ENODEV, "GPU");
	FAILS(torpor_battery(c, "goldfish", "capacity", "40"), ENODEV, "battery");
	FAILS(torpor_battery(c, "goldfish", "status", "charging"), ENODEV, "battery");
	FAILS(torpor_battery(c, "goldfish", "health", "overvoltage"), ENODEV, "battery");
	FAILS(torpor_battery(c, "goldfish", "cancel_fake_bat_config", NULL), ENODEV, "battery");
	FAILS(torpor_battery(c, "goldfish", "status", "rosy"), EINVAL, "rosy");
	FAILS(torpor_battery(c, "goldfish", "colour", "1"), EINVAL, "colour");
	FAILS(torpor_battery(c, "goldfish", "capacity", "x"), EINVAL, "no number");
	FAILS(torpor_battery(c, "silverfish", "capacity", "1"), ENOENT, "silverfish");
	FAILS(torpor_snd_mute(c, true), ENODEV, "sound");
	FAILS(torpor_vfio(c, "EndPoint", "/sys/bus/pci/devices/x", true, true), ENODEV, "PCI");
	FAILS(torpor_vfio(c, "Midpoint", "/x", true, true), ENOENT, "Midpoint");
	int pair[2];
	check("a pair", socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	FAILS(torpor_net_add(c, "tap0", -1, &n), EINVAL, "descriptor");
	FAILS(torpor_net_add(c, "tap0", pair[0], &n), ENODEV, "PCI");
	FAILS(torpor_net_remove(c, 1), ENODEV, "PCI");
	struct torpor_added added;
	const struct torpor_net net = { .fd = pair[1], .end = "none" };
	FAILS(torpor_net_plug(c, &net, &added), ENODEV, "--ports");
	int file = open("/dev/null", O_RDWR | O_CLOEXEC);
	const struct torpor_disk disk = { .fd = file, .path = "/dev/null" };
	FAILS(torpor_disk_plug(c, &disk, &added), EINVAL, "regular file");
	FAILS(torpor_unplug(c, "disk", "vda", true, 0), ENOENT, "vda");
	FAILS(torpor_unplug(c, "fan", "vda", true, 0), ENOENT, "fan");
	close(file);
	close(pair[0]);
	close(pair[1]);
}

static void events(const char *vm, const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char text[4096] = "";
	char *event = NULL;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	check("listen", bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 4) == 0);
	OK(torpor_register_listener(c, path, "StateChange"));
	struct torpor_client *sub = torpor_new();
	check("subscribe", torpor_connect(sub, vm) == 0 && torpor_subscribe(sub) == 0);
	check("a subscriber sends nothing", torpor_powerbtn(sub) == -EBUSY);
	OK(torpor_suspend_vcpus(c));
	int heard = accept(fd, NULL, NULL);
	struct pollfd p = { .fd = heard, .events = POLLIN };
	check("heard", poll(&p, 1, 10000) == 1 && recv(heard, text, sizeof(text) - 1, 0) > 0 &&
			       strstr(text, "\"to\":\"vcpus-suspended\"") != NULL);
	check("event", torpor_next_event(sub, 10000, &event) == 0 &&
			       strstr(event, "\"to\":\"vcpus-suspended\"") != NULL);
	free(event);
	check("no event", torpor_next_event(sub, 10, &event) == -ETIMEDOUT);
	OK(torpor_unregister_listener(c, path, "StateChange"));
	OK(torpor_resume_vcpus(c));
	check("listener is gone", recv(heard, text, sizeof(text), 0) == 0);
	OK(torpor_unregister(c, path));
	FAILS(torpor_register_listener(c, path, "Rain"), ENOENT, "Rain");
	FAILS(torpor_register_listener(c, "here", "StateChange"), EINVAL, "absolute");
	torpor_free(sub);
	close(heard);
	close(fd);
}

static void packets(void)
{
	char *answer = NULL;
	int fd = 7;
	OK(torpor_request(c, "\"VcpuPidTid\"", NULL, 0, &answer, &fd));
	check("answer", answer != NULL && strstr(answer, "pid_tid_map") != NULL && fd == -1);
	free(answer);
	FAILS(torpor_request(c, "nonsense", NULL, 0, &answer, NULL), EINVAL, "no JSON");
	FAILS(torpor_request(c, "", NULL, 0, &answer, NULL), EINVAL, "empty");
	/* An answer that nobody waited for is not taken for the next one's. */
	torpor_set_timeout(c, 0);
	int rc = torpor_snapshot_take(c, "late", NULL);
	check("timeout", rc == -ETIMEDOUT);
	torpor_set_timeout(c, 30000);
	OK(torpor_request(c, "\"VcpuPidTid\"", NULL, 0, &answer, NULL));
	check("the right answer", strstr(answer, "pid_tid_map") != NULL);
	free(answer);
	struct torpor_take_status ts = { .taking = true };
	while (ts.taking && torpor_take_status(c, &ts) == 0) {
		usleep(10000);
	}
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		return 2;
	}
	c = torpor_new();
	FAILS(torpor_powerbtn(c), ENOTCONN, "connect");
	FAILS(torpor_connect(c, "no-such-vm"), ENOENT, "not running");
	FAILS(torpor_connect(c, "/no/such/socket"), ENOENT, "/no/such/socket");
	OK(torpor_connect(c, argv[1]));
	life();
	snapshots();
	jobs();
	checkpoints();
	vcpus();
	memory();
	platform();
	swap();
	devices();
	packets();
	events(argv[1], argv[2]);
	OK(torpor_exit(c));
	/* The VM ends: what comes next is no answer. */
	struct torpor_status s;
	int rc;
	while ((rc = torpor_status(c, &s)) == 0) {
		usleep(10000);
	}
	check("after the end",
	      rc == -ECONNRESET || rc == -ENOENT || rc == -ECONNREFUSED || rc == -EPIPE);
	torpor_free(c);
	return failures != 0;
}
