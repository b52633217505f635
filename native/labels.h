// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_LABELS_H_
#define EXECVE_COUNTER_LABELS_H_

#include <cstdint>
#include <vector>

#include "../bpf/execve_counter.h"

namespace execve_counter {

// A label whose value is in the keys of `execs`; see KEY_LABELS in execve_counter.h.
struct KeyLabel {
  const char* name;
  unsigned char config::* offset;
  uint32_t size;
};
const std::vector<KeyLabel>& KeyLabels();

// A label that control groups have; see GROUP_LABELS.
struct GroupLabel {
  const char* name;
  unsigned char config::* chosen;
};
const std::vector<GroupLabel>& GroupLabels();

// Whether rows belong to control groups, which end.
bool HasGroups(const config& config);

// Room in `groups` and in `owners`.
uint32_t GroupsFor(const config& config);
uint32_t OwnersFor(const config& config);

// Gives each label that is chosen its place in a key, and the key its size.
void Arrange(config& config);

// Whether a configuration that another process has made is one that Arrange makes.
bool IsArranged(const config& config);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_LABELS_H_
