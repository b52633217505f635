// slow-names: preloaded, answers getpwuid_r(3) $SLOW_NAMES seconds late, as a directory
// service that cannot be reached does.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pwd.h>
#include <stdlib.h>
#include <time.h>

int getpwuid_r(uid_t uid, struct passwd *entry, char *buffer, size_t size, struct passwd **found)
{
	const char *seconds = getenv("SLOW_NAMES");
	int (*look)(uid_t, struct passwd *, char *, size_t, struct passwd **) =
		dlsym(RTLD_NEXT, "getpwuid_r");

	struct timespec left = {.tv_sec = seconds ? atoi(seconds) : 0};
	while (nanosleep(&left, &left) < 0) // a signal has ended it
		;
	return look(uid, entry, buffer, size, found);
}
