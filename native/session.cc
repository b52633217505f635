// SPDX-License-Identifier: MIT
#include "session.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>
#include <utility>

#include "failure.h"
#include "inspect.h"
#include "labels.h"
#include "tracepoint.h"

namespace execve_counter {
namespace {

constexpr std::string_view kTracepointSection = "tracepoint/";

bool IsForPins(std::string_view map) {
  return map == STATE_MAP || map.substr(0, kNext.size()) == kNext;
}

// More than a Session ever holds. Where libbpf finds no free descriptor in the middle of a
// load, it may take the kernel for an older one, without the feature that it was probing.
void EnsureDescriptors() {
  std::array<Fd, 64> spare;
  for (Fd& fd : spare) {
    fd = Fd(open("/", O_PATH | O_CLOEXEC));
    if (!fd) throw Failure(Step::kLoad, errno);
  }
}

// Holds signals back from this thread: the verifier ends with EAGAIN where one is pending, and
// a profiler sends one each millisecond. See bpf_verifier.c in the kernel.
class Uninterrupted {
 public:
  Uninterrupted() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~Uninterrupted() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

Session::Session(Object object) : object_(std::move(object)) {}

void Session::Load(const Plan& plan) {
  const auto listener = object_.Listen();
  EnsureDescriptors();
  plan_ = plan;
  Choose();
  Configure();
  if (plan.reuse) Reuse();
  const int error = [&] {
    const Uninterrupted load;
    return bpf_object__load(object_.get());
  }();
  if (error) throw Failure(Step::kLoad, -error);
  if (!plan.reuse) Seed();
  if (plan.pins && !plan.reuse) PinAll();
  Fd counters = Copy(COUNTERS_MAP);
  tables_.emplace(TableMaps{Copy(EXECS_MAP), Copy(GROUPS_MAP), Copy(OWNERS_MAP), Copy(FAILURES_MAP),
                            plan.scope ? Copy(SCOPE_MAP) : Fd()},
                  plan_.config, true);
  counters_.emplace(std::move(counters));
  counters_->barrier().Prepare();
}

// Chooses the programs to load and the maps to make.
void Session::Choose() {
  for (bpf_program* program : object_.Programs()) bpf_program__set_autoload(program, false);
  for (bpf_map* map : object_.Maps()) {
    if (IsForPins(bpf_map__name(map))) bpf_map__set_autocreate(map, false);
  }
  for (const std::string& name : plan_.programs) {
    bpf_program__set_autoload(object_.Program(name), true);
    if (!plan_.pins) continue;
    bpf_map__set_autocreate(object_.Map(kNext + name), true);
    if (!plan_.reuse) bpf_program__set_autoload(object_.Program(kEnter + name), true);
  }
  if (plan_.pins) bpf_map__set_autocreate(object_.Map(STATE_MAP), true);
  bpf_map__set_autocreate(object_.Map(SCOPE_MAP), plan_.scope.has_value());
}

void Session::Configure() {
  config& config = plan_.config;
  config.scoped = plan_.scope.has_value();
  Arrange(config);
  const auto check = [](int error) {
    if (error) throw Failure(Step::kLoad, -error);
  };
  const auto resize = [&](const char* map, uint32_t entries) {
    check(bpf_map__set_max_entries(object_.Map(map), entries));
  };
  check(bpf_map__set_initial_value(object_.Map(CONFIG_MAP), &config, sizeof(config)));
  check(bpf_map__set_key_size(object_.Map(EXECS_MAP), config.key_size));
  resize(EXECS_MAP, config.rows);
  resize(GROUPS_MAP, GroupsFor(config));
  resize(OWNERS_MAP, OwnersFor(config));
  if (config.failures) resize(CALLS_MAP, MAX_CALLS);
}

// Reuses what is pinned.
void Session::Reuse() {
  for (const std::string& name : Pins::MapNames(plan_.programs, plan_.scope.has_value())) {
    plan_.pins->Reuse(object_.Map(name));
  }
  for (const std::string& name : plan_.programs) {
    const uint32_t type = bpf_program__type(object_.Program(kEnter + name));
    auto [program, link] = plan_.pins->OpenEntry(name, type);
    entries_.emplace(name, std::move(program));
    pinned_links_.push_back(std::move(link));
  }
}

void Session::Seed() {
  const auto insert = [&](const char* map, const auto& key, const auto& value) {
    if (bpf_map_update_elem(bpf_map__fd(object_.Map(map)), &key, &value, BPF_ANY) < 0) {
      throw Failure(Step::kLoad, errno);
    }
  };
  const bool groups = HasGroups(plan_.config);
  insert(EXECS_MAP, exec_key{OTHER_GROUP, {}}, exec_row{});
  if (groups) insert(EXECS_MAP, exec_key{RETIRED_GROUP, {}}, exec_row{});
  insert(GROUPS_MAP, uint64_t{MOVES}, group{});
  insert(OWNERS_MAP, uint64_t{ALL_OWNERS}, uint64_t{groups ? 2U : 1U});
  if (!plan_.scope) return;
  scope scope{};
  if (plan_.scope->size() >= sizeof(scope.path)) {
    throw Failure(Step::kScope, ENAMETOOLONG, *plan_.scope);
  }
  plan_.scope->copy(scope.path, sizeof(scope.path));
  insert(SCOPE_MAP, uint32_t{0}, scope);
}

void Session::PinAll() {
  for (const std::string& name : Pins::MapNames(plan_.programs, plan_.scope.has_value())) {
    plan_.pins->Pin(bpf_map__fd(object_.Map(name)), name);
  }
  for (const std::string& name : plan_.programs) {
    plan_.pins->Pin(bpf_program__fd(object_.Program(kEnter + name)), kEnter + name);
    entries_.emplace(name, plan_.pins->Open(kEnter + name));
  }
}

// A descriptor of a map, beside the object's own.
Fd Session::Copy(const std::string& map) const {
  Fd copy(fcntl(bpf_map__fd(object_.Map(map)), F_DUPFD_CLOEXEC, 0));
  if (!copy) throw Failure(Step::kLoad, errno);
  return copy;
}

uint64_t Session::Begin(uint64_t now) {
  if (!plan_.pins) return now;
  const uint32_t index = 0;
  const int fd = bpf_map__fd(object_.Map(STATE_MAP));
  state state{};
  if (plan_.reuse) {
    if (bpf_map_lookup_elem(fd, &index, &state) < 0) {
      throw Failure(Step::kPinned, errno, STATE_MAP);
    }
    // From now on the rows would be keyed by other fields.
    if (memcmp(&state.config, &plan_.config, sizeof(config)) != 0) {
      throw Failure(Step::kPinned, EINVAL, STATE_MAP);
    }
    tables_->Recover();
    return state.start_time;
  }
  state.start_time = now;
  state.config = plan_.config;
  if (bpf_map_update_elem(fd, &index, &state, BPF_ANY) < 0) {
    throw Failure(Step::kPin, errno, STATE_MAP);
  }
  return now;
}

void Session::Attach(const std::string& name) {
  const auto listener = object_.Listen();
  const auto& loaded = plan_.programs;
  if (std::find(loaded.begin(), loaded.end(), name) == loaded.end()) {
    throw Failure(Step::kAttach, ENOENT, name);
  }
  // The kernel would let some hooks run it twice, and count twice.
  if (links_.count(name)) throw Failure(Step::kAttach, EEXIST, name);

  bpf_program* program = object_.Program(name);
  if (!plan_.pins) {
    links_.emplace(name, Hook(name, program));
    return;
  }
  const uint32_t slot = 0;
  const int fd = bpf_program__fd(program);
  if (bpf_map_update_elem(bpf_map__fd(object_.Map(kNext + name)), &slot, &fd, BPF_ANY) < 0) {
    throw Failure(Step::kAttach, errno, name);
  }
  if (plan_.reuse) return;
  const auto link = links_.emplace(name, Hook(name, object_.Program(kEnter + name))).first;
  plan_.pins->Pin(bpf_link__fd(link->second.get()), kLink + name);
}

Session::Link Session::Hook(const std::string& name, bpf_program* program) {
  const std::string_view section = bpf_program__section_name(program);
  const bool tracepoint = section.substr(0, kTracepointSection.size()) == kTracepointSection;
  Fd event;
  if (tracepoint) event = OpenTracepoint(std::string(section.substr(kTracepointSection.size())));
  bpf_link* link = tracepoint ? bpf_program__attach_perf_event(program, event.get())
                              : bpf_program__attach(program);
  if (!link) throw Failure(Step::kAttach, errno, name);
  // The link owns the event now. libbpf has enabled it, which makes the kernel
  // record every call on that CPU without a reader; the program runs without that.
  if (tracepoint) ioctl(event.release(), PERF_EVENT_IOC_DISABLE, 0);
  return Link(link, bpf_link__destroy);
}

uint32_t Session::Retire(uint64_t ended_before) {
  return tables_->Retire(ended_before, counters_->barrier());
}

std::vector<ProgramInfo> Session::Programs() const {
  std::vector<ProgramInfo> programs;
  for (const std::string& name : plan_.programs) {
    bpf_program* program = object_.Program(name);
    bpf_prog_info info = ProgramInfoOf(bpf_program__fd(program));
    const auto entry = entries_.find(name);
    if (entry != entries_.end()) {
      // Another process may have emptied the slot, or put another program there.
      const uint32_t slot = 0;
      uint32_t id;
      if (bpf_map_lookup_elem(bpf_map__fd(object_.Map(kNext + name)), &slot, &id) < 0) {
        throw Failure(Step::kSlot, errno, name);
      }
      if (id != info.id) throw Failure(Step::kSlot, ESTALE, name);
      // The kernel keeps the figures of the attached program.
      info = ProgramInfoOf(entry->second.get());
    }
    programs.push_back({name, bpf_program__section_name(program), info.id, info.run_cnt,
                        info.run_time_ns, info.recursion_misses});
  }
  return programs;
}

std::vector<MapInfo> Session::Maps() const {
  std::vector<MapInfo> maps;
  for (bpf_map* map : object_.Maps()) {
    // A map for pins only, which was not made, though from libbpf 1.4 on it has a descriptor.
    if (!bpf_map__autocreate(map)) continue;
    const bpf_map_info info = MapInfoOf(bpf_map__fd(map));
    maps.push_back({bpf_map__name(map), info.id, info.max_entries});
  }
  return maps;
}

}  // namespace execve_counter
