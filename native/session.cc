// SPDX-License-Identifier: MIT
#include "session.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

namespace execve_counter {
namespace {

constexpr std::string_view kTracepointSection = "tracepoint/";

// What is pinned for a program; see PIN_VERSION.
const std::string kEnter = "enter_";
const std::string kNext = "next_";
const std::string kLink = "link_";

bool IsForPins(std::string_view map) {
  return map == STATE_MAP || map.substr(0, kNext.size()) == kNext;
}

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
  if (!context) throw Failure(Step::kMount, errno, "tracefs");
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
    throw Failure(Step::kMount, errno, "tracefs");
  }
  const long mount = syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0);
  if (mount < 0) throw Failure(Step::kMount, errno, "tracefs");
  return static_cast<int>(mount);
}

// The number that perf_event_open(2) knows a tracepoint by.
uint64_t TracepointId(const std::string& name) {
  Fd tracefs(OpenTracefs());
  const std::string path = "events/" + name + "/id";
  Fd file(openat(tracefs.get(), path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) throw Failure(errno == ENOENT ? Step::kTracepoint : Step::kTracefs, errno);
  std::array<char, 32> text{};
  const ssize_t length = read(file.get(), text.data(), text.size() - 1);
  if (length <= 0) throw Failure(Step::kTracefs, length < 0 ? errno : EIO);
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
  if (event < 0) throw Failure(Step::kPerfEvent, errno);
  return static_cast<int>(event);
}

// A container's id as text: empty outside containers, "unknown" where nobody can tell.
std::string Container(const unsigned char (&id)[CONTAINER_SIZE]) {
  const auto all = [&](unsigned char value) {
    return std::all_of(std::begin(id), std::end(id),
                       [=](unsigned char byte) { return byte == value; });
  };
  if (all(0)) return "";
  if (all(UNKNOWN_CONTAINER)) return "unknown";
  std::string text;
  for (const unsigned char byte : id) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

bpf_map_info MapInfoOf(int fd) {
  bpf_map_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd, &info, &size) < 0) throw Failure(Step::kInfo, errno);
  return info;
}

bpf_prog_info ProgramInfoOf(int fd) {
  bpf_prog_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd, &info, &size) < 0) throw Failure(Step::kInfo, errno);
  return info;
}

// More than a Session ever holds. Where libbpf finds no descriptor free in the middle of a
// load it may take the kernel for an older one, without whatever it was about to probe.
void EnsureDescriptors() {
  std::array<std::unique_ptr<Fd>, 64> spare;
  for (auto& fd : spare) {
    fd = std::make_unique<Fd>(open("/", O_PATH | O_CLOEXEC));
    if (!*fd) throw Failure(Step::kLoad, errno);
  }
}

// A program of anybody's.
struct Running {
  bpf_prog_info info;
  std::vector<uint32_t> maps;
};

std::vector<Running> RunningPrograms() {
  std::vector<Running> running;
  uint32_t id = 0;
  while (bpf_prog_get_next_id(id, &id) == 0) {
    Fd program(bpf_prog_get_fd_by_id(id));
    if (!program && errno == ENOENT) continue;  // gone since
    if (!program) throw Failure(Step::kFind, errno);
    std::array<uint32_t, 64> ids{};
    bpf_prog_info info{};
    info.nr_map_ids = ids.size();
    info.map_ids = reinterpret_cast<uintptr_t>(ids.data());
    uint32_t size = sizeof(info);
    if (bpf_obj_get_info_by_fd(program.get(), &info, &size) < 0) throw Failure(Step::kFind, errno);
    const size_t count = std::min<size_t>(info.nr_map_ids, ids.size());
    running.push_back({info, {ids.begin(), ids.begin() + count}});
  }
  if (errno != ENOENT) throw Failure(Step::kFind, errno);
  return running;
}

Fd OpenPin(const std::string& pins, const std::string& name) {
  Fd fd(bpf_obj_get((pins + "/" + name).c_str()));
  if (!fd) throw Failure(Step::kPinned, errno, name);
  return fd;
}

// What the kernel keeps of a program's or a map's name.
std::string Short(const std::string& name) { return name.substr(0, BPF_OBJ_NAME_LEN - 1); }

// What is in slot 0 of a map of programs; 0 for nothing.
uint32_t InSlot(uint32_t map_id) {
  Fd map(bpf_map_get_fd_by_id(map_id));
  const uint32_t slot = 0;
  uint32_t id = 0;
  if (!map || bpf_map_lookup_elem(map.get(), &slot, &id) < 0) return 0;
  return id;
}

bool HoldsCounters(int fd) {
  const bpf_map_info info = MapInfoOf(fd);
  return std::string_view(info.name) == COUNTERS_MAP && info.type == BPF_MAP_TYPE_HASH &&
         info.key_size == KEY_SIZE && info.value_size == sizeof(uint64_t) &&
         info.max_entries == MAX_COUNTERS;
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

Session::Session(Log log) : log_(std::move(log)), object_(nullptr, bpf_object__close) {
  static std::once_flag once;
  std::call_once(once, [] { libbpf_set_print(Print); });
}

Session::Session(const std::string& object_path, Log log) : Session(std::move(log)) {
  LogScope scope(*this);
  object_.reset(bpf_object__open_file(object_path.c_str(), nullptr));
  if (!object_) throw Failure(Step::kOpen, errno);
}

Session::Session(std::string_view object, Log log) : Session(std::move(log)) {
  LogScope scope(*this);
  bpf_object_open_opts options{};
  options.sz = sizeof(options);
  options.object_name = "execve_counter";
  // What libbpf keeps of it, it copies.
  object_.reset(bpf_object__open_mem(object.data(), object.size(), &options));
  if (!object_) throw Failure(Step::kOpen, errno);
}

Session::~Session() = default;

void Session::Load(const Plan& plan) {
  LogScope scope(*this);
  EnsureDescriptors();
  plan_ = plan;
  const bool pinned = !plan.pins.empty();
  bpf_program* program;
  bpf_object__for_each_program(program, object_.get()) {
    bpf_program__set_autoload(program, false);
  }
  bpf_map* map;
  bpf_object__for_each_map(map, object_.get()) {
    if (IsForPins(bpf_map__name(map))) bpf_map__set_autocreate(map, false);
  }
  for (const std::string& name : plan.programs) {
    bpf_program__set_autoload(Program(name), true);
    if (!pinned) continue;
    bpf_map__set_autocreate(Map(kNext + name), true);
    if (!plan.adopt) bpf_program__set_autoload(Program(kEnter + name), true);
  }
  if (pinned) bpf_map__set_autocreate(Map(STATE_MAP), true);

  int error = bpf_map__set_initial_value(Map(CONFIG_MAP), &plan.keys, sizeof(plan.keys));
  if (!error) error = bpf_map__set_max_entries(Map(EXECS_MAP), plan.rows);
  if (!error && plan.keys.failures) error = bpf_map__set_max_entries(Map(CALLS_MAP), MAX_CALLS);
  if (error) throw Failure(Step::kLoad, -error);
  if (plan.adopt) {
    for (const std::string& name : PinnedMaps()) ReuseMap(Map(name));
    for (const std::string& name : plan.programs) CheckEntry(name);
  }
  error = bpf_object__load(object_.get());
  if (error) throw Failure(Step::kLoad, -error);

  counters_fd_ = bpf_map__fd(Map(COUNTERS_MAP));
  execs_fd_ = bpf_map__fd(Map(EXECS_MAP));
  failures_fd_ = bpf_map__fd(Map(FAILURES_MAP));
  MakeRoom();
  if (plan.adopt) return;

  const exec_key other = OTHER_KEY;
  const uint64_t zero = 0;
  if (bpf_map_update_elem(execs_fd_, &other, &zero, BPF_ANY) < 0) {
    throw Failure(Step::kLoad, errno);
  }
  if (!pinned) return;
  for (const std::string& name : PinnedMaps()) Pin(bpf_map__fd(Map(name)), name);
  for (const std::string& name : plan.programs) {
    const int fd = bpf_program__fd(Program(kEnter + name));
    Pin(fd, kEnter + name);
    entries_.emplace(name, OpenPin(plan_.pins, kEnter + name));
  }
}

std::vector<std::string> Session::PinnedMaps() {
  std::vector<std::string> names = {COUNTERS_MAP, EXECS_MAP, FAILURES_MAP, CALLS_MAP, STATE_MAP};
  for (const std::string& program : plan_.programs) names.push_back(kNext + program);
  return names;
}

void Session::Pin(int fd, const std::string& name) {
  if (bpf_obj_pin(fd, (plan_.pins + "/" + name).c_str()) < 0)
    throw Failure(Step::kPin, errno, name);
}

Plan Session::Pinned(const std::string& pins) {
  const Fd execs = OpenPin(pins, EXECS_MAP);
  const Fd begun = OpenPin(pins, STATE_MAP);
  const auto is = [](const bpf_map_info& info, uint32_t type, uint32_t key, uint32_t value) {
    return info.type == type && info.key_size == key && info.value_size == value;
  };
  const bpf_map_info rows = MapInfoOf(execs.get());
  if (!is(rows, BPF_MAP_TYPE_HASH, sizeof(exec_key), sizeof(uint64_t))) {
    throw Failure(Step::kPinned, EINVAL, EXECS_MAP);
  }
  const uint32_t index = 0;
  state state{};
  if (!is(MapInfoOf(begun.get()), BPF_MAP_TYPE_ARRAY, sizeof(index), sizeof(state)) ||
      bpf_map_lookup_elem(begun.get(), &index, &state) < 0) {
    throw Failure(Step::kPinned, EINVAL, STATE_MAP);
  }
  Plan plan;
  plan.keys = state.keys;
  plan.rows = rows.max_entries;
  return plan;
}

// Takes a pinned map in the place of the one that would be made, if it is the same.
void Session::ReuseMap(bpf_map* map) {
  const std::string name = bpf_map__name(map);
  const Fd pinned = OpenPin(plan_.pins, name);
  bpf_map_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(pinned.get(), &info, &size) < 0 || info.type != bpf_map__type(map) ||
      info.key_size != bpf_map__key_size(map) || info.value_size != bpf_map__value_size(map) ||
      info.max_entries != bpf_map__max_entries(map) || info.map_flags != bpf_map__map_flags(map) ||
      bpf_map__reuse_fd(map, pinned.get()) < 0) {
    throw Failure(Step::kPinned, EINVAL, name);
  }
}

// What is pinned as the entry of a program must be a program of that name which calls
// what is in the program's slot, and its link must be attached.
void Session::CheckEntry(const std::string& name) {
  Fd entry = OpenPin(plan_.pins, kEnter + name);
  std::array<uint32_t, 8> maps{};
  bpf_prog_info program{};
  program.nr_map_ids = maps.size();
  program.map_ids = reinterpret_cast<uintptr_t>(maps.data());
  uint32_t size = sizeof(program);
  if (bpf_obj_get_info_by_fd(entry.get(), &program, &size) < 0 ||
      program.type != bpf_program__type(Program(kEnter + name)) ||
      program.name != (kEnter + name).substr(0, sizeof(program.name) - 1) ||
      std::find(maps.begin(), maps.end(), MapInfoOf(OpenPin(plan_.pins, kNext + name).get()).id) ==
          maps.end()) {
    throw Failure(Step::kPinned, EINVAL, kEnter + name);
  }
  Fd link = OpenPin(plan_.pins, kLink + name);
  bpf_link_info attached{};
  size = sizeof(attached);
  if (bpf_obj_get_info_by_fd(link.get(), &attached, &size) < 0 || attached.prog_id != program.id) {
    throw Failure(Step::kPinned, EINVAL, kLink + name);
  }
  entries_.emplace(name, std::move(entry));
  pinned_links_.push_back(std::move(link));
}

uint64_t Session::Begin(uint64_t now) {
  if (!followed_.empty()) {
    uint64_t loaded = 0;
    for (const auto& [name, each] : followed_) loaded = std::max(loaded, each.load_time);
    timespec since_boot;
    clock_gettime(CLOCK_BOOTTIME, &since_boot);
    const uint64_t ago =
        since_boot.tv_sec * 1000ULL + since_boot.tv_nsec / 1000000 - loaded / 1000000;
    return now > ago ? now - ago : 0;
  }
  if (plan_.pins.empty()) return now;
  const uint32_t index = 0;
  const int fd = bpf_map__fd(Map(STATE_MAP));
  state state{};
  if (plan_.adopt) {
    if (bpf_map_lookup_elem(fd, &index, &state) < 0) throw Failure(Step::kPinned, errno, STATE_MAP);
    // The rows would be keyed by other fields from now on.
    if (memcmp(&state.keys, &plan_.keys, sizeof(config)) != 0) {
      throw Failure(Step::kPinned, EINVAL, STATE_MAP);
    }
    return state.start_time;
  }
  state.start_time = now;
  state.keys = plan_.keys;
  if (bpf_map_update_elem(fd, &index, &state, BPF_ANY) < 0)
    throw Failure(Step::kPin, errno, STATE_MAP);
  return now;
}

bpf_map* Session::Map(const std::string& name) {
  bpf_map* map = bpf_object__find_map_by_name(object_.get(), name.c_str());
  if (!map) throw Failure(Step::kLoad, ENOENT, name);
  return map;
}

bpf_program* Session::Program(const std::string& name) {
  bpf_program* program = bpf_object__find_program_by_name(object_.get(), name.c_str());
  if (!program) throw Failure(Step::kLoad, ENOENT, name);
  return program;
}

void Session::Adopt(uint32_t map_id) {
  Fd map(bpf_map_get_fd_by_id(map_id));
  if (!map) throw Failure(Step::kAdopt, errno);
  if (!HoldsCounters(map.get())) throw Failure(Step::kAdopt, EINVAL);
  counters_fd_ = map.get();
  adopted_.push_back(std::move(map));
  MakeRoom();
}

void Session::Follow() {
  const uint32_t counters = MapInfoOf(counters_fd_).id;
  // The maps of each program that may be of ours, by name.
  struct Candidate {
    bpf_prog_info info;
    std::map<std::string, bpf_map_info> maps;
  };
  std::vector<Candidate> candidates;
  std::set<std::string> names;
  bpf_program* program;
  bpf_object__for_each_program(program, object_.get()) {
    names.insert(Short(bpf_program__name(program)));
  }
  for (const Running& running : RunningPrograms()) {
    if (!names.count(running.info.name)) continue;
    candidates.push_back({running.info, {}});
    for (const uint32_t id : running.maps) {
      Fd map(bpf_map_get_fd_by_id(id));
      if (!map) continue;  // gone since, with its program
      const bpf_map_info info = MapInfoOf(map.get());
      candidates.back().maps.emplace(info.name, info);
    }
  }
  const auto map_of = [](const Candidate& candidate, const std::string& name) -> uint32_t {
    const auto map = candidate.maps.find(name);
    return map == candidate.maps.end() ? 0 : map->second.id;
  };

  // What was loaded together shares its config: libbpf binds that to every program.
  std::set<uint32_t> configs;
  std::map<uint32_t, Followed> entries;  // by what they call
  for (const Candidate& each : candidates) {
    const uint32_t config = map_of(each, CONFIG_MAP);
    // Without one where it went while it was looked at.
    if (config && map_of(each, COUNTERS_MAP) == counters) configs.insert(config);
    for (const auto& [name, map] : each.maps) {
      if (map.type != BPF_MAP_TYPE_PROG_ARRAY) continue;
      const uint32_t called = InSlot(map.id);
      entries[called] = {called, each.info.id, map.id, each.info.load_time};
    }
  }
  for (const Candidate& each : candidates) {
    for (const auto& [name, map] : each.maps) {
      if (map.type != BPF_MAP_TYPE_PROG_ARRAY || !configs.count(map_of(each, CONFIG_MAP))) continue;
      if (!InSlot(map.id)) throw Failure(Step::kSlot, ESTALE, each.info.name);
    }
  }
  std::map<std::string, Followed> followed;
  const Candidate* counting_execs = nullptr;
  uint32_t failures_map = 0;
  std::vector<std::string> programs;
  bpf_object__for_each_program(program, object_.get()) {
    const std::string name = bpf_program__name(program);
    const Candidate* best = nullptr;
    for (const Candidate& each : candidates) {
      if (Short(name) != each.info.name || !configs.count(map_of(each, CONFIG_MAP))) continue;
      if (name.substr(0, kEnter.size()) == kEnter) continue;
      // There are two for a moment, while an agent takes over what is pinned.
      if (!best || entries.count(each.info.id) > entries.count(best->info.id)) best = &each;
    }
    if (!best) continue;
    const auto entry = entries.find(best->info.id);
    const auto before = followed_.find(name);
    if (before != followed_.end() && before->second.entry && entry == entries.end()) {
      throw Failure(Step::kSlot, ESTALE, name);  // emptied, or given to another program
    }
    followed[name] = entry != entries.end() ? entry->second
                                            : Followed{best->info.id, 0, 0, best->info.load_time};
    programs.push_back(name);
    if (best->maps.count(EXECS_MAP)) counting_execs = best;
    if (map_of(*best, FAILURES_MAP)) failures_map = map_of(*best, FAILURES_MAP);
  }
  // Loaded as the last of the programs that count: where it is, all are.
  if (!counting_execs) throw Failure(Step::kFollow, ESRCH);

  Plan plan;
  plan.programs = programs;
  const Fd keys = FollowMap(map_of(*counting_execs, CONFIG_MAP), BPF_MAP_TYPE_ARRAY,
                            sizeof(uint32_t), sizeof(config));
  const uint32_t index = 0;
  if (bpf_map_lookup_elem(keys.get(), &index, &plan.keys) < 0) throw Failure(Step::kFollow, errno);
  Fd execs = FollowMap(map_of(*counting_execs, EXECS_MAP), BPF_MAP_TYPE_HASH, sizeof(exec_key),
                       sizeof(uint64_t));
  plan.rows = MapInfoOf(execs.get()).max_entries;
  std::optional<Fd> failed;
  if (failures_map) {
    failed = FollowMap(failures_map, BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(failures));
  }

  plan_ = plan;
  followed_ = followed;
  adopted_.erase(adopted_.begin() + 1, adopted_.end());
  execs_fd_ = execs.get();
  adopted_.push_back(std::move(execs));
  failures_fd_ = failed ? failed->get() : -1;
  if (failed) adopted_.push_back(std::move(*failed));
  MakeRoom();
}

Fd Session::FollowMap(uint32_t id, uint32_t type, uint32_t key_size, uint32_t value_size) {
  Fd map(bpf_map_get_fd_by_id(id));
  if (!map) throw Failure(Step::kFollow, errno == ENOENT ? ESRCH : errno);
  const bpf_map_info info = MapInfoOf(map.get());
  // More than a meter ever has would not fit into memory.
  if (info.type != type || info.key_size != key_size || info.value_size != value_size ||
      info.max_entries > 65536) {
    throw Failure(Step::kFollow, EINVAL);
  }
  return map;
}

// Makes room to read the fullest map into.
void Session::MakeRoom() {
  keys_.reset(new char[std::max<size_t>(MAX_COUNTERS * KEY_SIZE, plan_.rows * sizeof(exec_key))]);
  values_.reset(new uint64_t[std::max<size_t>(MAX_COUNTERS, plan_.rows)]);
}

std::vector<uint32_t> Session::FindCounters() {
  std::set<uint32_t> found;
  for (const Running& running : RunningPrograms()) {
    for (const uint32_t id : running.maps) {
      Fd map(bpf_map_get_fd_by_id(id));
      if (map && HoldsCounters(map.get())) found.insert(id);
    }
  }
  return {found.begin(), found.end()};
}

void Session::Attach(const std::string& name) {
  LogScope scope(*this);
  bpf_program* program = bpf_object__find_program_by_name(object_.get(), name.c_str());
  if (!program || bpf_program__fd(program) < 0) throw Failure(Step::kAttach, ENOENT, name);
  // The kernel would let some hooks run it twice, and count twice.
  if (links_.count(name)) throw Failure(Step::kAttach, EEXIST, name);

  if (!plan_.pins.empty()) {
    const uint32_t slot = 0;
    const int fd = bpf_program__fd(program);
    if (bpf_map_update_elem(bpf_map__fd(Map(kNext + name)), &slot, &fd, BPF_ANY) < 0) {
      throw Failure(Step::kAttach, errno, name);
    }
    if (plan_.adopt) return;
    program = Program(kEnter + name);
  }
  const std::string_view section = bpf_program__section_name(program);
  bpf_link* link;
  if (section.substr(0, kTracepointSection.size()) == kTracepointSection) {
    Fd event(OpenTracepoint(std::string(section.substr(kTracepointSection.size()))));
    link = bpf_program__attach_perf_event(program, event.get());
    if (!link) throw Failure(Step::kAttach, errno, name);
    // The link owns the event now. libbpf has enabled it, which makes the kernel
    // record every call on that CPU for nobody; the program runs without.
    ioctl(event.release(), PERF_EVENT_IOC_DISABLE, 0);
  } else {
    link = bpf_program__attach(program);
    if (!link) throw Failure(Step::kAttach, errno, name);
  }
  links_.emplace(name, std::unique_ptr<bpf_link, int (*)(bpf_link*)>(link, bpf_link__destroy));
  if (!plan_.pins.empty()) Pin(bpf_link__fd(link), kLink + name);
}

bool Session::ValidKey(std::string_view key) {
  return !key.empty() && key.size() < KEY_SIZE && key.find('\0') == std::string_view::npos;
}

void Session::Update(std::string_view key, uint64_t value) {
  if (bpf_map_update_elem(counters_fd_, Pad(key).data(), &value, BPF_ANY) < 0) {
    throw Failure(Step::kUpdate, errno);
  }
}

bool Session::Insert(std::string_view key) {
  const uint64_t zero = 0;
  if (bpf_map_update_elem(counters_fd_, Pad(key).data(), &zero, BPF_NOEXIST) == 0) return true;
  if (errno != EEXIST) throw Failure(Step::kUpdate, errno);
  return false;
}

std::optional<uint64_t> Session::Lookup(std::string_view key) {
  uint64_t value;
  if (bpf_map_lookup_elem(counters_fd_, Pad(key).data(), &value) == 0) return value;
  if (errno != ENOENT) throw Failure(Step::kLookup, errno);
  return std::nullopt;
}

bool Session::Remove(std::string_view key) {
  if (bpf_map_delete_elem(counters_fd_, Pad(key).data()) == 0) return true;
  if (errno != ENOENT) throw Failure(Step::kDelete, errno);
  return false;
}

void Session::Settle() {
  // The update of a map of maps returns when no program runs any more that could
  // have seen what was there before (maybe_wait_bpf_programs() in the kernel).
  Fd inner(
      bpf_map_create(BPF_MAP_TYPE_ARRAY, nullptr, sizeof(uint32_t), sizeof(uint32_t), 1, nullptr));
  if (!inner) throw Failure(Step::kSettle, errno);
  bpf_map_create_opts options{};
  options.sz = sizeof(options);
  options.inner_map_fd = inner.get();
  Fd outer(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, nullptr, sizeof(uint32_t), sizeof(uint32_t),
                          1, &options));
  if (!outer) throw Failure(Step::kSettle, errno);
  const uint32_t index = 0;
  const int value = inner.get();
  if (bpf_map_update_elem(outer.get(), &index, &value, BPF_ANY) < 0) {
    throw Failure(Step::kSettle, errno);
  }
}

// Reads a whole hash into keys_ and values_, and returns how many there are.
uint32_t Session::ReadHash(int fd, uint32_t capacity) {
  // The buffers hold the fullest map, so the first call reaches the end of the
  // map, which the kernel reports as ENOENT beside the count.
  uint32_t position = 0;
  uint32_t count = capacity;
  const int error =
      bpf_map_lookup_batch(fd, nullptr, &position, keys_.get(), values_.get(), &count, nullptr);
  if (!error) throw Failure(Step::kRead, ENOSPC);
  if (errno != ENOENT) throw Failure(Step::kRead, errno);
  return count;
}

std::vector<std::pair<std::string, uint64_t>> Session::ReadCounters() {
  std::vector<std::pair<std::string, uint64_t>> counters;
  const uint32_t count = ReadHash(counters_fd_, MAX_COUNTERS);
  counters.reserve(count);
  for (uint32_t i = 0; i < count; i++) {
    const char* key = keys_.get() + i * KEY_SIZE;
    counters.emplace_back(std::string(key, strnlen(key, KEY_SIZE)), values_[i]);
  }
  return counters;
}

std::vector<Exec> Session::ReadExecs() {
  std::vector<Exec> execs;
  const uint32_t count = ReadHash(execs_fd_, plan_.rows);
  execs.reserve(count);
  for (uint32_t i = 0; i < count; i++) {
    exec_key key;
    memcpy(&key, keys_.get() + i * sizeof(key), sizeof(key));
    execs.push_back({std::string(key.command, strnlen(key.command, COMM_SIZE)),
                     Container(key.container), key.uid, values_[i]});
  }
  return execs;
}

Failures Session::ReadFailures() {
  Failures all;
  if (failures_fd_ < 0) return all;  // of a Session that does not count them
  auto row = std::make_unique<failures>();
  for (uint32_t call : {CALL_EXECVE, CALL_EXECVEAT}) {
    if (bpf_map_lookup_elem(failures_fd_, &call, row.get()) < 0) {
      throw Failure(Step::kRead, errno);
    }
    for (uint32_t error = 0; error <= MAX_ERRNO; error++) {
      if (!row->by_errno[error]) continue;
      all.failed.push_back(
          {call == CALL_EXECVE ? "execve" : "execveat", error, row->by_errno[error]});
    }
    all.checks += row->checks;
    all.unfollowed += row->unfollowed;
  }
  return all;
}

std::vector<ProgramInfo> Session::Programs() {
  std::vector<ProgramInfo> programs;
  for (const std::string& name : plan_.programs) {
    if (!followed_.empty()) {
      programs.push_back(FollowedProgram(name));
      continue;
    }
    bpf_program* program = Program(name);
    bpf_prog_info info = ProgramInfoOf(bpf_program__fd(program));
    const auto entry = entries_.find(name);
    if (entry != entries_.end()) {
      // Somebody may have emptied the slot, or put another program there.
      const uint32_t slot = 0;
      uint32_t id;
      if (bpf_map_lookup_elem(bpf_map__fd(Map(kNext + name)), &slot, &id) < 0) {
        throw Failure(Step::kSlot, errno, name);
      }
      if (id != info.id) throw Failure(Step::kSlot, ESTALE, name);
      // The kernel keeps the figures of what is attached.
      info = ProgramInfoOf(entry->second.get());
    }
    programs.push_back({name, bpf_program__section_name(program), info.id, info.run_cnt,
                        info.run_time_ns, info.recursion_misses});
  }
  return programs;
}

// Opened for a moment only: who holds it keeps it from going with its Session.
ProgramInfo Session::FollowedProgram(const std::string& name) {
  const Followed& followed = followed_.at(name);
  if (followed.next && InSlot(followed.next) != followed.program)
    throw Failure(Step::kFollow, ESTALE);
  Fd fd(bpf_prog_get_fd_by_id(followed.entry ? followed.entry : followed.program));
  if (!fd) throw Failure(Step::kFollow, errno == ENOENT ? ESTALE : errno);
  const bpf_prog_info info = ProgramInfoOf(fd.get());
  return {name,
          bpf_program__section_name(Program(name)),
          info.id,
          info.run_cnt,
          info.run_time_ns,
          info.recursion_misses};
}

std::vector<MapInfo> Session::Maps() {
  std::vector<MapInfo> maps;
  if (!followed_.empty()) {
    for (const Fd& fd : adopted_) {
      const bpf_map_info info = MapInfoOf(fd.get());
      maps.push_back({info.name, info.id, info.max_entries});
    }
    return maps;
  }
  bpf_map* map;
  bpf_object__for_each_map(map, object_.get()) {
    // Not made: for pins only, though from libbpf 1.4 on it has a descriptor; or not loaded yet.
    if (!bpf_map__autocreate(map) || bpf_map__fd(map) < 0) continue;
    const bpf_map_info info = MapInfoOf(bpf_map__fd(map));
    maps.push_back({bpf_map__name(map), info.id, info.max_entries});
  }
  return maps;
}

void Session::Lock(const std::string& path) {
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW;
  auto lock = std::make_unique<Fd>(open(path.c_str(), kFlags));
  if (!*lock) lock = std::make_unique<Fd>(open(path.c_str(), kFlags | O_CREAT, 0600));
  if (!*lock || flock(lock->get(), LOCK_EX | LOCK_NB) < 0) throw Failure(Step::kLock, errno);
  lock_ = std::move(lock);
}

void Session::MountBpffs(const std::string& directory) {
  // Not by mount(): before glibc 2.36 its header and linux/mount.h exclude each other.
  if (syscall(SYS_mount, "bpf", directory.c_str(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "mode=0700") < 0) {
    throw Failure(Step::kMount, errno, "bpffs");
  }
}

std::string Session::LibbpfVersion() {
  const std::string version = libbpf_version_string();  // "v1.1"
  return version.substr(version.find_first_not_of('v'));
}

}  // namespace execve_counter
