// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_PRIVILEGES_H_
#define EXECVE_COUNTER_PRIVILEGES_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "users.h"

namespace execve_counter {

// Gives privileges up, for good: no_new_privs(2const) on every thread, which can then start
// no program at all (a seccomp filter answers EPERM); the account's ids on every thread, and
// no supplementary groups, where there is an account; and every capability on every thread.
// The calling thread keeps those to `keep`, by their numbers below 64; it must have them. (The
// bounding set, which bounds what a started program can have, stays.) Other processes of the
// user cannot trace this one.
//
// Capabilities belong to threads, and capset(2) changes only the calling one's: the others get
// a signal. Whether it worked is read in /proc, for every thread.
//
// Throws Failure of the step kSeccomp, kSetgroups, kSetresgid, kSetresuid, kCapset or
// kThreads: ETIMEDOUT where a thread has something left after ten seconds, like one that the
// C library does not know; the steps before it in this order are done.
void Restrict(const std::optional<Account>& account, const std::vector<uint32_t>& keep);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_PRIVILEGES_H_
