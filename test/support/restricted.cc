// restricted: prints what calls that start a program fail with, before privileges are given
// up and after, an errno a word: execve, execveat and, on x86-64, execve of 32 bits and of x32.
// The program that is to be started is not there.
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <thread>

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

} // namespace

int main()
{
	Print();
	// On every thread, not only on the one that asks.
	std::thread([] { execve_counter::Restrict(std::nullopt, {}); }).join();
	Print();
}
