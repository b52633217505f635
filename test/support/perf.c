// SPDX-License-Identifier: MIT
/*
 * Records the tracepoint sys_enter_execve of its own thread with perf, the way
 * `perf stat` does, makes <calls> failing calls and prints how many perf saw.
 * Needs tracefs on /sys/kernel/tracing.
 *
 *   perf <calls>
 */
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char *const none[] = {NULL};
	struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof(attr)};
	unsigned long long id, seen;
	FILE *file;
	int fd;

	if (argc != 2)
		return 2;
	file = fopen("/sys/kernel/tracing/events/syscalls/sys_enter_execve/id", "r");
	if (!file || fscanf(file, "%llu", &id) != 1) {
		perror("tracefs");
		return 1;
	}
	attr.config = id;
	fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0) {
		perror("perf_event_open");
		return 1;
	}
	for (long i = atol(argv[1]); i > 0; i--)
		execve("/nonexistent", none, none);
	if (read(fd, &seen, sizeof(seen)) != sizeof(seen)) {
		perror("read");
		return 1;
	}
	printf("%llu\n", seen);
	return 0;
}
