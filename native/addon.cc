// SPDX-License-Identifier: MIT
//
// Node without libbpf: checks arguments, turns u64 into BigInt and back, and
// throws what Session reports as an Error with the facts in its properties:
//   step     what was being done: "attach", one of Step's names
//   subject  the program's, map's or pin's name, or ""
//   errno    the kernel's reason, positive
// A wrong argument is a TypeError, a call that the object's state does not allow
// an Error with code "ERR_SESSION_STATE". src/kernel/meter.ts is the only caller and
// documents the methods.
//
// Everything is synchronous, on the thread that called: reading a map takes
// microseconds. libbpf's messages are handed to the log function once the call
// into libbpf is over, so JavaScript never runs inside libbpf.
#include <napi.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../bpf/execve_counter.h"
#include "privileges.h"
#include "service.h"
#include "session.h"
#include "users.h"

namespace {

using execve_counter::Account;
using execve_counter::Failure;
using execve_counter::Failures;
using execve_counter::LogLevel;
using execve_counter::Plan;
using execve_counter::Session;

Napi::Error StateError(Napi::Env env, const char* message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, "ERR_SESSION_STATE"));
  return error;
}

Napi::Error FailureError(Napi::Env env, const Failure& failure) {
  const std::string message = std::string(failure.what()) + ": " + std::strerror(failure.error);
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("step", Napi::String::New(env, NameOf(failure.step)));
  error.Set("subject", Napi::String::New(env, failure.subject));
  error.Set("errno", Napi::Number::New(env, failure.error));
  return error;
}

// Does native work; what fails becomes an Error.
template <typename Work>
void Try(Napi::Env env, Work work) {
  try {
    work();
  } catch (const Failure& failure) {
    throw FailureError(env, failure);
  }
}

// A string for those who read up to a NUL: with one in it, it would be another to them.
std::optional<std::string> CString(const Napi::Value& value) {
  if (!value.IsString()) return std::nullopt;
  std::string text = value.As<Napi::String>();
  if (text.find('\0') != std::string::npos) return std::nullopt;
  return text;
}

std::string StringArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  const auto text = CString(info[index]);
  if (text) return *text;
  throw Napi::TypeError::New(info.Env(), std::string(name) + " must be a string without NUL");
}

std::vector<std::string> StringsArgument(const Napi::CallbackInfo& info, size_t index,
                                         const char* name) {
  const auto refuse = [&] {
    return Napi::TypeError::New(info.Env(),
                                std::string(name) + " must be an array of strings without NUL");
  };
  if (!info[index].IsArray()) throw refuse();
  const Napi::Array array = info[index].As<Napi::Array>();
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const auto text = CString(array[i]);
    if (!text) throw refuse();
    strings.push_back(*text);
  }
  return strings;
}

uint32_t U32Argument(const Napi::CallbackInfo& info, size_t index, const char* name,
                     uint32_t least) {
  const double value = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : -1;
  if (!(value >= least && value <= UINT32_MAX) || value != std::floor(value)) {
    throw Napi::TypeError::New(info.Env(), std::string(name) + " must be an integer from " +
                                               std::to_string(least) + " to 2^32 - 1");
  }
  return static_cast<uint32_t>(value);
}

std::vector<uint32_t> CapabilitiesArgument(const Napi::CallbackInfo& info, size_t index,
                                           const char* name) {
  const auto refuse = [&] {
    return Napi::TypeError::New(info.Env(),
                                std::string(name) + " must be an array of integers from 0 to 63");
  };
  if (!info[index].IsArray()) throw refuse();
  const Napi::Array array = info[index].As<Napi::Array>();
  std::vector<uint32_t> capabilities;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value each = array[i];
    const double number = each.IsNumber() ? each.As<Napi::Number>().DoubleValue() : -1;
    if (!(number >= 0 && number < 64) || number != std::floor(number)) throw refuse();
    capabilities.push_back(static_cast<uint32_t>(number));
  }
  return capabilities;
}

class SessionWrap : public Napi::ObjectWrap<SessionWrap> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Session",
                       {
                           InstanceMethod<&SessionWrap::Load>("load"),
                           InstanceMethod<&SessionWrap::Adopt>("adopt"),
                           InstanceMethod<&SessionWrap::Follow>("follow"),
                           InstanceMethod<&SessionWrap::Lock>("lock"),
                           InstanceMethod<&SessionWrap::Begin>("begin"),
                           InstanceMethod<&SessionWrap::Attach>("attach"),
                           InstanceMethod<&SessionWrap::Lookup>("lookup"),
                           InstanceMethod<&SessionWrap::Update>("update"),
                           InstanceMethod<&SessionWrap::Insert>("insert"),
                           InstanceMethod<&SessionWrap::Remove>("remove"),
                           InstanceMethod<&SessionWrap::ReadCounters>("readCounters"),
                           InstanceMethod<&SessionWrap::ReadExecs>("readExecs"),
                           InstanceMethod<&SessionWrap::ReadFailures>("readFailures"),
                           InstanceMethod<&SessionWrap::Programs>("programs"),
                           InstanceMethod<&SessionWrap::Maps>("maps"),
                           InstanceMethod<&SessionWrap::Flags>("flags"),
                           InstanceMethod<&SessionWrap::Close>("close"),
                       });
  }

  // new Session(object: string | Uint8Array, log: (level: string, message: string) => void)
  explicit SessionWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    const bool read = info[0].IsTypedArray() &&
                      info[0].As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array;
    const std::string path = read ? "" : StringArgument(info, 0, "object");
    if (!info[1].IsFunction()) throw Napi::TypeError::New(info.Env(), "log must be a function");
    log_ = Napi::Persistent(info[1].As<Napi::Function>());
    Call(info.Env(), [&] {
      const auto log = [this](LogLevel level, std::string message) {
        messages_.emplace_back(level, std::move(message));
      };
      if (read) {
        const auto bytes = info[0].As<Napi::Uint8Array>();
        const std::string_view object(reinterpret_cast<const char*>(bytes.Data()),
                                      bytes.ByteLength());
        session_ = std::make_unique<Session>(object, log);
      } else {
        session_ = std::make_unique<Session>(path, log);
      }
    });
  }

  // What load(), flags() and pinned() call the fields that are set.
  static Napi::Array FlagsOf(Napi::Env env, const config& keys) {
    Napi::Array flags = Napi::Array::New(env);
    for (const auto& [name, field] : Fields()) {
      if (keys.*field) flags[flags.Length()] = name;
    }
    return flags;
  }

 private:
  // What a method needs the session to have: the object file, the counters of
  // another Session, those of this or another, all that it counts, or programs and maps of its own.
  enum class Needs { kOpen, kAdopted, kCounters, kTables, kLoaded };

  // What load() and flags() call the fields of struct config.
  static const std::map<std::string, unsigned char config::*>& Fields() {
    static const std::map<std::string, unsigned char config::*> fields = {
        {"command", &config::command},     {"user", &config::user},
        {"container", &config::container}, {"cgroup_v1", &config::cgroup_v1},
        {"failures", &config::failures},   {"no_attempts", &config::no_attempts},
    };
    return fields;
  }

  static std::string KeyArgument(const Napi::CallbackInfo& info) {
    std::string key = StringArgument(info, 0, "key");
    if (!Session::ValidKey(key)) {
      throw Napi::TypeError::New(info.Env(), "key must be 1 to " + std::to_string(KEY_SIZE - 1) +
                                                 " bytes of UTF-8 without NUL");
    }
    return key;
  }

  Session& Get(Napi::Env env, Needs needs) {
    if (!session_) throw StateError(env, "the session is closed");
    if (needs == Needs::kLoaded && !loaded_) throw StateError(env, "the session is not loaded");
    if (needs == Needs::kCounters && !loaded_ && !adopted_) {
      throw StateError(env, "the session has no counters");
    }
    if (needs == Needs::kTables && !loaded_ && !followed_) {
      throw StateError(env, "the session has no tables");
    }
    if (needs == Needs::kAdopted && !adopted_) {
      throw StateError(env, "the session has adopted nothing");
    }
    return *session_;
  }

  // Runs one piece of native work, then passes on what libbpf said meanwhile.
  template <typename Work>
  void Call(Napi::Env env, Work work) {
    try {
      work();
    } catch (const Failure& failure) {
      Flush(env);
      throw FailureError(env, failure);
    }
    Flush(env);
  }

  void Flush(Napi::Env env) {
    // Moved out first: the log function may call back into this object.
    for (const auto& [level, message] : std::exchange(messages_, {})) {
      const char* name = level == LogLevel::kWarn   ? "warn"
                         : level == LogLevel::kInfo ? "info"
                                                    : "debug";
      log_.Call({Napi::String::New(env, name), Napi::String::New(env, message)});
    }
  }

  void Load(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Plan plan;
    plan.programs = StringsArgument(info, 0, "programs");
    if (!info[1].IsUndefined()) {
      for (const std::string& name : StringsArgument(info, 1, "flags")) {
        const auto flag = Fields().find(name);
        if (flag == Fields().end()) {
          throw Napi::TypeError::New(env,
                                     "flags must be of command, user, container, cgroup_v1, "
                                     "failures, no_attempts");
        }
        plan.keys.*(flag->second) = true;
      }
    }
    if (!info[2].IsUndefined()) plan.rows = U32Argument(info, 2, "rows", 2);
    if (!info[3].IsUndefined()) plan.pins = StringArgument(info, 3, "pins");
    plan.adopt = info[4].ToBoolean();
    // Only now: reading the arrays may have run JavaScript that closed the session.
    Session& session = Get(env, Needs::kOpen);
    TakeOnce(env);
    Call(env, [&] { session.Load(plan); });
    loaded_ = true;
  }

  void Adopt(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kOpen);
    const uint32_t id = U32Argument(info, 0, "mapId", 0);
    TakeOnce(env);
    Call(env, [&] { session.Adopt(id); });
    adopted_ = true;
  }

  void Follow(const Napi::CallbackInfo& info) {
    Session& session = Get(info.Env(), Needs::kAdopted);
    Call(info.Env(), [&] { session.Follow(); });
    followed_ = true;
  }

  void Lock(const Napi::CallbackInfo& info) {
    Session& session = Get(info.Env(), Needs::kOpen);
    const std::string directory = StringArgument(info, 0, "directory");
    Call(info.Env(), [&] { session.Lock(directory); });
  }

  Napi::Value Begin(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kTables);
    if (!info[0].IsNumber()) throw Napi::TypeError::New(env, "now must be a number");
    const double now = info[0].As<Napi::Number>().DoubleValue();
    if (!(now >= 0 && now < 9e15)) throw Napi::TypeError::New(env, "now must be a time in ms");
    uint64_t start = 0;
    Call(env, [&] { start = session.Begin(static_cast<uint64_t>(now)); });
    return Napi::Number::New(env, static_cast<double>(start));
  }

  // An object can be loaded once: libbpf refuses a second attempt even after
  // a failed one, so the state changes before the attempt.
  void TakeOnce(Napi::Env env) {
    if (std::exchange(taken_, true)) throw StateError(env, "the session was loaded before");
  }

  void Attach(const Napi::CallbackInfo& info) {
    Session& session = Get(info.Env(), Needs::kLoaded);
    const std::string program = StringArgument(info, 0, "program");
    Call(info.Env(), [&] { session.Attach(program); });
  }

  Napi::Value Lookup(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kCounters);
    const std::string key = KeyArgument(info);
    std::optional<uint64_t> value;
    Call(env, [&] { value = session.Lookup(key); });
    return value ? Napi::BigInt::New(env, *value) : env.Undefined();
  }

  void Update(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kCounters);
    const std::string key = KeyArgument(info);
    bool lossless = false;
    const uint64_t value =
        info[1].IsBigInt() ? info[1].As<Napi::BigInt>().Uint64Value(&lossless) : 0;
    if (!lossless) throw Napi::TypeError::New(env, "value must be a bigint from 0 to 2^64 - 1");
    Call(env, [&] { session.Update(key, value); });
  }

  Napi::Value Insert(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kCounters);
    const std::string key = KeyArgument(info);
    bool inserted = false;
    Call(env, [&] { inserted = session.Insert(key); });
    return Napi::Boolean::New(env, inserted);
  }

  Napi::Value Remove(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kCounters);
    const std::string key = KeyArgument(info);
    bool removed = false;
    Call(env, [&] { removed = session.Remove(key); });
    return Napi::Boolean::New(env, removed);
  }

  Napi::Value ReadCounters(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kCounters);
    Napi::Array counters;
    Call(env, [&] {
      const auto read = session.ReadCounters();
      counters = Napi::Array::New(env, read.size());
      for (uint32_t i = 0; i < read.size(); i++) {
        Napi::Array pair = Napi::Array::New(env, 2);
        pair[0u] = Napi::String::New(env, read[i].first);
        pair[1u] = Napi::BigInt::New(env, read[i].second);
        counters[i] = pair;
      }
    });
    return counters;
  }

  // Columns rather than rows: an object for each of 10,000 rows would take most of
  // the time that a read takes.
  Napi::Value ReadExecs(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kTables);
    Napi::Object columns = Napi::Object::New(env);
    Call(env, [&] {
      const auto execs = session.ReadExecs();
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
      columns["commands"] = commands;
      columns["containers"] = containers;
      columns["uids"] = uids;
      columns["counts"] = counts;
    });
    return columns;
  }

  Napi::Value ReadFailures(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kTables);
    Napi::Object all = Napi::Object::New(env);
    Call(env, [&] {
      const Failures failures = session.ReadFailures();
      Napi::Array failed = Napi::Array::New(env);
      for (const auto& calls : failures.failed) {
        Napi::Array row = Napi::Array::New(env, 3);
        row[0u] = calls.syscall;
        row[1u] = calls.error;
        row[2u] = Napi::BigInt::New(env, calls.count);
        failed[failed.Length()] = row;
      }
      all["failed"] = failed;
      all["checks"] = Napi::BigInt::New(env, failures.checks);
      all["unfollowed"] = Napi::BigInt::New(env, failures.unfollowed);
    });
    return all;
  }

  Napi::Value Programs(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kTables);
    Napi::Array programs = Napi::Array::New(env);
    Call(env, [&] {
      for (const auto& program : session.Programs()) {
        Napi::Object object = Napi::Object::New(env);
        object["name"] = program.name;
        object["hook"] = program.hook;
        object["id"] = program.id;
        object["runCount"] = Napi::BigInt::New(env, program.run_count);
        object["runTime"] = Napi::BigInt::New(env, program.run_time);
        object["misses"] = Napi::BigInt::New(env, program.misses);
        programs[programs.Length()] = object;
      }
    });
    return programs;
  }

  Napi::Value Maps(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kTables);
    Napi::Array maps = Napi::Array::New(env);
    Call(env, [&] {
      for (const auto& map : session.Maps()) {
        Napi::Object object = Napi::Object::New(env);
        object["name"] = map.name;
        object["id"] = map.id;
        object["capacity"] = map.capacity;
        maps[maps.Length()] = object;
      }
    });
    return maps;
  }

  Napi::Value Flags(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return FlagsOf(env, Get(env, Needs::kTables).Keys());
  }

  void Close(const Napi::CallbackInfo& info) {
    Get(info.Env(), Needs::kOpen);
    session_.reset();
  }

  Napi::FunctionReference log_;
  std::vector<std::pair<LogLevel, std::string>> messages_;
  bool taken_ = false;  // load() or adopt() was called
  bool loaded_ = false;
  bool adopted_ = false;
  bool followed_ = false;
  // Node destroys this object when it is collected, and when the thread that made
  // it ends, worker or main.
  std::unique_ptr<Session> session_;
};

// findCounters(): number[]
Napi::Value FindCounters(const Napi::CallbackInfo& info) {
  Napi::Array ids = Napi::Array::New(info.Env());
  Try(info.Env(), [&] {
    for (const uint32_t id : Session::FindCounters()) ids[ids.Length()] = id;
  });
  return ids;
}

// settle(): void
void Settle(const Napi::CallbackInfo& info) { Try(info.Env(), Session::Settle); }

// pinned(pins: string): { flags: string[]; rows: number }
Napi::Value Pinned(const Napi::CallbackInfo& info) {
  const std::string pins = StringArgument(info, 0, "pins");
  Napi::Object object = Napi::Object::New(info.Env());
  Try(info.Env(), [&] {
    const Plan plan = Session::Pinned(pins);
    object["flags"] = SessionWrap::FlagsOf(info.Env(), plan.keys);
    object["rows"] = plan.rows;
  });
  return object;
}

// mountBpffs(directory: string): void
void MountBpffs(const Napi::CallbackInfo& info) {
  const std::string directory = StringArgument(info, 0, "directory");
  Try(info.Env(), [&] { Session::MountBpffs(directory); });
}

// userName(uid: number, patience: number): string | null | undefined
Napi::Value UserNameOf(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const uint32_t uid = U32Argument(info, 0, "uid", 0);
  const std::chrono::milliseconds patience(U32Argument(info, 1, "patience", 0));
  execve_counter::Name name;
  Try(env, [&] { name = execve_counter::UserName(uid, patience); });
  if (!name) return env.Undefined();
  return *name ? Napi::String::New(env, **name) : env.Null();
}

// account(who: string | number): { uid: number; gid: number } | undefined
Napi::Value AccountOf(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::optional<Account> account;
  if (info[0].IsNumber()) {
    const uint32_t uid = U32Argument(info, 0, "who", 0);
    Try(env, [&] { account = execve_counter::FindAccount(uid); });
  } else {
    const std::string name = StringArgument(info, 0, "who");
    Try(env, [&] { account = execve_counter::FindAccount(name); });
  }
  if (!account) return env.Undefined();
  Napi::Object object = Napi::Object::New(env);
  object["uid"] = account->uid;
  object["gid"] = account->gid;
  return object;
}

// restrict(keep: number[], uid?: number, gid?: number): void
void Restrict(const Napi::CallbackInfo& info) {
  const std::vector<uint32_t> keep = CapabilitiesArgument(info, 0, "keep");
  std::optional<Account> account;
  if (!info[1].IsUndefined()) {
    account = Account{U32Argument(info, 1, "uid", 0), U32Argument(info, 2, "gid", 0)};
    // To setresuid(2) and setresgid(2) this means: as it is.
    if (account->uid == UINT32_MAX || account->gid == UINT32_MAX) {
      throw Napi::TypeError::New(info.Env(), "uid and gid must be less than 2^32 - 1");
    }
  }
  Try(info.Env(), [&] { execve_counter::Restrict(account, keep); });
}

// notify(state: string): boolean
Napi::Value Notify(const Napi::CallbackInfo& info) {
  const std::string state = StringArgument(info, 0, "state");
  bool heard = false;
  Try(info.Env(), [&] { heard = execve_counter::Notify(state); });
  return Napi::Boolean::New(info.Env(), heard);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports["Session"] = SessionWrap::Define(env);
  exports["findCounters"] = Napi::Function::New(env, FindCounters);
  exports["settle"] = Napi::Function::New(env, Settle);
  exports["mountBpffs"] = Napi::Function::New(env, MountBpffs);
  exports["pinned"] = Napi::Function::New(env, Pinned);
  exports["account"] = Napi::Function::New(env, AccountOf);
  exports["notify"] = Napi::Function::New(env, Notify);
  exports["restrict"] = Napi::Function::New(env, Restrict);
  exports["userName"] = Napi::Function::New(env, UserNameOf);
  exports["libbpfVersion"] = Session::LibbpfVersion();
  return exports;
}

NODE_API_MODULE(execve_counter, Init)

}  // namespace
