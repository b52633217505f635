// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_USERS_H_
#define EXECVE_COUNTER_USERS_H_

#include <sys/types.h>

#include <optional>
#include <string>

namespace execve_counter {

// The account's name by getpwuid_r(3), that is, from /etc/passwd or wherever
// /etc/nsswitch.conf sends: a look-up in a directory service may take its time.
// Nothing where there is no such account; throws Failure of the step "user" where
// nobody can tell.
std::optional<std::string> UserName(uid_t uid);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_USERS_H_
