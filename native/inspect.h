// SPDX-License-Identifier: MIT
//
// What the kernel says about the maps and programs of any process.
#ifndef EXECVE_COUNTER_INSPECT_H_
#define EXECVE_COUNTER_INSPECT_H_

#include <linux/bpf.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace execve_counter {

struct LoadedProgram {
  bpf_prog_info info;
  std::vector<uint32_t> maps;  // that it uses, by their ids
};

// Nothing, and errno, where the kernel does not say.
std::optional<LoadedProgram> Inspect(int program);
// Failure of the step kInfo.
bpf_prog_info ProgramInfoOf(int program);
bpf_map_info MapInfoOf(int map);

// Whether a map is of this kind, whatever its name and capacity.
bool Fits(const bpf_map_info& map, uint32_t type, uint32_t key_size, uint32_t value_size);

// All programs in the kernel, of all processes; Failure of the step kFind.
std::vector<LoadedProgram> LoadedPrograms();

// The program in slot 0 of a map of programs, by its id; 0 for nothing.
uint32_t InSlot(uint32_t map_id);

// The part of a program's or a map's name that the kernel keeps.
std::string Short(const std::string& name);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_INSPECT_H_
