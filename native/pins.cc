// SPDX-License-Identifier: MIT
#include "pins.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "failure.h"
#include "inspect.h"
#include "labels.h"

namespace execve_counter {

Pins::Pins(std::string directory) : directory_(std::move(directory)) {}

void Pins::MountBpffs(const std::string& directory) {
  // Not by mount(): before glibc 2.36 its header and linux/mount.h exclude each other.
  if (syscall(SYS_mount, "bpf", directory.c_str(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "mode=0700") < 0) {
    throw Failure(Step::kMount, errno, "bpffs");
  }
}

void Pins::EmptySlot(const std::string& path) noexcept {
  // bpf_obj_get() alone would follow a symbolic link.
  const Fd pin(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  const Fd map(bpf_obj_get(("/proc/self/fd/" + std::to_string(pin.get())).c_str()));
  const uint32_t slot = 0;
  if (map) bpf_map_delete_elem(map.get(), &slot);
}

std::vector<std::string> Pins::MapNames(const std::vector<std::string>& programs, bool scoped) {
  std::vector<std::string> names = {COUNTERS_MAP, EXECS_MAP, GROUPS_MAP, OWNERS_MAP,
                                    FAILURES_MAP, CALLS_MAP, STATE_MAP};
  if (scoped) names.push_back(SCOPE_MAP);
  for (const std::string& program : programs) names.push_back(kNext + program);
  return names;
}

void Pins::Pin(int fd, const std::string& name) const {
  if (bpf_obj_pin(fd, PathOf(name).c_str()) < 0) throw Failure(Step::kPin, errno, name);
}

Fd Pins::Open(const std::string& name) const {
  Fd fd(bpf_obj_get(PathOf(name).c_str()));
  if (!fd) throw Failure(Step::kPinned, errno, name);
  return fd;
}

config Pins::ReadConfig() const {
  const Fd begun = Open(STATE_MAP);
  const uint32_t index = 0;
  state state{};
  if (!Fits(MapInfoOf(begun.get()), BPF_MAP_TYPE_ARRAY, sizeof(index), sizeof(state)) ||
      bpf_map_lookup_elem(begun.get(), &index, &state) < 0 || !IsArranged(state.config)) {
    throw Failure(Step::kPinned, EINVAL, STATE_MAP);
  }
  return state.config;
}

std::string Pins::ReadScope() const {
  const Fd map = Open(SCOPE_MAP);
  if (!Fits(MapInfoOf(map.get()), BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(scope))) {
    throw Failure(Step::kPinned, EINVAL, SCOPE_MAP);
  }
  const scope scope = ScopeIn(map.get());
  return {scope.path, strnlen(scope.path, sizeof(scope.path))};
}

void Pins::Reuse(bpf_map* map) const {
  const std::string name = bpf_map__name(map);
  const Fd pinned = Open(name);
  bpf_map_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(pinned.get(), &info, &size) < 0 ||
      !Fits(info, bpf_map__type(map), bpf_map__key_size(map), bpf_map__value_size(map)) ||
      info.max_entries != bpf_map__max_entries(map) || info.map_flags != bpf_map__map_flags(map) ||
      bpf_map__reuse_fd(map, pinned.get()) < 0) {
    throw Failure(Step::kPinned, EINVAL, name);
  }
}

Pins::Entry Pins::OpenEntry(const std::string& name, uint32_t type) const {
  Fd entry = Open(kEnter + name);
  const auto program = Inspect(entry.get());
  const uint32_t next = MapInfoOf(Open(kNext + name).get()).id;
  if (!program || program->info.type != type || program->info.name != Short(kEnter + name) ||
      std::find(program->maps.begin(), program->maps.end(), next) == program->maps.end()) {
    throw Failure(Step::kPinned, EINVAL, kEnter + name);
  }
  Fd link = Open(kLink + name);
  bpf_link_info attached{};
  uint32_t size = sizeof(attached);
  if (bpf_obj_get_info_by_fd(link.get(), &attached, &size) < 0 ||
      attached.prog_id != program->info.id) {
    throw Failure(Step::kPinned, EINVAL, kLink + name);
  }
  return {std::move(entry), std::move(link)};
}

}  // namespace execve_counter
