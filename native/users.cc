// SPDX-License-Identifier: MIT
#include "users.h"

#include <pwd.h>

#include <cerrno>
#include <vector>

#include "session.h"

namespace execve_counter {
namespace {

// Looks a passwd(5) entry up, with a buffer as large as it needs, and takes from it.
template <typename Look, typename Take>
auto FromEntry(Look look, Take take) -> std::optional<decltype(take(passwd{}))> {
  constexpr size_t kMost = 1 << 20;
  passwd entry;
  passwd* found = nullptr;
  std::vector<char> buffer(1024);
  int error;
  while ((error = look(&entry, buffer.data(), buffer.size(), &found)) == ERANGE &&
         buffer.size() < kMost) {
    buffer.resize(buffer.size() * 2);
  }
  if (found) return take(entry);
  // What getpwuid(3) lists for "not found".
  if (error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM) {
    return std::nullopt;
  }
  throw Failure("user", error);
}

}  // namespace

std::optional<std::string> UserName(uid_t uid) {
  return FromEntry([&](auto... result) { return getpwuid_r(uid, result...); },
                   [](const passwd& entry) { return std::string(entry.pw_name); });
}

std::optional<Account> FindAccount(const std::string& name) {
  return FromEntry([&](auto... result) { return getpwnam_r(name.c_str(), result...); },
                   [](const passwd& entry) { return Account{entry.pw_uid, entry.pw_gid}; });
}

}  // namespace execve_counter
