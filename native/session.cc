// SPDX-License-Identifier: MIT
#include "session.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "../bpf/execve_counter.h"

namespace execve_counter {
namespace {

constexpr std::string_view kTracepointSection = "tracepoint/";

// libbpf has one print callback for the whole process; the Session whose method
// is running on this thread receives the message.
thread_local const Log* current_log = nullptr;

int Print(libbpf_print_level level, const char* format, va_list args) {
  if (!current_log || !*current_log) return 0;
  // The verifier's log can be long, and its end matters most.
  va_list again;
  va_copy(again, args);
  const int length = vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (length < 0) return length;
  std::string message(length, '\0');
  vsnprintf(message.data(), length + 1, format, args);
  const LogLevel mapped = level == LIBBPF_WARN   ? LogLevel::kWarn
                          : level == LIBBPF_INFO ? LogLevel::kInfo
                                                 : LogLevel::kDebug;
  (*current_log)(mapped, std::move(message));
  return length;
}

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

std::array<char, KEY_SIZE> Pad(std::string_view key) {
  std::array<char, KEY_SIZE> padded{};
  key.copy(padded.data(), KEY_SIZE - 1);
  return padded;
}

// A directory descriptor of tracefs. The new mount API (fsopen(2), Linux 5.2)
// gives a mount that is attached to no path and dies with its descriptor.
int OpenTracefs() {
  for (const char* path : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}) {
    struct statfs fs;
    if (statfs(path, &fs) == 0 && fs.f_type == TRACEFS_MAGIC) {
      const int mounted = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
      if (mounted >= 0) return mounted;
    }
  }
  Fd context(static_cast<int>(syscall(SYS_fsopen, "tracefs", FSOPEN_CLOEXEC)));
  if (!context) throw Failure("tracefs", errno);
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
    throw Failure("tracefs", errno);
  }
  const long mount = syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0);
  if (mount < 0) throw Failure("tracefs", errno);
  return static_cast<int>(mount);
}

// The number that perf_event_open(2) knows a tracepoint by.
uint64_t TracepointId(const std::string& name) {
  Fd tracefs(OpenTracefs());
  const std::string path = "events/" + name + "/id";
  Fd file(openat(tracefs.get(), path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) throw Failure(errno == ENOENT ? "tracepoint" : "tracefs", errno);
  std::array<char, 32> text{};
  const ssize_t length = read(file.get(), text.data(), text.size() - 1);
  if (length <= 0) throw Failure("tracefs", length < 0 ? errno : EIO);
  return strtoull(text.data(), nullptr, 10);
}

// A perf event of the tracepoint, on any CPU that is online: a program attached to
// it runs on all of them, because it hangs on the tracepoint itself
// (perf_event_attach_bpf_prog() in the kernel).
int OpenTracepoint(const std::string& name) {
  perf_event_attr attr{};
  attr.size = sizeof(attr);
  attr.type = PERF_TYPE_TRACEPOINT;
  attr.config = TracepointId(name);
  const long event =
      syscall(SYS_perf_event_open, &attr, -1, sched_getcpu(), -1, PERF_FLAG_FD_CLOEXEC);
  if (event < 0) throw Failure("perf_event", errno);
  return static_cast<int>(event);
}

}  // namespace

class Session::LogScope {
 public:
  explicit LogScope(const Session& session) : previous_(current_log) {
    current_log = &session.log_;
  }
  ~LogScope() { current_log = previous_; }
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  const Log* previous_;
};

Session::Session(const std::string& object_path, Log log)
    : log_(std::move(log)), object_(nullptr, bpf_object__close) {
  static std::once_flag once;
  std::call_once(once, [] { libbpf_set_print(Print); });

  LogScope scope(*this);
  object_.reset(bpf_object__open_file(object_path.c_str(), nullptr));
  if (!object_) throw Failure("open", errno);
}

Session::~Session() = default;

void Session::Load(const std::vector<std::string>& programs) {
  LogScope scope(*this);
  bpf_program* program;
  bpf_object__for_each_program(program, object_.get()) {
    bpf_program__set_autoload(program, false);
  }
  for (const std::string& name : programs) {
    program = bpf_object__find_program_by_name(object_.get(), name.c_str());
    if (!program) throw Failure("load", ENOENT);
    bpf_program__set_autoload(program, true);
  }
  const int error = bpf_object__load(object_.get());
  if (error) throw Failure("load", -error);
  counters_fd_ = MapFd(COUNTERS_MAP);
  execs_fd_ = MapFd(EXECS_MAP);
  keys_.reset(new char[MAX_COUNTERS * KEY_SIZE]);
  values_.reset(new uint64_t[MAX_COUNTERS]);
}

int Session::MapFd(const char* name) {
  const int fd = bpf_object__find_map_fd_by_name(object_.get(), name);
  if (fd < 0) throw Failure("load", -fd);
  return fd;
}

void Session::Attach(const std::string& name) {
  LogScope scope(*this);
  bpf_program* program = bpf_object__find_program_by_name(object_.get(), name.c_str());
  const std::string step = "attach " + name;
  if (!program || bpf_program__fd(program) < 0) throw Failure(step, ENOENT);
  // The kernel would let some hooks run it twice, and count twice.
  if (links_.count(name)) throw Failure(step, EEXIST);

  const std::string_view section = bpf_program__section_name(program);
  bpf_link* link;
  if (section.substr(0, kTracepointSection.size()) == kTracepointSection) {
    Fd event(OpenTracepoint(std::string(section.substr(kTracepointSection.size()))));
    link = bpf_program__attach_perf_event(program, event.get());
    if (!link) throw Failure(step, errno);
    // The link owns the event now. libbpf has enabled it, which makes the kernel
    // record every call on that CPU for nobody; the program runs without.
    ioctl(event.release(), PERF_EVENT_IOC_DISABLE, 0);
  } else {
    link = bpf_program__attach(program);
    if (!link) throw Failure(step, errno);
  }
  links_.emplace(name, std::unique_ptr<bpf_link, int (*)(bpf_link*)>(link, bpf_link__destroy));
}

bool Session::ValidKey(std::string_view key) {
  return !key.empty() && key.size() < KEY_SIZE && key.find('\0') == std::string_view::npos;
}

void Session::Update(std::string_view key, uint64_t value) {
  if (bpf_map_update_elem(counters_fd_, Pad(key).data(), &value, BPF_ANY) < 0) {
    throw Failure("update", errno);
  }
}

std::optional<uint64_t> Session::Lookup(std::string_view key) {
  uint64_t value;
  if (bpf_map_lookup_elem(counters_fd_, Pad(key).data(), &value) == 0) return value;
  if (errno != ENOENT) throw Failure("lookup", errno);
  return std::nullopt;
}

bool Session::Remove(std::string_view key) {
  if (bpf_map_delete_elem(counters_fd_, Pad(key).data()) == 0) return true;
  if (errno != ENOENT) throw Failure("delete", errno);
  return false;
}

std::vector<std::pair<std::string, uint64_t>> Session::ReadCounters() {
  // The buffers hold the fullest map, so the first call reaches the end of the
  // map, which the kernel reports as ENOENT beside the count.
  uint32_t position = 0;
  uint32_t count = MAX_COUNTERS;
  const int error = bpf_map_lookup_batch(counters_fd_, nullptr, &position, keys_.get(),
                                         values_.get(), &count, nullptr);
  if (!error) throw Failure("read", ENOSPC);
  if (errno != ENOENT) throw Failure("read", errno);

  std::vector<std::pair<std::string, uint64_t>> counters;
  counters.reserve(count);
  for (uint32_t i = 0; i < count; i++) {
    const char* key = keys_.get() + i * KEY_SIZE;
    counters.emplace_back(std::string(key, strnlen(key, KEY_SIZE)), values_[i]);
  }
  return counters;
}

uint64_t Session::ReadExecs() {
  const uint32_t row = 0;
  uint64_t value;
  if (bpf_map_lookup_elem(execs_fd_, &row, &value) < 0) throw Failure("read", errno);
  return value;
}

std::vector<ProgramInfo> Session::Programs() {
  std::vector<ProgramInfo> programs;
  bpf_program* program;
  bpf_object__for_each_program(program, object_.get()) {
    const int fd = bpf_program__fd(program);
    if (fd < 0) continue;  // not chosen
    bpf_prog_info info{};
    uint32_t size = sizeof(info);
    if (bpf_obj_get_info_by_fd(fd, &info, &size) < 0) throw Failure("info", errno);
    programs.push_back({bpf_program__name(program), bpf_program__section_name(program), info.id,
                        info.run_cnt, info.run_time_ns, info.recursion_misses});
  }
  return programs;
}

std::vector<MapInfo> Session::Maps() {
  std::vector<MapInfo> maps;
  bpf_map* map;
  bpf_object__for_each_map(map, object_.get()) {
    bpf_map_info info{};
    uint32_t size = sizeof(info);
    if (bpf_obj_get_info_by_fd(bpf_map__fd(map), &info, &size) < 0) throw Failure("info", errno);
    maps.push_back({bpf_map__name(map), info.id, info.max_entries});
  }
  return maps;
}

std::string Session::LibbpfVersion() {
  const std::string version = libbpf_version_string();  // "v1.1"
  return version.substr(version.find_first_not_of('v'));
}

}  // namespace execve_counter
