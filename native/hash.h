// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_HASH_H_
#define EXECVE_COUNTER_HASH_H_

#include <cstdint>
#include <memory>

#include "fd.h"

namespace execve_counter {

// A hash in the kernel, of u64 under keys of one size, and buffers for all that it can hold.
class Hash {
 public:
  Hash(Fd map, uint32_t key_size, uint32_t capacity);

  int fd() const { return map_.get(); }
  // Reads all entries, in no particular order, with one bpf() call, and returns how many
  // there are. Failure of the step kRead.
  uint32_t Read();
  // The entries of the last Read.
  const char* Key(uint32_t index) const { return keys_.get() + index * key_size_; }
  uint64_t Value(uint32_t index) const { return values_[index]; }

 private:
  Fd map_;
  uint32_t key_size_;
  uint32_t capacity_;
  std::unique_ptr<char[]> keys_;
  std::unique_ptr<uint64_t[]> values_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_HASH_H_
