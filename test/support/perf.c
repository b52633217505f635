// SPDX-License-Identifier: MIT
/*
 * Records a tracepoint of its own thread with perf, the way `perf stat` does,
 * makes <calls> failing calls and prints how many perf saw. Needs tracefs on
 * /sys/kernel/tracing.
 *
 *   perf execve|execveat <calls>
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
	char path[128];
	FILE *file;
	int fd;

	if (argc != 3)
		return 2;
	snprintf(path, sizeof(path), "/sys/kernel/tracing/events/syscalls/sys_enter_%s/id",
		 argv[1]);
	file = fopen(path, "r");
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
	for (long i = atol(argv[2]); i > 0; i--)
		if (strcmp(argv[1], "execve") == 0)
			execve("/nonexistent", none, none);
		else
			syscall(SYS_execveat, AT_FDCWD, "/nonexistent", none, none, 0);
	if (read(fd, &seen, sizeof(seen)) != sizeof(seen)) {
		perror("read");
		return 1;
	}
	printf("%llu\n", seen);
	return 0;
}
