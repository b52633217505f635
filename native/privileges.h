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
// no supplementary groups, where there is an account; and no capability but those to `keep`, by
// their numbers below 64, which it has.
//
// Capabilities belong to threads, and those that Node.js has beside the calling one lose
// theirs with the change from uid 0; where the ids stay, they keep what they were given. So
// that nobody gets at it through this one, other processes of the user cannot trace it.
//
// Throws Failure of the step "seccomp", "setgroups", "setresgid", "setresuid" or "capset";
// what came before it in this order is done.
void Restrict(const std::optional<Account>& account, const std::vector<uint32_t>& keep);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_PRIVILEGES_H_
