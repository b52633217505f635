// SPDX-License-Identifier: MIT
#include "service.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <string_view>

#include "failure.h"
#include "fd.h"

namespace execve_counter {

bool Notify(const std::string& state) {
  const char* variable = getenv("NOTIFY_SOCKET");
  if (!variable) return false;
  const std::string_view path = variable;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) throw Failure(Step::kNotify, EINVAL);
  path.copy(address.sun_path, path.size());
  // An abstract address, which begins with a NUL, is written with an @.
  if (path.front() == '@') address.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());

  Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) throw Failure(Step::kNotify, errno);
  // Never waits: a watchdog that is late is the lesser evil.
  if (sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
             reinterpret_cast<const sockaddr*>(&address), length) < 0) {
    throw Failure(Step::kNotify, errno);
  }
  return true;
}

}  // namespace execve_counter
