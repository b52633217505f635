// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_TABLES_H_
#define EXECVE_COUNTER_TABLES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "../bpf/execve_counter.h"
#include "barrier.h"
#include "fd.h"
#include "hash.h"

namespace execve_counter {

// The values of a label. Rows share them, or, where `of` is empty, each row has its own.
struct Column {
  const char* label;
  std::vector<std::string> values;
  std::vector<uint32_t> of;  // of each row the value's index
};

enum class RowKind : uint8_t {
  kPlain,
  kOther,    // of all execs that have found no room
  kRetired,  // of all rows that were removed once their control groups had ended
};

// The rows of `execs`, column by column, in no particular order. Rows whose labels the reader
// has had are known to it by their numbers, so labels are those of new rows only. Labels that
// are not chosen have no column; in rows of a kind of their own labels have no meaning.
struct Execs {
  std::vector<RowKind> kinds;
  std::vector<uint64_t> counts;
  std::vector<uint32_t> numbers;
  uint64_t total = 0;           // the sum of all counts
  uint64_t retired = 0;         // rows that were removed
  uint32_t serial = 0;          // of this read
  bool anew = false;            // whether all numbers are: those of earlier reads mean nothing
  std::vector<uint32_t> fresh;  // the new rows, by their places in the vectors above
  std::vector<uint32_t> uids;   // where the label user is chosen
  std::vector<Column> columns;
};

struct FailedCalls {
  const char* syscall;  // "execve", "execveat"
  uint32_t error;       // a positive errno; 0 where it is not known
  uint64_t count;
};

// How the calls ended that started no program; see struct failures in execve_counter.h.
struct Failures {
  std::vector<FailedCalls> failed;  // without those of a count of 0
  uint64_t checks = 0;
  uint64_t unfollowed = 0;
};

// What a map of the type of `scope` holds. Failure of the step kRead.
scope ScopeIn(int map);

// The maps of a meter but for its counters.
struct TableMaps {
  Fd execs;
  Fd groups;
  Fd owners;
  Fd failures;  // none for a meter that does not count failures
  Fd scope;     // none for a meter that counts everywhere
};

// The control group outside of which nothing counts; see struct scope in execve_counter.h.
struct Scope {
  std::string path;
  uint64_t group;
  uint64_t made;
};

// The maps of a meter of any process, but for its counters. It holds them, so that they can be
// read when their meter has ended, too.
class Tables {
 public:
  // `ours` where no other process may move rows.
  Tables(TableMaps maps, const config& config, bool ours);

  const struct config& config() const { return config_; }

  // `had` is the serial of the last read, where its labels are remembered; any other number
  // gets the labels of all rows. Failure of the step kRead.
  Execs ReadExecs(uint32_t had);
  Failures ReadFailures() const;
  // Nothing where it counts everywhere. Failure of the step kRead.
  std::optional<Scope> ReadScope() const;
  // Counts in the group of that number from now on. Failure of the step kScope.
  void SetScope(uint64_t group);

  // See Session. One process may call it, the one whose tables they are, or that reuses the pins.
  uint32_t Retire(uint64_t ended_before, Barrier& barrier);
  // The same: call it once where pins are reused.
  void Recover();

  const Fd& failures() const { return failures_; }
  int execs() const { return execs_.fd(); }
  int groups() const { return groups_.fd(); }

 private:
  uint32_t ReadRows();
  std::vector<uint32_t> Number(Execs& execs, const std::vector<uint32_t>& rows);
  void AddKeyLabels(Execs& execs, const std::vector<uint32_t>& rows) const;
  void AddGroupLabels(Execs& execs, const std::vector<uint32_t>& rows);

  struct config config_;
  bool ours_;
  uint64_t abandoned_ = 0;  // the number of moves that a process has left odd
  Hash execs_;
  Hash groups_;
  Hash owners_;
  Fd failures_;
  Fd scope_;
  uint32_t group_count_ = 0;  // of the last ReadRows
  // The numbers of rows, by their keys; some may be gone by now.
  std::unordered_map<std::string, uint32_t> numbers_;
  uint32_t next_number_ = 0;
  // The rows of the last read, in its order.
  std::vector<char> last_keys_;
  std::vector<uint32_t> last_numbers_;
  uint32_t serial_ = 0;  // of the last read
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_TABLES_H_
