// SPDX-License-Identifier: MIT
#include "hash.h"

#include <bpf/bpf.h>

#include <cerrno>
#include <utility>

#include "failure.h"

namespace execve_counter {

// Not by make_unique, which would write to all of the buffer.
Hash::Hash(Fd map, uint32_t key_size, uint32_t value_size, uint32_t capacity)
    : map_(std::move(map)),
      key_size_(key_size),
      value_size_(value_size),
      capacity_(capacity),
      keys_(new char[size_t{capacity} * key_size]),
      values_(new char[size_t{capacity} * value_size]) {}

uint32_t Hash::Read() {
  // The buffers hold the fullest map, so the first call reaches the end of the
  // map, which the kernel reports as ENOENT beside the count.
  uint32_t position = 0;
  uint32_t count = capacity_;
  const int error =
      bpf_map_lookup_batch(fd(), nullptr, &position, keys_.get(), values_.get(), &count, nullptr);
  if (!error) throw Failure(Step::kRead, ENOSPC);
  if (errno != ENOENT) throw Failure(Step::kRead, errno);
  return count;
}

}  // namespace execve_counter
