// SPDX-License-Identifier: MIT
#include "barrier.h"

#include <bpf/bpf.h>

#include <cerrno>
#include <cstdint>

#include "failure.h"

namespace execve_counter {

void Barrier::Prepare() {
  if (outer_) return;
  inner_ = Fd(
      bpf_map_create(BPF_MAP_TYPE_ARRAY, nullptr, sizeof(uint32_t), sizeof(uint32_t), 1, nullptr));
  if (!inner_) throw Failure(Step::kSettle, errno);
  bpf_map_create_opts options{};
  options.sz = sizeof(options);
  options.inner_map_fd = inner_.get();
  outer_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, nullptr, sizeof(uint32_t),
                             sizeof(uint32_t), 1, &options));
  if (!outer_) throw Failure(Step::kSettle, errno);
}

void Barrier::Wait() {
  Prepare();
  // The update of a map of maps returns when no program runs any more that could
  // have seen what was there before (maybe_wait_bpf_programs() in the kernel).
  const uint32_t index = 0;
  const int value = inner_.get();
  if (bpf_map_update_elem(outer_.get(), &index, &value, BPF_ANY) < 0) {
    throw Failure(Step::kSettle, errno);
  }
}

}  // namespace execve_counter
