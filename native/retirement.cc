// SPDX-License-Identifier: MIT
#include "retirement.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "failure.h"

namespace execve_counter {
namespace {

// At most so many rows in one go: each takes about two microseconds.
constexpr uint32_t kMostRows = 2000;

[[noreturn]] void Fail() { throw Failure(Step::kRetire, errno); }

template <typename Value>
void Set(const Hash& map, const void* key, const Value& value) {
  if (bpf_map_update_elem(map.fd(), key, &value, BPF_ANY) < 0) Fail();
}

void Remove(const Hash& map, const void* key) {
  if (bpf_map_delete_elem(map.fd(), key) < 0 && errno != ENOENT) Fail();
}

// Nothing where there is none.
template <typename Value>
Value Get(const Hash& map, const void* key) {
  Value value{};
  if (bpf_map_lookup_elem(map.fd(), key, &value) < 0 && errno != ENOENT) Fail();
  return value;
}

uint64_t GroupAt(const std::string& key) {
  uint64_t group;
  memcpy(&group, key.data(), sizeof(group));
  return group;
}

// Of a row that is added to another group's: the same labels there; of one that retires the key
// of all that have.
std::string KeyIn(const std::string& key, uint64_t target) {
  std::string there = target == RETIRED_GROUP ? std::string(key.size(), '\0') : key;
  memcpy(there.data(), &target, sizeof(target));
  return there;
}

// Whether readers may count a row twice, or not at all, is told by an odd number; see MOVES.
class Moving {
 public:
  explicit Moving(const Hash& groups) : groups_(groups) { Step(true); }
  ~Moving() {
    try {
      Step(false);
    } catch (const Failure&) {
      // Left odd: readers wait for a moment in vain, until the next one ends.
    }
  }
  Moving(const Moving&) = delete;
  Moving& operator=(const Moving&) = delete;

 private:
  void Step(bool odd) {
    const uint64_t key = MOVES;
    group moves = Get<group>(groups_, &key);
    if ((moves.ended % 2 == 1) == odd) return;  // left so by a process that has died
    moves.ended++;
    Set(groups_, &key, moves);
  }

  const Hash& groups_;
};

}  // namespace

std::string UnitOf(const group& group) {
  // systemd puts a '_' before names that could be taken for a file of the kernel's.
  const size_t start = group.unit[0] == '_' ? 1 : 0;
  return std::string(group.unit + start, strnlen(group.unit + start, UNIT_SIZE - start));
}

std::string NamesOf(const group& group) {
  return std::string(reinterpret_cast<const char*>(group.container), CONTAINER_SIZE) +
         UnitOf(group);
}

uint64_t GroupOf(uint64_t group) {
  if (group == OTHER_GROUP || group == RETIRED_GROUP) return 0;
  return group & ~UNKNOWN_CONTAINER;
}

Retirement::Retirement(Hash& execs, Hash& groups, Hash& owners, const config& config)
    : execs_(execs), groups_(groups), owners_(owners), config_(config) {}

uint32_t Retirement::Retire(uint64_t ended_before, Barrier& barrier) {
  const Plan plan = Choose(ended_before);
  if (plan.empty()) return 0;
  // A program that began while its group lived may be about to add to a row.
  barrier.Wait();
  const uint32_t moved = Carry(plan);
  CountOwners();
  return moved;
}

void Retirement::Recover() {
  {
    const Moving moving(groups_);
    FinishMoves();
  }
  CountOwners();
}

// Ends the moves that another process, or a call that has failed, has begun.
void Retirement::FinishMoves() {
  const uint32_t count = execs_.Read();
  for (uint32_t i = 0; i < count; i++) {
    const auto row = execs_.ValueAt<exec_row>(i);
    if (row.target) Finish(KeyAt(i), row);
  }
}

Retirement::Plan Retirement::Choose(uint64_t ended_before) {
  // Of the control groups with the same names, by their keys, when they ended.
  struct Alike {
    std::map<uint64_t, uint64_t> ended;
    bool lives = false;
  };
  std::unordered_map<std::string, Alike> by_names;
  const uint32_t count = groups_.Read();
  bool some_ended = false;
  for (uint32_t i = 0; i < count && !some_ended; i++) {
    some_ended = !IsMoves(i) && groups_.ValueAt<group>(i).ended != 0;
  }
  for (uint32_t i = 0; i < count && some_ended; i++) {
    if (IsMoves(i)) continue;
    uint64_t key;
    memcpy(&key, groups_.Key(i), sizeof(key));
    const auto each = groups_.ValueAt<group>(i);
    Alike& alike = by_names[NamesOf(each)];
    if (each.ended) {
      alike.ended.emplace(key, each.ended);
    } else {
      alike.lives = true;
    }
  }
  Plan plan;
  for (const auto& [names, alike] : by_names) {
    if (alike.ended.empty()) continue;
    const auto& [first, first_ended] = *alike.ended.begin();
    uint64_t last = 0;
    for (const auto& [key, ended] : alike.ended) last = std::max(last, ended);
    if (!alike.lives && last < ended_before) {
      for (const auto& each : alike.ended) plan.emplace(each.first, RETIRED_GROUP);
      continue;
    }
    if (alike.ended.size() == 1) continue;
    // Their rows go into the first group's, which ended when the last one did.
    if (first_ended != last) {
      group changed = Get<group>(groups_, &first);
      changed.ended = last;
      Set(groups_, &first, changed);
    }
    for (const auto& each : alike.ended) {
      if (each.first != first) plan.emplace(each.first, first);
    }
  }
  return plan;
}

uint32_t Retirement::Carry(const Plan& plan) {
  const Moving moving(groups_);
  // First: a sum that was noted for a row is right as long as the row stays.
  FinishMoves();
  Plan done = plan;
  uint32_t moved = 0, retired = 0;
  const uint32_t count = execs_.Read();
  for (uint32_t i = 0; i < count; i++) {
    const std::string key = KeyAt(i);
    const auto target = plan.find(GroupOf(GroupAt(key)));
    if (target == plan.end()) continue;
    if (moved < kMostRows && Move(key, execs_.ValueAt<exec_row>(i), target->second)) {
      moved++;
      if (target->second == RETIRED_GROUP) retired++;
    } else {
      done.erase(target->first);
    }
  }
  for (const auto& each : done) Remove(groups_, &each.first);
  return retired;
}

// False where there is no room for a new row.
bool Retirement::Move(const std::string& key, exec_row row, uint64_t target) {
  // Of a process without a container's id, the mark of that stays.
  if (target != RETIRED_GROUP) target |= GroupAt(key) & UNKNOWN_CONTAINER;
  const std::string there = KeyIn(key, target);
  exec_row sum{};
  if (bpf_map_lookup_elem(execs_.fd(), there.data(), &sum) < 0) {
    if (errno != ENOENT) Fail();
    sum.user = row.user;
    sum.container = row.container;
    if (bpf_map_update_elem(execs_.fd(), there.data(), &sum, BPF_NOEXIST) < 0) {
      if (errno == E2BIG) return false;
      Fail();
    }
  }
  row.target = target;
  row.target_count = sum.count + row.count;
  row.target_rows = sum.rows + 1;
  Set(execs_, key.data(), row);
  Finish(key, row);
  return true;
}

void Retirement::Finish(const std::string& key, const exec_row& row) {
  const std::string there = KeyIn(key, row.target);
  auto sum = Get<exec_row>(execs_, there.data());
  sum.count = row.target_count;
  sum.rows = row.target_rows;
  Set(execs_, there.data(), sum);
  Remove(execs_, key.data());
}

bool Retirement::IsMoves(uint32_t index) const {
  return GroupAt(std::string(groups_.Key(index), sizeof(uint64_t))) == MOVES;
}

std::string Retirement::KeyAt(uint32_t index) const {
  return std::string(execs_.Key(index), config_.key_size);
}

// As it is by now; see `owners` in execve_counter.h.
void Retirement::CountOwners() {
  std::map<uint64_t, uint64_t> rows;
  const uint32_t count = execs_.Read();
  for (uint32_t i = 0; i < count; i++) {
    const auto row = execs_.ValueAt<exec_row>(i);
    rows[row.user]++;
    rows[row.container]++;
  }
  rows.erase(0);  // of rows that nobody else pays for
  rows[ALL_OWNERS] = count;
  const uint32_t owners = owners_.Read();
  for (uint32_t i = 0; i < owners; i++) {
    uint64_t key;
    memcpy(&key, owners_.Key(i), sizeof(key));
    if (!rows.count(key)) Remove(owners_, &key);
  }
  for (const auto& [owner, number] : rows) Set(owners_, &owner, number);
}

}  // namespace execve_counter
