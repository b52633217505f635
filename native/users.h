// SPDX-License-Identifier: MIT
//
// Accounts by getpwnam_r(3) and getpwuid_r(3), that is, from /etc/passwd or another source in
// /etc/nsswitch.conf: a look-up in a directory service may take its time. Nothing where there
// is no such account; a Failure of the step kUser where the look-up fails.
// Thread-safe.
#ifndef EXECVE_COUNTER_USERS_H_
#define EXECVE_COUNTER_USERS_H_

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace execve_counter {

struct Account {
  uid_t uid;
  gid_t gid;
};

std::optional<Account> FindAccount(const std::string& name);
std::optional<Account> FindAccount(uid_t uid);

// What a user's processes have of the account.
struct Login {
  std::string name, home, shell;
  std::vector<gid_t> groups;  // as initgroups(3) would set them
};

// The account of that number, and its groups beside `gid`.
std::optional<Login> FindLogin(uid_t uid, gid_t gid);

// What is known of a user: nothing yet; or that there is no such account, or its name.
using Name = std::optional<std::optional<std::string>>;

// Asks for the name on a thread that the process keeps for it, one name after another, and
// waits for no longer than `patience`. A later call gets the answer, once.
Name UserName(uid_t uid, std::chrono::milliseconds patience);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_USERS_H_
