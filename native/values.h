// SPDX-License-Identifier: MIT
//
// A meter's data as JavaScript's values; src/kernel/addon.ts has their types.
#ifndef EXECVE_COUNTER_VALUES_H_
#define EXECVE_COUNTER_VALUES_H_

#include <napi.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "../bpf/execve_counter.h"
#include "info.h"
#include "tables.h"

namespace execve_counter {

// The fields of struct config, by their names in JavaScript.
const std::map<std::string, unsigned char config::*>& Flags();
// The names of those that are set.
Napi::Array FlagsOf(Napi::Env env, const config& config);

Napi::Array ValueOf(Napi::Env env, const std::vector<std::pair<std::string, uint64_t>>& counters);
Napi::Object ValueOf(Napi::Env env, const Execs& execs);
Napi::Object ValueOf(Napi::Env env, const Failures& failures);
Napi::Object ValueOf(Napi::Env env, const Scope& scope);
Napi::Array ValueOf(Napi::Env env, const std::vector<ProgramInfo>& programs);
Napi::Array ValueOf(Napi::Env env, const std::vector<MapInfo>& maps);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_VALUES_H_
