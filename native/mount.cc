// SPDX-License-Identifier: MIT
#include "mount.h"

#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "failure.h"

namespace execve_counter {

// The new mount API (fsopen(2), Linux 5.2) gives a mount that is attached to no path.
Fd MountAlone(const std::string& type) {
  const auto made = [&](long result) {
    if (result < 0) throw Failure(Step::kMount, errno, type);
    return static_cast<int>(result);
  };
  const Fd context(made(syscall(SYS_fsopen, type.c_str(), FSOPEN_CLOEXEC)));
  made(syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
  return Fd(made(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
}

}  // namespace execve_counter
