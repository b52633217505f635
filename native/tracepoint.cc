// SPDX-License-Identifier: MIT
#include "tracepoint.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>

#include "failure.h"
#include "mount.h"

namespace execve_counter {
namespace {

// A directory descriptor of tracefs.
Fd OpenTracefs() {
  for (const char* path : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}) {
    struct statfs fs;
    if (statfs(path, &fs) == 0 && fs.f_type == TRACEFS_MAGIC) {
      Fd mounted(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
      if (mounted) return mounted;
    }
  }
  return MountAlone("tracefs");
}

// The number that perf_event_open(2) knows a tracepoint by.
uint64_t TracepointId(const std::string& name) {
  const Fd tracefs = OpenTracefs();
  const std::string path = "events/" + name + "/id";
  const Fd file(openat(tracefs.get(), path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) throw Failure(errno == ENOENT ? Step::kTracepoint : Step::kTracefs, errno);
  std::array<char, 32> text{};
  const ssize_t length = read(file.get(), text.data(), text.size() - 1);
  if (length <= 0) throw Failure(Step::kTracefs, length < 0 ? errno : EIO);
  return strtoull(text.data(), nullptr, 10);
}

}  // namespace

Fd OpenTracepoint(const std::string& name) {
  perf_event_attr attr{};
  attr.size = sizeof(attr);
  attr.type = PERF_TYPE_TRACEPOINT;
  attr.config = TracepointId(name);
  const long event =
      syscall(SYS_perf_event_open, &attr, -1, sched_getcpu(), -1, PERF_FLAG_FD_CLOEXEC);
  if (event < 0) throw Failure(Step::kPerfEvent, errno);
  return Fd(static_cast<int>(event));
}

}  // namespace execve_counter
