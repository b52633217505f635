// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_INFO_H_
#define EXECVE_COUNTER_INFO_H_

#include <cstdint>
#include <string>

namespace execve_counter {

// From struct bpf_prog_info. Times and counts are 0 while the sysctl
// kernel.bpf_stats_enabled is 0; misses are kept regardless.
struct ProgramInfo {
  std::string name;    // the C name
  std::string hook;    // the ELF section: "tp_btf/sched_process_exec"
  uint32_t id;         // as `bpftool prog` shows it
  uint64_t run_count;  // runs
  uint64_t run_time;   // nanoseconds
  uint64_t misses;     // runs the kernel skipped (recursion_misses)
};

struct MapInfo {
  std::string name;
  uint32_t id;  // as `bpftool map` shows it
  uint32_t capacity;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_INFO_H_
