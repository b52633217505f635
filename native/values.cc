// SPDX-License-Identifier: MIT
#include "values.h"

#include <unordered_map>

namespace execve_counter {

const std::map<std::string, unsigned char config::*>& Flags() {
  static const std::map<std::string, unsigned char config::*> flags = {
      {"command", &config::command},     {"user", &config::user},
      {"container", &config::container}, {"cgroup_v1", &config::cgroup_v1},
      {"failures", &config::failures},   {"no_attempts", &config::no_attempts},
  };
  return flags;
}

Napi::Array FlagsOf(Napi::Env env, const config& keys) {
  Napi::Array flags = Napi::Array::New(env);
  for (const auto& [name, field] : Flags()) {
    if (keys.*field) flags[flags.Length()] = name;
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

// Columns rather than rows: an object for each of 10,000 rows would take most of
// the time that a read takes.
Napi::Object ValueOf(Napi::Env env, const std::vector<Exec>& execs) {
  Napi::Array commands = Napi::Array::New(env, execs.size());
  Napi::Array containers = Napi::Array::New(env, execs.size());
  auto uids = Napi::Uint32Array::New(env, execs.size());
  auto counts = Napi::BigUint64Array::New(env, execs.size());
  // The same few containers again and again: each becomes a string once.
  std::unordered_map<std::string, Napi::String> known;
  for (uint32_t i = 0; i < execs.size(); i++) {
    auto container = known.find(execs[i].container);
    if (container == known.end()) {
      const auto text = Napi::String::New(env, execs[i].container);
      container = known.emplace(execs[i].container, text).first;
    }
    commands[i] = execs[i].command;
    containers[i] = container->second;
    uids.Data()[i] = execs[i].uid;
    counts.Data()[i] = execs[i].count;
  }
  Napi::Object columns = Napi::Object::New(env);
  columns["commands"] = commands;
  columns["containers"] = containers;
  columns["uids"] = uids;
  columns["counts"] = counts;
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
