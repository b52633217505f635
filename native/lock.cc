// SPDX-License-Identifier: MIT
#include "lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

#include "failure.h"

namespace execve_counter {

Fd TakeLock(const std::string& path) {
  // Without waiting: it may be a pipe.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  Fd file(open(path.c_str(), kFlags));
  if (!file) file = Fd(open(path.c_str(), kFlags | O_CREAT, 0600));
  if (!file || flock(file.get(), LOCK_EX | LOCK_NB) < 0) throw Failure(Step::kLock, errno);
  return file;
}

}  // namespace execve_counter
