// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_HASH_H_
#define EXECVE_COUNTER_HASH_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "fd.h"

namespace execve_counter {

// A hash in the kernel, and buffers for all that it can hold.
class Hash {
 public:
  Hash(Fd map, uint32_t key_size, uint32_t value_size, uint32_t capacity);

  int fd() const { return map_.get(); }
  // Reads all entries, in no particular order, with one bpf() call, and returns how many
  // there are. Failure of the step kRead.
  uint32_t Read();
  // The entries of the last Read.
  const char* Key(uint32_t index) const { return keys_.get() + size_t{index} * key_size_; }
  template <typename Value>
  Value ValueAt(uint32_t index) const {
    Value value;
    memcpy(&value, values_.get() + size_t{index} * value_size_, sizeof(value));
    return value;
  }

 private:
  Fd map_;
  uint32_t key_size_;
  uint32_t value_size_;
  uint32_t capacity_;
  std::unique_ptr<char[]> keys_;
  std::unique_ptr<char[]> values_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_HASH_H_
