// SPDX-License-Identifier: MIT
#include "session_wrap.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

namespace execve_counter {
namespace {

void SetFlags(config& config, const Napi::Value& flags) {
  for (const std::string& name : StringsOf(flags, "flags")) {
    const auto flag = Flags().find(name);
    if (flag == Flags().end()) {
      throw Napi::TypeError::New(flags.Env(),
                                 "flags must be labels, cgroup_v1, failures, no_attempts");
    }
    config.*(flag->second) = true;
  }
}

Pins PinsOf(const Napi::Value& value) {
  const std::string directory = StringOf(value, "pins");
  if (directory.empty()) throw Napi::TypeError::New(value.Env(), "pins must name a directory");
  return Pins(directory);
}

// The options of load() beside `programs`.
using Reader = void (*)(Plan& plan, const Napi::Value& value);
const std::map<std::string, Reader>& Options() {
  static const std::map<std::string, Reader> options = {
      {"flags", [](Plan& plan, const Napi::Value& value) { SetFlags(plan.config, value); }},
      {"rows",
       [](Plan& plan, const Napi::Value& value) { plan.config.rows = U32Of(value, "rows", 2); }},
      {"pins", [](Plan& plan, const Napi::Value& value) { plan.pins = PinsOf(value); }},
      {"scope",
       [](Plan& plan, const Napi::Value& value) { plan.scope = StringOf(value, "scope"); }},
      {"reuse",
       [](Plan& plan, const Napi::Value& value) { plan.reuse = BooleanOf(value, "reuse"); }},
  };
  return options;
}

// Reading the options may run JavaScript: a getter, or a Proxy.
Plan PlanOf(const Napi::Value& value) {
  const Napi::Env env = value.Env();
  if (!value.IsObject()) throw Napi::TypeError::New(env, "the options must be an object");
  const Napi::Object given = value.As<Napi::Object>();
  Plan plan;
  plan.config.rows = 2;
  plan.programs = StringsOf(given.Get("programs"), "programs");
  const Napi::Array names = given.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); i++) {
    const std::string name = names.Get(i).As<Napi::String>();
    if (name == "programs") continue;
    const auto option = Options().find(name);
    if (option == Options().end()) throw Napi::TypeError::New(env, "there is no option " + name);
    const Napi::Value chosen = given.Get(name);
    if (!chosen.IsUndefined()) option->second(plan, chosen);
  }
  if (plan.reuse && !plan.pins) throw Napi::TypeError::New(env, "reuse needs pins");
  return plan;
}

}  // namespace

Napi::Function SessionWrap::Define(Napi::Env env) {
  return MeterWrap::Define(
      env, "Session",
      {InstanceMethod<&SessionWrap::Load>("load"), InstanceMethod<&SessionWrap::Attach>("attach"),
       InstanceMethod<&SessionWrap::Retire>("retire"),
       InstanceMethod<&SessionWrap::SetScope>("setScope")});
}

SessionWrap::SessionWrap(const Napi::CallbackInfo& info) : MeterWrap(info) {
  Open(info, [](Object object) { return std::make_unique<Session>(std::move(object)); });
}

void SessionWrap::Load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Plan plan = PlanOf(info[0]);
  // Only now: reading the options may have closed the session.
  Session& session = Get(env);
  // An object can be loaded once: libbpf refuses a second attempt even after
  // a failed one, so the state changes before the attempt.
  if (std::exchange(taken_, true)) throw StateError(env, "the session was loaded before");
  Call(env, [&] { session.Load(plan); });
}

void SessionWrap::Attach(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  GetTables(env);
  Session& session = Get(env);
  const std::string program = StringOf(info[0], "program");
  Call(env, [&] { session.Attach(program); });
}

Napi::Value SessionWrap::Retire(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  GetTables(env);
  Session& session = Get(env);
  const uint64_t most = UINT64_MAX / 1000000;  // ns in a ms
  const uint64_t before = std::min(TimeOf(info[0], "endedBefore"), most) * 1000000;
  return Napi::Number::New(env, Call(env, [&] { return session.Retire(before); }));
}

void SessionWrap::SetScope(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Tables& tables = GetTables(env);
  const uint64_t group = U64Of(info[0], "group");
  Call(env, [&] { tables.SetScope(group); });
}

}  // namespace execve_counter
