// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_COUNTERS_H_
#define EXECVE_COUNTER_COUNTERS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "barrier.h"
#include "fd.h"
#include "hash.h"

namespace execve_counter {

// The map `execve_counter` of a meter of any process: counters by key, to read and edit; see
// KEY_* in execve_counter.h. A key is 1 to KEY_SIZE - 1 bytes without NUL: the caller checks,
// see ValidKey.
class Counters {
 public:
  explicit Counters(Fd map);

  static bool ValidKey(std::string_view key);
  std::optional<uint64_t> Lookup(std::string_view key) const;
  void Update(std::string_view key, uint64_t value);
  bool Insert(std::string_view key);  // at 0; false: it is there, and keeps its count
  bool Remove(std::string_view key);  // false: there was no such key
  // All of them, in no particular order.
  std::vector<std::pair<std::string, uint64_t>> Read();

  // The kernel reuses a removed element at once, and a program that found it before
  // would add to the key that comes after: wait between a Remove and the next Insert.
  Barrier& barrier() { return barrier_; }

  int fd() const { return hash_.fd(); }

 private:
  Hash hash_;
  Barrier barrier_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_COUNTERS_H_
