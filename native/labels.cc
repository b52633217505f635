// SPDX-License-Identifier: MIT
#include "labels.h"

#include <algorithm>
#include <cstddef>

namespace execve_counter {

static_assert(sizeof(exec_key) < 256, "config has places in one byte");

const std::vector<KeyLabel>& KeyLabels() {
#define LABEL(name, size) {#name, &config::name, size},
  static const std::vector<KeyLabel> labels = {KEY_LABELS(LABEL)};
#undef LABEL
  return labels;
}

const std::vector<GroupLabel>& GroupLabels() {
#define LABEL(name, size) {#name, &config::name},
  static const std::vector<GroupLabel> labels = {GROUP_LABELS(LABEL)};
#undef LABEL
  return labels;
}

bool HasGroups(const config& config) {
  return std::any_of(GroupLabels().begin(), GroupLabels().end(),
                     [&](const GroupLabel& label) { return config.*label.chosen; });
}

// MOVES is there, too. Each of the other groups has a row, or had one.
uint32_t GroupsFor(const config& config) { return HasGroups(config) ? config.rows + 1 : 1; }

// ALL_OWNERS is there, too. Each of the others has a row, which has two at most.
uint32_t OwnersFor(const config& config) { return 2 * config.rows + 1; }

void Arrange(config& config) {
  config.key_size = offsetof(exec_key, labels);
  for (const auto& [name, offset, size] : KeyLabels()) {
    if (!(config.*offset)) continue;
    config.*offset = config.key_size;
    config.key_size += size;
  }
}

bool IsArranged(const config& given) {
  config arranged = given;
  Arrange(arranged);
  return arranged.key_size == given.key_size && given.rows >= 2 &&
         std::all_of(KeyLabels().begin(), KeyLabels().end(), [&](const KeyLabel& label) {
           return arranged.*label.offset == given.*label.offset;
         });
}

}  // namespace execve_counter
