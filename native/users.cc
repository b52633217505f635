// SPDX-License-Identifier: MIT
#include "users.h"

#include <pwd.h>

#include <cerrno>
#include <vector>

#include "session.h"

namespace execve_counter {

std::optional<std::string> UserName(uid_t uid) {
  constexpr size_t kMost = 1 << 20;
  passwd entry;
  passwd* found = nullptr;
  std::vector<char> buffer(1024);
  int error;
  while ((error = getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found)) == ERANGE &&
         buffer.size() < kMost) {
    buffer.resize(buffer.size() * 2);
  }
  if (found) return entry.pw_name;
  // What getpwuid(3) lists for "not found".
  if (error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM) {
    return std::nullopt;
  }
  throw Failure("user", error);
}

}  // namespace execve_counter
