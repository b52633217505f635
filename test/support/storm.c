// SPDX-License-Identifier: MIT
/*
 * Makes a known number of exec calls as fast as the machine can.
 *
 *   storm execve <threads> <calls> [path]
 *                                       failing calls of execve(2), per thread; with
 *                                       a path of one's own they may fail in any way
 *   storm execveat <threads> <calls> [path]
 *                                       the same with execveat(2)
 *   storm int80 <threads> <calls>       the same with execve(2) as a 32-bit program
 *                                       calls it (x86-64 only)
 *   storm x32 <threads> <calls>         the same as an x32 program calls it, also where
 *                                       the kernel knows no such program (x86-64 only)
 *   storm x32at <threads> <calls>       the same with execveat(2)
 *   storm check <threads> <calls> <path>
 *                                       calls of execveat(2) with AT_EXECVE_CHECK that
 *                                       succeed
 *   storm getppid <threads> <calls>     a system call that has nothing to do with exec
 *   storm munmap <threads> <calls>      the same, by the number that execve has in
 *                                       32-bit programs on x86
 *   storm spawn <threads> <runs> <program>...
 *                                       runs of each program in turn, per thread,
 *                                       waited for
 *   storm spawnas <threads> <runs> <uid> <program>...
 *                                       the same as user <uid> + the thread's number
 *   storm spawnfd <threads> <runs> <program>...
 *                                       the same by file descriptor (execveat)
 *   storm spawn32 1 <runs> <program>... the same as a 32-bit program starts it
 *   storm spawn32fd 1 <runs> <program>...
 *                                       the same by file descriptor
 *   storm killed[fd|32|32fd] <threads> <runs> <program>...
 *                                       like spawn, of programs that cannot be put in
 *                                       the place of the old one: SIGSEGV ends each
 *   storm thread[fd] 1 1 <program>      becomes the program, by a call of a thread
 *                                       other than the first
 *
 * Prints the nanoseconds from the first call to the last.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *mode;
static const char *how = ""; /* of spawn and killed: what comes after that */
static int expected;         /* the status that each program has to end with */
static long calls;
static uid_t uid;
static char **programs;
static const char *path = "/nonexistent";
#define CHECK 0x10000 /* AT_EXECVE_CHECK, since Linux 6.14 */
static pthread_barrier_t start;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/*
 * Calls execve(2), or with a file descriptor execveat(2), as a 32-bit program does: by
 * int $0x80, where these are 11 and 358 and pointers have 32 bits. Returns only when the
 * call fails.
 */
static void exec_int80(const char *path, int fd)
{
#ifdef __x86_64__
	static char *low;
	unsigned int *vector;
	long result;

	if (!low) {
		low = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
		if (low == MAP_FAILED)
			die("mmap");
	}
	/* An argument vector of the path alone, and an empty environment. */
	vector = (unsigned int *)low;
	vector[0] = (unsigned long)(low + 16);
	strcpy(low + 16, path);
	if (fd < 0)
		asm volatile("int $0x80"
			     : "=a"(result)
			     : "a"(11), "b"(low + 16), "c"(vector), "d"(vector + 1)
			     : "memory", "r8", "r9", "r10", "r11");
	else
		asm volatile("int $0x80"
			     : "=a"(result)
			     : "a"(358), "b"((long)fd), "c"(low + 16), "d"(vector), "S"(vector + 1),
			       "D"((long)AT_EMPTY_PATH)
			     : "memory", "r8", "r9", "r10", "r11");
	errno = -result;
#else
	(void)path, (void)fd;
	errno = ENOSYS;
#endif
}

static void become(char *program, long number)
{
	char *const none[] = {NULL};
	char *const argv[] = {program, NULL};

	if (strcmp(how, "32") == 0) {
		exec_int80(program, -1);
	} else if (strcmp(how, "32fd") == 0) {
		exec_int80("", open(program, O_PATH | O_CLOEXEC));
	} else if (strcmp(how, "fd") == 0) {
		int fd = open(program, O_PATH | O_CLOEXEC);

		syscall(SYS_execveat, fd, "", argv, none, AT_EMPTY_PATH);
	} else {
		/* The system call, which changes the user of this process alone. */
		if (uid && syscall(SYS_setresuid, uid + number, uid + number, uid + number))
			_exit(126);
		execve(program, argv, none);
	}
	_exit(127);
}

static void spawn(char *program, long number)
{
	int status;
	pid_t pid = vfork();

	if (pid == 0)
		become(program, number);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("spawn");
	if ((status & ~WCOREFLAG) != expected) {
		fprintf(stderr, "%s: status %x\n", program, status);
		exit(1);
	}
}

static void one_call(long number)
{
	char *const none[] = {NULL};
	static const char nonexistent[] = "/nonexistent";

	if (strcmp(mode, "execve") == 0) {
		execve(path, none, none);
	} else if (strcmp(mode, "execveat") == 0) {
		syscall(SYS_execveat, AT_FDCWD, path, none, none, 0);
	} else if (strcmp(mode, "int80") == 0) {
		exec_int80(nonexistent, -1);
#ifdef __x86_64__
	} else if (strcmp(mode, "x32") == 0) {
		syscall(0x40000000 | 520, nonexistent, none, none);
		if (errno == ENOSYS)
			return;
	} else if (strcmp(mode, "x32at") == 0) {
		syscall(0x40000000 | 545, AT_FDCWD, nonexistent, none, none, 0);
		if (errno == ENOSYS)
			return;
#endif
	} else if (strcmp(mode, "check") == 0) {
		if (syscall(SYS_execveat, AT_FDCWD, programs[0], none, none, CHECK))
			die(programs[0]);
		return;
	} else if (strcmp(mode, "getppid") == 0) {
		syscall(SYS_getppid);
		return;
	} else if (strcmp(mode, "munmap") == 0) {
		munmap(NULL, 4096);
		return;
	} else if (strncmp(mode, "thread", 6) == 0) {
		become(programs[0], number);
	} else {
		for (char **program = programs; *program; program++)
			spawn(*program, number);
		return;
	}
	if (errno != ENOENT && strcmp(path, nonexistent) == 0)
		die(path);
}

static void *thread(void *number)
{
	pthread_barrier_wait(&start);
	for (long i = 0; i < calls; i++)
		one_call((long)number);
	return NULL;
}

int main(int argc, char **argv)
{
	struct timespec before, after;
	long threads;
	pthread_t *ids;

	if (argc < 4) {
		fprintf(stderr,
			"usage: %s "
			"execve|execveat|int80|x32|x32at|check|getppid|munmap|spawn[as|fd|32|32fd]|"
			"killed[fd|32|32fd]|thread[fd] threads calls [uid] [path|program...]\n",
			argv[0]);
		return 2;
	}
	mode = argv[1];
	threads = atol(argv[2]);
	calls = atol(argv[3]);
	programs = argv + 4;
	if (strncmp(mode, "spawn", 5) == 0)
		how = mode + 5;
	if (strncmp(mode, "killed", 6) == 0) {
		how = mode + 6;
		expected = SIGSEGV;
	}
	if (strncmp(mode, "thread", 6) == 0)
		how = mode + 6;
	/* No core, and no program that the kernel would pipe it to: 1 says so. */
	setrlimit(RLIMIT_CORE, &(struct rlimit){1, 1});
	if (strcmp(how, "as") == 0 && argc > 5)
		uid = atol(*programs++);
	if (strncmp(mode, "execve", 6) == 0 && argc > 4)
		path = argv[4];

	ids = calloc(threads, sizeof(*ids));
	pthread_barrier_init(&start, NULL, threads + 1);
	for (long i = 0; i < threads; i++)
		if (pthread_create(&ids[i], NULL, thread, (void *)i))
			die("pthread_create");
	clock_gettime(CLOCK_MONOTONIC, &before);
	pthread_barrier_wait(&start);
	for (long i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &after);
	printf("%lld\n",
	       (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec);
	return 0;
}
