// SPDX-License-Identifier: MIT
#include "follower.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <set>
#include <string_view>

#include "../bpf/execve_counter.h"
#include "failure.h"
#include "inspect.h"
#include "labels.h"
#include "pins.h"

namespace execve_counter {
namespace {

bool HoldsCounters(const bpf_map_info& map) {
  return std::string_view(map.name) == COUNTERS_MAP && map.max_entries == MAX_COUNTERS &&
         Fits(map, BPF_MAP_TYPE_HASH, KEY_SIZE, sizeof(uint64_t));
}

bool IsScope(const bpf_map_info& map) {
  return std::string_view(map.name) == SCOPE_MAP &&
         Fits(map, BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(scope));
}

Fd OpenCounters(uint32_t id) {
  Fd map(bpf_map_get_fd_by_id(id));
  if (!map) throw Failure(Step::kOpenById, errno);
  if (!HoldsCounters(MapInfoOf(map.get()))) throw Failure(Step::kOpenById, EINVAL);
  return map;
}

constexpr uint32_t kMostEntries = 2 * 65536 + 1;

// A map of the followed meter, if it is of this version.
Fd OpenTable(uint32_t id, uint32_t type, uint32_t key_size, uint32_t value_size,
             uint32_t entries = 1) {
  Fd map(bpf_map_get_fd_by_id(id));
  if (!map) throw Failure(Step::kFollow, errno == ENOENT ? ESRCH : errno);
  const bpf_map_info info = MapInfoOf(map.get());
  // More than a meter ever has would not fit into memory.
  if (!Fits(info, type, key_size, value_size) || info.max_entries != entries ||
      entries > kMostEntries) {
    throw Failure(Step::kFollow, EINVAL);
  }
  return map;
}

// A program that may be of the meter, and its maps, by their names.
struct Candidate {
  bpf_prog_info info;
  std::map<std::string, bpf_map_info> maps;

  // 0 for none.
  uint32_t Map(const std::string& name) const {
    const auto map = maps.find(name);
    return map == maps.end() ? 0 : map->second.id;
  }
  // The maps with the slot of the program that it calls.
  std::vector<uint32_t> Nexts() const {
    std::vector<uint32_t> nexts;
    for (const auto& [name, map] : maps) {
      if (map.type == BPF_MAP_TYPE_PROG_ARRAY) nexts.push_back(map.id);
    }
    return nexts;
  }
};

std::vector<Candidate> FindCandidates(const std::set<std::string>& short_names) {
  std::vector<Candidate> candidates;
  for (const LoadedProgram& program : LoadedPrograms()) {
    if (!short_names.count(program.info.name)) continue;
    candidates.push_back({program.info, {}});
    for (const uint32_t id : program.maps) {
      const Fd map(bpf_map_get_fd_by_id(id));
      if (!map) continue;  // gone since, with its program
      const bpf_map_info info = MapInfoOf(map.get());
      candidates.back().maps.emplace(info.name, info);
    }
  }
  return candidates;
}

// Those of the meter that has these counters: programs that were loaded together share their
// config, because libbpf binds it to every program.
std::vector<Candidate> OfMeter(const std::vector<Candidate>& candidates, uint32_t counters) {
  std::set<uint32_t> configs;
  for (const Candidate& each : candidates) {
    // None where the program went during the look at it.
    const uint32_t config = each.Map(CONFIG_MAP);
    if (config && each.Map(COUNTERS_MAP) == counters) configs.insert(config);
  }
  std::vector<Candidate> meter;
  std::copy_if(candidates.begin(), candidates.end(), std::back_inserter(meter),
               [&](const Candidate& each) { return configs.count(each.Map(CONFIG_MAP)); });
  return meter;
}

// Entries by the program that they call, of all candidates: an entry stays when the agent that
// loaded it has gone, and its config is not that of the program that it calls.
std::map<uint32_t, Attached> EntriesOf(const std::vector<Candidate>& candidates) {
  std::map<uint32_t, Attached> entries;
  for (const Candidate& each : candidates) {
    for (const uint32_t next : each.Nexts()) {
      entries[InSlot(next)] = {each.info.id, next, each.info.load_time};
    }
  }
  return entries;
}

// The program of that name; null for none. There are two for a moment, while an agent starts on
// pins: the one that an entry calls counts.
const Candidate* Counting(const std::string& name, const std::vector<Candidate>& meter,
                          const std::map<uint32_t, Attached>& entries) {
  const Candidate* best = nullptr;
  for (const Candidate& each : meter) {
    if (Short(name) != each.info.name) continue;
    if (!best || entries.count(each.info.id) > entries.count(best->info.id)) best = &each;
  }
  return best;
}

bool IsEntry(const std::string& program) { return program.substr(0, kEnter.size()) == kEnter; }

}  // namespace

std::vector<uint32_t> Follower::FindCounters() {
  std::set<uint32_t> found;
  for (const LoadedProgram& program : LoadedPrograms()) {
    std::vector<uint32_t> counters;
    bool hidden = false;
    for (const uint32_t id : program.maps) {
      const Fd map(bpf_map_get_fd_by_id(id));
      if (!map) continue;  // gone since, with its program
      const bpf_map_info info = MapInfoOf(map.get());
      if (HoldsCounters(info)) counters.push_back(id);
      hidden |= IsScope(info) && !*ScopeIn(map.get()).path;
    }
    if (!hidden) found.insert(counters.begin(), counters.end());
  }
  return {found.begin(), found.end()};
}

Follower::Follower(const Object& object, uint32_t map_id) : counters_(OpenCounters(map_id)) {
  for (const bpf_program* program : object.Programs()) {
    hooks_.emplace_back(bpf_program__name(program), bpf_program__section_name(program));
  }
}

void Follower::Follow() {
  std::set<std::string> short_names;
  for (const auto& [name, hook] : hooks_) short_names.insert(Short(name));
  const std::vector<Candidate> candidates = FindCandidates(short_names);
  const std::map<uint32_t, Attached> entries = EntriesOf(candidates);
  const std::vector<Candidate> meter = OfMeter(candidates, MapInfoOf(counters_.fd()).id);
  for (const Candidate& each : meter) {
    for (const uint32_t next : each.Nexts()) {
      if (!InSlot(next)) throw Failure(Step::kSlot, ESTALE, each.info.name);
    }
  }

  std::vector<Followed> followed;
  const Candidate* counting_execs = nullptr;
  uint32_t failures_map = 0;
  for (const auto& [name, hook] : hooks_) {
    const Candidate* counting = IsEntry(name) ? nullptr : Counting(name, meter, entries);
    if (!counting) continue;
    const uint32_t id = counting->info.id;
    const auto entry = entries.find(id);
    if (entry != entries.end()) {
      followed.push_back({name, hook, id, entry->second});
    } else if (HadEntry(name)) {
      throw Failure(Step::kSlot, ESTALE, name);  // emptied, or given to another program
    } else {
      followed.push_back({name, hook, id, {0, 0, counting->info.load_time}});
    }
    if (counting->Map(EXECS_MAP)) counting_execs = counting;
    if (counting->Map(FAILURES_MAP)) failures_map = counting->Map(FAILURES_MAP);
  }
  // Loaded as the last of the programs that count: where it is, all are.
  if (!counting_execs) throw Failure(Step::kFollow, ESRCH);

  config config;
  const Fd configured = OpenTable(counting_execs->Map(CONFIG_MAP), BPF_MAP_TYPE_ARRAY,
                                  sizeof(uint32_t), sizeof(config));
  const uint32_t index = 0;
  if (bpf_map_lookup_elem(configured.get(), &index, &config) < 0) {
    throw Failure(Step::kFollow, errno);
  }
  if (!IsArranged(config)) throw Failure(Step::kFollow, EINVAL);
  const auto open = [&](const char* name, uint32_t key_size, uint32_t value_size,
                        uint32_t entries) {
    return OpenTable(counting_execs->Map(name), BPF_MAP_TYPE_HASH, key_size, value_size, entries);
  };
  TableMaps maps;
  maps.execs = open(EXECS_MAP, config.key_size, sizeof(exec_row), config.rows);
  maps.groups = open(GROUPS_MAP, sizeof(uint64_t), sizeof(group), GroupsFor(config));
  maps.owners = open(OWNERS_MAP, sizeof(uint64_t), sizeof(uint64_t), OwnersFor(config));
  if (failures_map) {
    maps.failures =
        OpenTable(failures_map, BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(failures), 2);
  }
  if (config.scoped) {
    maps.scope = OpenTable(counting_execs->Map(SCOPE_MAP), BPF_MAP_TYPE_ARRAY, sizeof(uint32_t),
                           sizeof(scope));
  }
  tables_.emplace(std::move(maps), config, false);
  followed_ = std::move(followed);
}

bool Follower::HadEntry(const std::string& name) const {
  return std::any_of(followed_.begin(), followed_.end(), [&](const Followed& before) {
    return before.name == name && before.attached.entry != 0;
  });
}

uint64_t Follower::Begin(uint64_t now) const {
  uint64_t loaded = 0;
  for (const Followed& each : followed_) loaded = std::max(loaded, each.attached.load_time);
  timespec since_boot;
  clock_gettime(CLOCK_BOOTTIME, &since_boot);
  const uint64_t ago =
      since_boot.tv_sec * 1000ULL + since_boot.tv_nsec / 1000000 - loaded / 1000000;
  return now > ago ? now - ago : 0;
}

std::vector<ProgramInfo> Follower::Programs() const {
  std::vector<ProgramInfo> programs;
  for (const Followed& each : followed_) programs.push_back(Describe(each));
  return programs;
}

// Opened for a moment only: held open, it would not go with its Session.
ProgramInfo Follower::Describe(const Followed& followed) {
  const auto [entry, next, load_time] = followed.attached;
  if (next && InSlot(next) != followed.program) {
    throw Failure(Step::kFollow, ESTALE);
  }
  const Fd fd(bpf_prog_get_fd_by_id(entry ? entry : followed.program));
  if (!fd) throw Failure(Step::kFollow, errno == ENOENT ? ESTALE : errno);
  const bpf_prog_info info = ProgramInfoOf(fd.get());
  return {followed.name, followed.hook,    info.id,
          info.run_cnt,  info.run_time_ns, info.recursion_misses};
}

std::vector<MapInfo> Follower::Maps() const {
  std::vector<MapInfo> maps;
  const auto add = [&](int fd) {
    const bpf_map_info info = MapInfoOf(fd);
    maps.push_back({info.name, info.id, info.max_entries});
  };
  add(counters_.fd());
  add(tables_->execs());
  add(tables_->groups());
  if (tables_->failures()) add(tables_->failures().get());
  return maps;
}

}  // namespace execve_counter
