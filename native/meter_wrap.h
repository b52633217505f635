// SPDX-License-Identifier: MIT
//
// Node without libbpf: what JavaScript sees of both a Session and a Follower. Each has counters
// and tables, or has none yet: then a call is an Error with code "ERR_SESSION_STATE", as it is
// once it is closed. src/kernel/addon.ts documents the methods.
//
// Everything is synchronous, on the thread that called: reading a map takes
// microseconds. libbpf's messages are handed to the log function once the call
// into libbpf is over, so JavaScript never runs inside libbpf.
#ifndef EXECVE_COUNTER_METER_WRAP_H_
#define EXECVE_COUNTER_METER_WRAP_H_

#include <napi.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "../bpf/execve_counter.h"
#include "arguments.h"
#include "counters.h"
#include "fd.h"
#include "lock.h"
#include "object.h"
#include "tables.h"
#include "values.h"

namespace execve_counter {

// Wrap is the class that derives from this, and has a kName.
template <typename Wrap, typename Native>
class MeterWrap : public Napi::ObjectWrap<Wrap> {
 protected:
  using Property = Napi::ClassPropertyDescriptor<Wrap>;

  explicit MeterWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Wrap>(info) {}

  // Opens the object file and makes the native object of it. The constructor's first two
  // arguments are the file's path or content, and the log function.
  template <typename Make>
  void Open(const Napi::CallbackInfo& info, Make make) {
    const Napi::Env env = info.Env();
    const bool read = info[0].IsTypedArray() &&
                      info[0].As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array;
    const std::string path = read ? "" : StringOf(info[0], "object");
    if (!info[1].IsFunction()) throw Napi::TypeError::New(env, "log must be a function");
    log_ = Napi::Persistent(info[1].As<Napi::Function>());
    const auto log = [this](LogLevel level, std::string message) {
      messages_.emplace_back(level, std::move(message));
    };
    Call(env, [&] {
      if (!read) {
        native_ = make(Object(path, log));
        return;
      }
      const auto bytes = info[0].As<Napi::Uint8Array>();
      const auto* data = reinterpret_cast<const char*>(bytes.Data());
      native_ = make(Object(std::string_view(data, bytes.ByteLength()), log));
    });
  }

  // The class, with its own methods and those here.
  static Napi::Function Define(Napi::Env env, const char* name, std::vector<Property> own) {
    const auto add = [&own](const char* method, auto call) {
      own.push_back(Wrap::InstanceMethod(method, call));
    };
    add("lock", Method<void>(&MeterWrap::Lock));
    add("begin", Method(&MeterWrap::Begin));
    add("lookup", Method(&MeterWrap::Lookup));
    add("update", Method<void>(&MeterWrap::Update));
    add("insert", Method(&MeterWrap::Insert));
    add("remove", Method(&MeterWrap::Remove));
    add("settle", Method<void>(&MeterWrap::Settle));
    add("readCounters", Method(&MeterWrap::ReadCounters));
    add("readExecs", Method(&MeterWrap::ReadExecs));
    add("readFailures", Method(&MeterWrap::ReadFailures));
    add("readScope", Method(&MeterWrap::ReadScope));
    add("programs", Method(&MeterWrap::Programs));
    add("maps", Method(&MeterWrap::Maps));
    add("flags", Method(&MeterWrap::FlagsThatAreSet));
    add("close", Method<void>(&MeterWrap::Close));
    return Wrap::DefineClass(env, name, own);
  }

  Native& Get(Napi::Env env) {
    if (!native_) throw StateError(env, std::string("the ") + Wrap::kName + " is closed");
    return *native_;
  }

  Counters& GetCounters(Napi::Env env) {
    Counters* counters = Get(env).counters();
    if (!counters) throw StateError(env, std::string("the ") + Wrap::kName + " has no counters");
    return *counters;
  }

  Tables& GetTables(Napi::Env env) {
    Tables* tables = Get(env).tables();
    if (!tables) throw StateError(env, std::string("the ") + Wrap::kName + " has no tables");
    return *tables;
  }

  // Runs one piece of native work, then passes on libbpf's messages of it. The log function
  // may close this, so callers touch nothing native afterwards.
  template <typename Work>
  std::invoke_result_t<Work> Call(Napi::Env env, Work work) {
    try {
      if constexpr (std::is_void_v<std::invoke_result_t<Work>>) {
        work();
        Flush(env);
      } else {
        auto result = work();
        Flush(env);
        return result;
      }
    } catch (const Failure& failure) {
      Flush(env);
      throw FailureError(env, failure);
    }
  }

 private:
  template <typename Result = Napi::Value>
  using Callback = Result (Wrap::*)(const Napi::CallbackInfo&);

  // A method of this class as one of Wrap's.
  template <typename Result = Napi::Value>
  static Callback<Result> Method(Result (MeterWrap::*method)(const Napi::CallbackInfo&)) {
    return static_cast<Callback<Result>>(method);
  }

  static std::string KeyOf(const Napi::Value& value) {
    std::string key = StringOf(value, "key");
    if (!Counters::ValidKey(key)) {
      throw Napi::TypeError::New(value.Env(), "key must be 1 to " + std::to_string(KEY_SIZE - 1) +
                                                  " bytes of UTF-8 without NUL");
    }
    return key;
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

  void Lock(const Napi::CallbackInfo& info) {
    Get(info.Env());
    const std::string path = StringOf(info[0], "path");
    lock_ = Try(info.Env(), [&] { return TakeLock(path); });
  }

  Napi::Value Begin(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    GetTables(env);
    const uint64_t now = TimeOf(info[0], "now");
    const uint64_t start = Call(env, [&] { return native_->Begin(now); });
    return Napi::Number::New(env, static_cast<double>(start));
  }

  Napi::Value Lookup(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Counters& counters = GetCounters(env);
    const std::string key = KeyOf(info[0]);
    const std::optional<uint64_t> value = Call(env, [&] { return counters.Lookup(key); });
    return value ? Napi::BigInt::New(env, *value) : env.Undefined();
  }

  void Update(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Counters& counters = GetCounters(env);
    const std::string key = KeyOf(info[0]);
    const uint64_t value = U64Of(info[1], "value");
    Call(env, [&] { counters.Update(key, value); });
  }

  Napi::Value Insert(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Counters& counters = GetCounters(env);
    const std::string key = KeyOf(info[0]);
    return Napi::Boolean::New(env, Call(env, [&] { return counters.Insert(key); }));
  }

  Napi::Value Remove(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Counters& counters = GetCounters(env);
    const std::string key = KeyOf(info[0]);
    return Napi::Boolean::New(env, Call(env, [&] { return counters.Remove(key); }));
  }

  void Settle(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Counters& counters = GetCounters(env);
    Call(env, [&] { counters.barrier().Wait(); });
  }

  Napi::Value ReadCounters(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Counters& counters = GetCounters(env);
    return ValueOf(env, Call(env, [&] { return counters.Read(); }));
  }

  Napi::Value ReadExecs(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Tables& tables = GetTables(env);
    const uint32_t had = info[0].IsUndefined() ? 0 : U32Of(info[0], "had");
    return ValueOf(env, Call(env, [&] { return tables.ReadExecs(had); }));
  }

  Napi::Value ReadFailures(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Tables& tables = GetTables(env);
    return ValueOf(env, Call(env, [&] { return tables.ReadFailures(); }));
  }

  Napi::Value ReadScope(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Tables& tables = GetTables(env);
    const std::optional<Scope> scope = Call(env, [&] { return tables.ReadScope(); });
    return scope ? ValueOf(env, *scope) : env.Undefined();
  }

  Napi::Value Programs(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    GetTables(env);
    return ValueOf(env, Call(env, [&] { return native_->Programs(); }));
  }

  Napi::Value Maps(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    GetTables(env);
    return ValueOf(env, Call(env, [&] { return native_->Maps(); }));
  }

  Napi::Value FlagsThatAreSet(const Napi::CallbackInfo& info) {
    return FlagsOf(info.Env(), GetTables(info.Env()).config());
  }

  void Close(const Napi::CallbackInfo& info) {
    Get(info.Env());
    native_.reset();
    lock_ = Fd();
  }

  Napi::FunctionReference log_;
  std::vector<std::pair<LogLevel, std::string>> messages_;
  // Released last.
  Fd lock_;
  // Node destroys this object when it is collected, and when the thread that made
  // it ends, worker or main.
  std::unique_ptr<Native> native_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_METER_WRAP_H_
