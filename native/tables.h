// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_TABLES_H_
#define EXECVE_COUNTER_TABLES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "../bpf/execve_counter.h"
#include "fd.h"
#include "hash.h"

namespace execve_counter {

// How a meter counts; see struct config in execve_counter.h.
struct Layout {
  config keys{};      // which fields of exec_key to fill, and whether calls are followed
  uint32_t rows = 2;  // room in `execs`, OTHER_KEY included; at least 2
};

// A row of `execs`; fields that are not part of the key are empty or 0.
struct Exec {
  std::string command;
  std::string container;  // 64 hexadecimal digits; "unknown"; empty outside containers
  uint32_t uid;
  uint64_t count;
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

// The maps `execs` and `failures` of a meter of any process. It holds them, so that they can be
// read when their meter has ended, too.
class Tables {
 public:
  // A meter that does not count failures has no such map; then there are none.
  Tables(Fd execs, Fd failures, const Layout& layout);

  // The fields that key `execs`, and whether calls are followed.
  const config& keys() const { return keys_; }

  // All rows, OTHER_KEY's among them, in no particular order. Failure of the step kRead.
  std::vector<Exec> ReadExecs();
  Failures ReadFailures() const;

  int execs() const { return execs_.fd(); }
  const Fd& failures() const { return failures_; }

 private:
  config keys_;
  Hash execs_;
  Fd failures_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_TABLES_H_
