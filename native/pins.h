// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_PINS_H_
#define EXECVE_COUNTER_PINS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "fd.h"
#include "tables.h"

struct bpf_map;

namespace execve_counter {

// A program's pins are called this and its name; see PIN_VERSION in execve_counter.h.
inline const std::string kEnter = "enter_";
inline const std::string kNext = "next_";
inline const std::string kLink = "link_";

// A directory in bpffs where a meter is pinned, or will be, so that it outlives the process.
// A Failure of the step kPinned names a pin that is missing or does not fit.
class Pins {
 public:
  explicit Pins(std::string directory);

  // Mounts bpffs there, for all processes. Failure of the step kMount.
  static void MountBpffs(const std::string& directory);

  // Empties the slot pinned at the path, so that its attached program calls none any more. Where
  // that fails, the slot is left as it is: the kernel empties it when its last pin goes. But that
  // takes it some 15 ms, and if other processes open and close the map twice meanwhile, as bpftool
  // does, it keeps the map for ever: prog_array_map_clear() takes a reference also where the work
  // that gives it back is waiting already.
  static void EmptySlot(const std::string& path) noexcept;

  // The names of the maps of a meter with these programs, which may count in a scope only.
  static std::vector<std::string> MapNames(const std::vector<std::string>& programs, bool scoped);

  // How the pinned meter counts.
  config ReadConfig() const;
  // The path of the control group that a scoped meter counts in.
  std::string ReadScope() const;
  // Uses a pinned map in place of the one that would be made, if it is the same.
  void Reuse(bpf_map* map) const;
  // The entry that is attached for a program, and the link that attaches it. It must be a
  // program of that name and of the type given, and call what is in the program's slot.
  struct Entry {
    Fd program;
    Fd link;
  };
  Entry OpenEntry(const std::string& program, uint32_t type) const;

  // Pins the descriptor's object. Failure of the step kPin: EINVAL where it is the link of a
  // tracepoint, which no kernel before 5.15 can pin.
  void Pin(int fd, const std::string& name) const;
  Fd Open(const std::string& name) const;

 private:
  std::string PathOf(const std::string& name) const { return directory_ + "/" + name; }

  std::string directory_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_PINS_H_
