// SPDX-License-Identifier: MIT
#include "tables.h"

#include <bpf/bpf.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <memory>
#include <unordered_map>
#include <utility>

#include "failure.h"
#include "labels.h"
#include "retirement.h"

namespace execve_counter {
namespace {

// A container's id as text; empty for none.
std::string Container(const unsigned char (&id)[CONTAINER_SIZE]) {
  if (std::all_of(std::begin(id), std::end(id), [](unsigned char byte) { return byte == 0; })) {
    return "";
  }
  std::string text;
  for (const unsigned char byte : id) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

// What a cut has left of a character is dropped.
std::string Text(const char* bytes, uint32_t size) {
  std::string text(bytes, strnlen(bytes, size));
  constexpr size_t mark = sizeof(PATH_MARK) - 1;
  if (size != PATH_SIZE || text.compare(0, mark, PATH_MARK) != 0) return text;
  size_t rest = mark;
  while (rest < text.size() && (text[rest] & 0xc0) == 0x80) rest++;
  return text.erase(mark, rest - mark);
}

RowKind KindOf(uint64_t group) {
  return group == OTHER_GROUP     ? RowKind::kOther
         : group == RETIRED_GROUP ? RowKind::kRetired
                                  : RowKind::kPlain;
}

uint64_t GroupAt(const char* key) {
  uint64_t group;
  memcpy(&group, key, sizeof(group));
  return group;
}

// The rows that another process is moving, or was when it died: they count as if they had
// arrived. Of each target its sum; the rows themselves are left out.
class Arrivals {
 public:
  void Note(const char* key, uint32_t size, const exec_row& row) {
    std::string there(size, '\0');
    if (row.target != RETIRED_GROUP) there.assign(key, size);
    memcpy(there.data(), &row.target, sizeof(row.target));
    sums_[there] = row;
  }
  bool empty() const { return sums_.empty(); }
  const exec_row* At(const char* key, uint32_t size) const {
    const auto sum = sums_.find(std::string(key, size));
    return sum == sums_.end() ? nullptr : &sum->second;
  }

 private:
  std::unordered_map<std::string, exec_row> sums_;
};

}  // namespace

scope ScopeIn(int map) {
  const uint32_t index = 0;
  scope scope{};
  if (bpf_map_lookup_elem(map, &index, &scope) < 0) throw Failure(Step::kRead, errno);
  return scope;
}

Tables::Tables(TableMaps maps, const struct config& config, bool ours)
    : config_(config),
      ours_(ours),
      execs_(std::move(maps.execs), config.key_size, sizeof(exec_row), config.rows),
      groups_(std::move(maps.groups), sizeof(uint64_t), sizeof(group), GroupsFor(config)),
      owners_(std::move(maps.owners), sizeof(uint64_t), sizeof(uint64_t), OwnersFor(config)),
      failures_(std::move(maps.failures)),
      scope_(std::move(maps.scope)) {}

// Reads the rows, and where others can move them their groups. Each exec is in one row, whatever
// another process moves.
uint32_t Tables::ReadRows() {
  if (!HasGroups(config_)) return execs_.Read();
  const uint64_t key = MOVES;
  const auto moves = [&] {
    group moves;
    if (bpf_map_lookup_elem(groups(), &key, &moves) < 0) throw Failure(Step::kRead, errno);
    return moves.ended;
  };
  // Nothing moves the rows of this process meanwhile.
  if (ours_) return execs_.Read();
  for (;;) {
    uint64_t before = moves();
    for (int waited = 0; before % 2 == 1 && before != abandoned_; waited++) {
      // So long no process takes: it has died, and nothing moves.
      if (waited == 1000) abandoned_ = before;
      const timespec pause{0, 1000000};
      nanosleep(&pause, nullptr);
      before = moves();
    }
    const uint32_t count = execs_.Read();
    // Afterwards, because each group is there before its first row.
    group_count_ = groups_.Read();
    if (before == moves()) return count;
  }
}

Execs Tables::ReadExecs(uint32_t had) {
  const uint32_t count = ReadRows();
  Execs execs;
  // Where many of the numbered rows are gone, all are forgotten with them.
  execs.anew = had != serial_ || serial_ == 0 || next_number_ > count + count / 4 + 1024;
  Arrivals arrivals;
  std::vector<uint32_t> rows;  // that are shown
  rows.reserve(count);
  execs.kinds.reserve(count);
  execs.counts.reserve(count);
  execs.numbers.reserve(count);
  for (uint32_t i = 0; i < count; i++) {
    const auto row = execs_.ValueAt<exec_row>(i);
    if (row.target) {
      arrivals.Note(execs_.Key(i), config_.key_size, row);
    } else {
      rows.push_back(i);
    }
  }
  for (const uint32_t i : rows) {
    auto row = execs_.ValueAt<exec_row>(i);
    if (!arrivals.empty()) {
      const exec_row* sum = arrivals.At(execs_.Key(i), config_.key_size);
      if (sum) {
        row.count = sum->target_count;
        row.rows = sum->target_rows;
      }
    }
    execs.kinds.push_back(KindOf(GroupAt(execs_.Key(i))));
    execs.counts.push_back(row.count);
    execs.total += row.count;
    if (execs.kinds.back() == RowKind::kRetired) execs.retired = row.rows;
  }
  const std::vector<uint32_t> fresh = Number(execs, rows);
  AddKeyLabels(execs, fresh);
  if (HasGroups(config_)) AddGroupLabels(execs, fresh);
  execs.serial = ++serial_;
  return execs;
}

// Gives each row its number, and returns those that had none. The kernel tells rows in the order
// of its table, so most come after the one that they came after in the last read: to look there
// first takes a fifth of the time of a look-up, which finds memory that no cache holds.
std::vector<uint32_t> Tables::Number(Execs& execs, const std::vector<uint32_t>& rows) {
  if (execs.anew) {
    numbers_.clear();
    next_number_ = 0;
    last_keys_.clear();
    last_numbers_.clear();
  }
  const size_t size = config_.key_size;
  std::vector<uint32_t> fresh;
  std::vector<char> keys;
  keys.reserve(rows.size() * size);
  size_t next = 0;  // where the row is in the last read, if no row came or went before it
  const auto was_at = [&](size_t place, const char* key) {
    return place < last_numbers_.size() && memcmp(&last_keys_[place * size], key, size) == 0;
  };
  for (const uint32_t i : rows) {
    const char* key = execs_.Key(i);
    keys.insert(keys.end(), key, key + size);
    if (!was_at(next, key) && was_at(next + 1, key)) next++;
    if (was_at(next, key)) {
      execs.numbers.push_back(last_numbers_[next++]);
      continue;
    }
    const auto [known, is_new] = numbers_.try_emplace(std::string(key, size), next_number_);
    if (is_new) {
      next_number_++;
      execs.fresh.push_back(execs.numbers.size());
      fresh.push_back(i);
    }
    execs.numbers.push_back(known->second);
  }
  last_keys_ = std::move(keys);
  last_numbers_ = execs.numbers;
  return fresh;
}

void Tables::AddKeyLabels(Execs& execs, const std::vector<uint32_t>& rows) const {
  for (const auto& [name, offset, size] : KeyLabels()) {
    const uint32_t at = config_.*offset;
    if (!at) continue;
    if (offset == &config::user) {
      for (const uint32_t i : rows) {
        uint64_t uid;
        memcpy(&uid, execs_.Key(i) + at, sizeof(uid));
        execs.uids.push_back(static_cast<uint32_t>(uid));
      }
      continue;
    }
    Column column{name, {}, {}};
    column.values.reserve(rows.size());
    for (const uint32_t i : rows) column.values.push_back(Text(execs_.Key(i) + at, size));
    execs.columns.push_back(std::move(column));
  }
}

// The control groups that have the same names are one.
void Tables::AddGroupLabels(Execs& execs, const std::vector<uint32_t>& rows) {
  Column containers{"container", {}, {}}, units{"unit", {}, {}};
  std::unordered_map<uint64_t, uint32_t> numbers;
  std::unordered_map<std::string, uint32_t> by_names;
  // Nothing moves the rows of this process meanwhile.
  if (ours_ && !rows.empty()) group_count_ = groups_.Read();
  const uint32_t count = rows.empty() ? 0 : group_count_;
  for (uint32_t i = 0; i < count; i++) {
    const auto each = groups_.ValueAt<group>(i);
    const auto [known, is_new] = by_names.emplace(NamesOf(each), by_names.size());
    numbers.emplace(GroupAt(groups_.Key(i)), known->second);
    if (!is_new) continue;
    containers.values.push_back(Container(each.container));
    units.values.push_back(UnitOf(each));
  }
  const uint32_t unknown = by_names.size();
  containers.values.push_back("unknown");
  units.values.push_back("unknown");
  for (const uint32_t i : rows) {
    const uint64_t group = GroupAt(execs_.Key(i));
    // Rows without a group have that of MOVES, whose names are empty.
    const auto number = numbers.find(GroupOf(group));
    const uint32_t named = number == numbers.end() ? unknown : number->second;
    // To be looked at again.
    if (named == unknown) {
      numbers_.erase(std::string(execs_.Key(i), config_.key_size));
      last_numbers_.clear();
    }
    containers.of.push_back(group & UNKNOWN_CONTAINER ? unknown : named);
    units.of.push_back(named);
  }
  if (config_.container) execs.columns.push_back(std::move(containers));
  if (config_.unit) execs.columns.push_back(std::move(units));
}

uint32_t Tables::Retire(uint64_t ended_before, Barrier& barrier) {
  if (!HasGroups(config_)) return 0;
  return Retirement(execs_, groups_, owners_, config_).Retire(ended_before, barrier);
}

void Tables::Recover() {
  if (HasGroups(config_)) Retirement(execs_, groups_, owners_, config_).Recover();
}

Failures Tables::ReadFailures() const {
  Failures all;
  if (!failures_) return all;
  auto row = std::make_unique<struct failures>();
  for (uint32_t call : {CALL_EXECVE, CALL_EXECVEAT}) {
    if (bpf_map_lookup_elem(failures_.get(), &call, row.get()) < 0) {
      throw Failure(Step::kRead, errno);
    }
    for (uint32_t error = 0; error <= MAX_ERRNO; error++) {
      if (!row->by_errno[error]) continue;
      all.failed.push_back(
          {call == CALL_EXECVE ? "execve" : "execveat", error, row->by_errno[error]});
    }
    all.checks += row->checks;
    all.unfollowed += row->unfollowed;
  }
  return all;
}

std::optional<Scope> Tables::ReadScope() const {
  if (!scope_) return std::nullopt;
  const scope scope = ScopeIn(scope_.get());
  return Scope{{scope.path, strnlen(scope.path, sizeof(scope.path))}, scope.group, scope.made};
}

void Tables::SetScope(uint64_t group) {
  const uint32_t index = 0;
  scope scope = ScopeIn(scope_.get());
  scope.group = group;
  if (bpf_map_update_elem(scope_.get(), &index, &scope, BPF_ANY) < 0) {
    throw Failure(Step::kScope, errno);
  }
}

}  // namespace execve_counter
