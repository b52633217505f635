// restricted: prints what calls that start a program fail with, before privileges are given
// up and after, an errno a word: execve, execveat and, on x86-64, execve of 32 bits and of x32.
// The program that is to be started is not there.
// restricted uid|gid|groups|filter|permitted|inheritable: prints what it fails with where a
// thread has another user, group or groups than the others or a filter of its own, or hears
// no signal and has capabilities that are permitted or inheritable only.
// restricted chain: prints the capabilities of the last of threads that each start the next.
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <future>
#include <thread>

#include "../../native/failure.h"
#include "../../native/privileges.h"

namespace
{

const char kNowhere[] = "/nonexistent";

long Error(long result)
{
	return result < 0 ? errno : 0;
}

void Print()
{
	printf("%ld", Error(syscall(SYS_execve, kNowhere, nullptr, nullptr)));
	printf(" %ld", Error(syscall(SYS_execveat, -1, kNowhere, nullptr, nullptr, 0)));
#if defined(__x86_64__)
	long result = 11; // __NR_execve of i386
	// A null pointer: the 32-bit call cannot be given an address that is above 4 GiB.
	asm volatile("int $0x80" : "+a"(result) : "b"(0), "c"(0), "d"(0) : "memory");
	printf(" %ld", -result);
	printf(" %ld", Error(syscall(0x40000000 | 520, kNowhere, nullptr, nullptr)));
#endif
	printf("\n");
}

// The thread does it to itself alone: these are system calls, not the C library's functions.
void Differ(const char *how)
{
	const gid_t group = 1;
	const unsigned long all = ~0UL;
	__user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	__user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
	syscall(SYS_capget, &header, sets);
	sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	const sock_fprog filter = {1, allow};
	if (!strcmp(how, "uid"))
		syscall(SYS_setresuid, -1, 1, -1);
	if (!strcmp(how, "gid"))
		syscall(SYS_setresgid, -1, 1, -1);
	if (!strcmp(how, "groups"))
		syscall(SYS_setgroups, 1, &group);
	if (!strcmp(how, "filter"))
		syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter);
	if (!strcmp(how, "permitted") || !strcmp(how, "inheritable")) {
		for (auto &set : sets)
			set = *how == 'p' ? __user_cap_data_struct{0, set.permitted, 0}
					  : __user_cap_data_struct{0, 0, set.permitted};
		syscall(SYS_capset, &header, sets);
		syscall(SYS_rt_sigprocmask, 0 /* SIG_BLOCK */, &all, nullptr, sizeof all);
	}
}

std::atomic<bool> ends;

// Each thread starts the next and ends; the last one says what it has.
void Start(std::promise<uint32_t> *last)
{
	usleep(1000);
	if (!ends) {
		std::thread(Start, last).detach();
		return;
	}
	__user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	__user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
	syscall(SYS_capget, &header, sets);
	last->set_value(sets[0].permitted | sets[1].permitted);
}

} // namespace

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "chain")) {
		std::promise<uint32_t> last;
		std::thread(Start, &last).detach();
		execve_counter::Restrict(std::nullopt, {});
		ends = true;
		printf("%x\n", last.get_future().get());
		return 0;
	}
	if (argc > 1) {
		std::promise<void> different;
		std::thread([&] {
			Differ(argv[1]);
			different.set_value();
			for (;;)
				pause();
		}).detach();
		different.get_future().wait();
		try {
			execve_counter::Restrict(std::nullopt, {});
		} catch (const execve_counter::Failure &failure) {
			printf("%s: %s\n", failure.what(), strerror(failure.error));
		}
		fflush(stdout);
		_exit(0);
	}
	Print();
	// On every thread, not only on the one that asks. The C library's signal works again then:
	// else this would wait for the other thread for ever.
	std::thread([] {
		execve_counter::Restrict(std::nullopt, {});
		if (setresgid(-1, -1, -1) < 0)
			perror("setresgid");
	}).join();
	Print();
}
