// SPDX-License-Identifier: MIT
#include "users.h"

#include <pwd.h>

#include <cerrno>
#include <vector>

namespace execve_counter {

std::optional<std::string> UserName(uid_t uid) {
  passwd entry;
  passwd* found = nullptr;
  std::vector<char> buffer(1024);
  while (getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) == ERANGE) {
    buffer.resize(buffer.size() * 2);
  }
  if (!found) return std::nullopt;
  return entry.pw_name;
}

}  // namespace execve_counter
