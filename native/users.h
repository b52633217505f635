// SPDX-License-Identifier: MIT
//
// Accounts by getpwnam_r(3) and getpwuid_r(3), that is, from /etc/passwd or wherever
// /etc/nsswitch.conf sends: a look-up in a directory service may take its time. Nothing
// where there is no such account; a Failure of the step "user" where nobody can tell.
#ifndef EXECVE_COUNTER_USERS_H_
#define EXECVE_COUNTER_USERS_H_

#include <sys/types.h>

#include <optional>
#include <string>

namespace execve_counter {

struct Account {
  uid_t uid;
  gid_t gid;
};

std::optional<std::string> UserName(uid_t uid);
std::optional<Account> FindAccount(const std::string& name);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_USERS_H_
