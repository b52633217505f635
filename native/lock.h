// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_LOCK_H_
#define EXECVE_COUNTER_LOCK_H_

#include <string>

#include "fd.h"

namespace execve_counter {

// Takes an advisory lock on a directory, or on a file, which it makes where it is missing, for
// as long as the descriptor that it returns is open. Throws Failure of the step kLock:
// EWOULDBLOCK where another process has the lock.
Fd TakeLock(const std::string& path);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_LOCK_H_
