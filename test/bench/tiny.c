// SPDX-License-Identifier: MIT
/* As small as a program can be: no library, and ends at once. */
#include <sys/syscall.h>

void _start(void)
{
#if defined(__x86_64__)
	asm volatile("syscall" : : "a"(SYS_exit), "D"(0));
#elif defined(__aarch64__)
	register long number asm("x8") = SYS_exit;
	register long status asm("x0") = 0;

	asm volatile("svc 0" : : "r"(number), "r"(status));
#endif
	for (;;)
		;
}
