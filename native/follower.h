// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_FOLLOWER_H_
#define EXECVE_COUNTER_FOLLOWER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "counters.h"
#include "fd.h"
#include "info.h"
#include "object.h"
#include "tables.h"

namespace execve_counter {

// How a program is attached, by ids. Of pinned programs the entry is attached, which calls the
// program in slot 0 of `next`. Others are attached themselves, and both ids are 0.
struct Attached {
  uint32_t entry;
  uint32_t next;
  uint64_t load_time;  // in ns since boot
};

// Another process's meter: its counters, to edit, and once it is followed its other tables, to
// read. It holds the maps, so they live on when their Session ends. It holds no program, which
// would live on, too.
//
// Not thread-safe. Every method may throw Failure, and leaves what there was before.
class Follower {
 public:
  // The ids of the maps `execve_counter` that loaded programs count in, in rising order; not of
  // meters that count in a control group without a path, as those of one command do.
  // Failure of the step kFind.
  static std::vector<uint32_t> FindCounters();

  // Opens the map `execve_counter` by its id. Failure of the step kOpenById: EINVAL where that
  // is another kind of map. Nothing of the object file is loaded: it has the names of the
  // programs and their hooks.
  Follower(const Object& object, uint32_t map_id);

  // Finds the programs that count in those counters, and the other maps that they count in;
  // changes nothing. Call it again where Programs says ESTALE: when an agent reuses pins, the
  // programs are new and the maps are the same.
  // Failure of the step kFollow: ESRCH where no program counts there any more; EINVAL where the
  // maps are of another version. Of the step kSlot: ESTALE where an entry calls nothing: it is
  // about to, or another process has emptied its slot.
  void Follow();

  Counters* counters() { return &counters_; }
  // Null until it is followed. Every method below is for a Follower that has them.
  Tables* tables() { return tables_ ? &*tables_ : nullptr; }

  // When the counts began, in ms since 1970, given that it is `now`: when the kernel began to
  // load the last of the programs that were attached first, a few tenths of a second early.
  // (The map with the exact time belongs to no program, so it cannot be told from another
  // Session's.)
  uint64_t Begin(uint64_t now) const;

  // The programs that count, in the object's order, and the maps that they count in. Failure
  // of the step kFollow: ESTALE where a program has gone or lost its slot.
  std::vector<ProgramInfo> Programs() const;
  std::vector<MapInfo> Maps() const;

 private:
  struct Followed {
    std::string name;
    std::string hook;
    uint32_t program;  // its id
    Attached attached;
  };

  static ProgramInfo Describe(const Followed& followed);
  bool HadEntry(const std::string& name) const;

  std::vector<std::pair<std::string, std::string>> hooks_;  // by the programs' names, in order
  Counters counters_;
  std::vector<Followed> followed_;
  std::optional<Tables> tables_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_FOLLOWER_H_
