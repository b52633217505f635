// SPDX-License-Identifier: MIT
#include "inspect.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "failure.h"
#include "fd.h"

namespace execve_counter {

std::optional<LoadedProgram> Inspect(int program) {
  std::array<uint32_t, 64> ids{};
  bpf_prog_info info{};
  info.nr_map_ids = ids.size();
  info.map_ids = reinterpret_cast<uintptr_t>(ids.data());
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(program, &info, &size) < 0) return std::nullopt;
  const size_t count = std::min<size_t>(info.nr_map_ids, ids.size());
  return LoadedProgram{info, {ids.begin(), ids.begin() + count}};
}

bpf_prog_info ProgramInfoOf(int program) {
  bpf_prog_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(program, &info, &size) < 0) throw Failure(Step::kInfo, errno);
  return info;
}

bpf_map_info MapInfoOf(int map) {
  bpf_map_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(map, &info, &size) < 0) throw Failure(Step::kInfo, errno);
  return info;
}

bool Fits(const bpf_map_info& map, uint32_t type, uint32_t key_size, uint32_t value_size) {
  return map.type == type && map.key_size == key_size && map.value_size == value_size;
}

std::vector<LoadedProgram> LoadedPrograms() {
  std::vector<LoadedProgram> programs;
  uint32_t id = 0;
  while (bpf_prog_get_next_id(id, &id) == 0) {
    const Fd fd(bpf_prog_get_fd_by_id(id));
    if (!fd && errno == ENOENT) continue;  // gone since
    const auto program = fd ? Inspect(fd.get()) : std::nullopt;
    if (!program) throw Failure(Step::kFind, errno);
    programs.push_back(*program);
  }
  if (errno != ENOENT) throw Failure(Step::kFind, errno);
  return programs;
}

uint32_t InSlot(uint32_t map_id) {
  const Fd map(bpf_map_get_fd_by_id(map_id));
  const uint32_t slot = 0;
  uint32_t id = 0;
  if (!map || bpf_map_lookup_elem(map.get(), &slot, &id) < 0) return 0;
  return id;
}

std::string Short(const std::string& name) { return name.substr(0, BPF_OBJ_NAME_LEN - 1); }

}  // namespace execve_counter
