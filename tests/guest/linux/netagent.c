/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /init of the Linux guest of the network tests: gives eth0 an address and sends back what comes
 * over TCP port 7. Environment (from the kernel's command line): net_ip=ADDRESS (/24),
 * net_gw=ADDRESS. Lines: "net: up", "net: client N", "net: echoed KIB", "net: gone N (errno)",
 * "net: no device".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 4, PORT = 7, PIECE = 16384, TELL_KIB = 64 };

static struct sockaddr_in address(const char *text, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };

	inet_pton(AF_INET, text, &a.sin_addr);
	return a;
}

static int set_up(const char *ip, const char *gateway)
{
	struct ifreq r = { 0 };
	struct sockaddr_in a = address(ip, 0), mask = address("255.255.255.0", 0);
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	strcpy(r.ifr_name, "eth0");
	memcpy(&r.ifr_addr, &a, sizeof(a));
	if (ioctl(s, SIOCSIFADDR, &r) != 0) {
		return -1;
	}
	memcpy(&r.ifr_netmask, &mask, sizeof(mask));
	ioctl(s, SIOCSIFNETMASK, &r);
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(s, SIOCSIFFLAGS, &r) != 0) {
		return -1;
	}
	if (gateway != NULL) {
		struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
		struct sockaddr_in any = address("0.0.0.0", 0), gw = address(gateway, 0);
		memcpy(&route.rt_dst, &any, sizeof(any));
		memcpy(&route.rt_genmask, &any, sizeof(any));
		memcpy(&route.rt_gateway, &gw, sizeof(gw));
		if (ioctl(s, SIOCADDRT, &route) != 0) {
			return -1;
		}
	}
	close(s);
	return 0;
}

static void add(struct pollfd *p, int fd)
{
	for (int i = 1; i <= CLIENTS; i++) {
		if (p[i].fd < 0) {
			p[i] = (struct pollfd){ .fd = fd, .events = POLLIN };
			printf("net: client %d\n", i);
			return;
		}
	}
	close(fd);
}

static void echo(struct pollfd *p, int i)
{
	static char buf[PIECE];
	static long total, told;
	ssize_t n = read(p->fd, buf, sizeof(buf));

	for (ssize_t done = 0; n > 0 && done < n;) {
		ssize_t w = write(p->fd, buf + done, (size_t)(n - done));
		if (w < 0) {
			n = -1;
			break;
		}
		done += w;
	}
	if (n <= 0) {
		printf("net: gone %d (%d)\n", i, n < 0 ? errno : 0);
		close(p->fd);
		p->fd = -1;
		return;
	}
	total += n;
	if (total / 1024 / TELL_KIB != told) {
		told = total / 1024 / TELL_KIB;
		printf("net: echoed %ld\n", total / 1024);
	}
}

int main(void)
{
	struct pollfd p[1 + CLIENTS];
	struct sockaddr_in any = address("0.0.0.0", PORT);
	const char *ip = getenv("net_ip");
	int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (set_up(ip != NULL ? ip : "10.0.2.15", getenv("net_gw")) != 0) {
		printf("net: no device (%d)\n", errno);
		for (;;) {
			pause();
		}
	}
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	bind(s, (struct sockaddr *)&any, sizeof(any));
	listen(s, CLIENTS);
	p[0] = (struct pollfd){ .fd = s, .events = POLLIN };
	for (int i = 1; i <= CLIENTS; i++) {
		p[i] = (struct pollfd){ .fd = -1 };
	}
	printf("net: up\n");
	for (;;) {
		poll(p, 1 + CLIENTS, -1);
		if (p[0].revents) {
			int c = accept(s, NULL, NULL);
			if (c >= 0) {
				add(p, c);
			}
		}
		for (int i = 1; i <= CLIENTS; i++) {
			if (p[i].fd >= 0 && p[i].revents) {
				echo(&p[i], i);
			}
		}
	}
}
