// SPDX-License-Identifier: MIT
#include "values.h"

#include <algorithm>

#include "labels.h"

namespace execve_counter {

const std::map<std::string, unsigned char config::*>& Flags() {
  static const auto flags = [] {
    std::map<std::string, unsigned char config::*> all = {
        {"cgroup_v1", &config::cgroup_v1},
        {"failures", &config::failures},
        {"no_attempts", &config::no_attempts},
    };
    for (const auto& label : KeyLabels()) all.emplace(label.name, label.offset);
    for (const auto& label : GroupLabels()) all.emplace(label.name, label.chosen);
    return all;
  }();
  return flags;
}

Napi::Array FlagsOf(Napi::Env env, const config& config) {
  Napi::Array flags = Napi::Array::New(env);
  for (const auto& [name, field] : Flags()) {
    if (config.*field) flags[flags.Length()] = name;
  }
  return flags;
}

Napi::Array ValueOf(Napi::Env env, const std::vector<std::pair<std::string, uint64_t>>& counters) {
  Napi::Array rows = Napi::Array::New(env, counters.size());
  for (uint32_t i = 0; i < counters.size(); i++) {
    Napi::Array pair = Napi::Array::New(env, 2);
    pair[0u] = Napi::String::New(env, counters[i].first);
    pair[1u] = Napi::BigInt::New(env, counters[i].second);
    rows[i] = pair;
  }
  return rows;
}

namespace {

// Each of the values becomes a string once, however many rows have it.
Napi::Array ValueOf(Napi::Env env, const Column& column) {
  const auto& [label, values, of] = column;
  Napi::Array texts = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); i++) texts[i] = values[i];
  if (of.empty()) return texts;
  Napi::Array rows = Napi::Array::New(env, of.size());
  for (uint32_t i = 0; i < of.size(); i++) rows[i] = texts.Get(of[i]);
  return rows;
}

Napi::Uint32Array ValueOf(Napi::Env env, const std::vector<uint32_t>& numbers) {
  auto array = Napi::Uint32Array::New(env, numbers.size());
  std::copy(numbers.begin(), numbers.end(), array.Data());
  return array;
}

}  // namespace

// Columns rather than rows: an object for each of 10,000 rows would take most of
// the time that a read takes.
Napi::Object ValueOf(Napi::Env env, const Execs& execs) {
  auto kinds = Napi::Uint8Array::New(env, execs.kinds.size());
  auto counts = Napi::BigUint64Array::New(env, execs.counts.size());
  std::transform(execs.kinds.begin(), execs.kinds.end(), kinds.Data(),
                 [](RowKind kind) { return static_cast<uint8_t>(kind); });
  std::copy(execs.counts.begin(), execs.counts.end(), counts.Data());
  Napi::Object labels = Napi::Object::New(env);
  for (const Column& column : execs.columns) labels[column.label] = ValueOf(env, column);
  Napi::Object columns = Napi::Object::New(env);
  columns["kinds"] = kinds;
  columns["counts"] = counts;
  columns["numbers"] = ValueOf(env, execs.numbers);
  columns["total"] = Napi::BigInt::New(env, execs.total);
  columns["serial"] = execs.serial;
  columns["anew"] = execs.anew;
  columns["fresh"] = ValueOf(env, execs.fresh);
  columns["uids"] = ValueOf(env, execs.uids);
  columns["labels"] = labels;
  columns["retired"] = Napi::BigInt::New(env, execs.retired);
  return columns;
}

Napi::Object ValueOf(Napi::Env env, const Failures& failures) {
  Napi::Array failed = Napi::Array::New(env);
  for (const auto& calls : failures.failed) {
    Napi::Array row = Napi::Array::New(env, 3);
    row[0u] = calls.syscall;
    row[1u] = calls.error;
    row[2u] = Napi::BigInt::New(env, calls.count);
    failed[failed.Length()] = row;
  }
  Napi::Object all = Napi::Object::New(env);
  all["failed"] = failed;
  all["checks"] = Napi::BigInt::New(env, failures.checks);
  all["unfollowed"] = Napi::BigInt::New(env, failures.unfollowed);
  return all;
}

Napi::Object ValueOf(Napi::Env env, const Scope& scope) {
  Napi::Object object = Napi::Object::New(env);
  object["path"] = scope.path;
  object["group"] = Napi::BigInt::New(env, scope.group);
  object["made"] = Napi::BigInt::New(env, scope.made);
  return object;
}

Napi::Array ValueOf(Napi::Env env, const std::vector<ProgramInfo>& programs) {
  Napi::Array rows = Napi::Array::New(env);
  for (const auto& program : programs) {
    Napi::Object row = Napi::Object::New(env);
    row["name"] = program.name;
    row["hook"] = program.hook;
    row["id"] = program.id;
    row["runCount"] = Napi::BigInt::New(env, program.run_count);
    row["runTime"] = Napi::BigInt::New(env, program.run_time);
    row["misses"] = Napi::BigInt::New(env, program.misses);
    rows[rows.Length()] = row;
  }
  return rows;
}

Napi::Array ValueOf(Napi::Env env, const std::vector<MapInfo>& maps) {
  Napi::Array rows = Napi::Array::New(env);
  for (const auto& map : maps) {
    Napi::Object row = Napi::Object::New(env);
    row["name"] = map.name;
    row["id"] = map.id;
    row["capacity"] = map.capacity;
    rows[rows.Length()] = row;
  }
  return rows;
}

}  // namespace execve_counter
