// SPDX-License-Identifier: MIT
//
// Node without libbpf: checks arguments, turns u64 into BigInt and back, and
// throws what Session reports as an Error with the facts in its properties:
//   step   what was being done (Failure::step)
//   errno  the kernel's reason, positive
// A wrong argument is a TypeError, a call that the object's state does not allow
// an Error with code "ERR_SESSION_STATE". src/kernel.ts is the only caller and
// documents the methods.
//
// Everything is synchronous, on the thread that called: reading a map takes
// microseconds. libbpf's messages are handed to the log function once the call
// into libbpf is over, so JavaScript never runs inside libbpf.
#include <napi.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../bpf/execve_counter.h"
#include "session.h"

namespace {

using execve_counter::Failure;
using execve_counter::LogLevel;
using execve_counter::Session;

Napi::Error StateError(Napi::Env env, const char* message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, "ERR_SESSION_STATE"));
  return error;
}

Napi::Error FailureError(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.step + ": " + std::strerror(failure.error));
  error.Set("step", Napi::String::New(env, failure.step));
  error.Set("errno", Napi::Number::New(env, failure.error));
  return error;
}

class SessionWrap : public Napi::ObjectWrap<SessionWrap> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Session",
                       {
                           InstanceMethod<&SessionWrap::Load>("load"),
                           InstanceMethod<&SessionWrap::Attach>("attach"),
                           InstanceMethod<&SessionWrap::Lookup>("lookup"),
                           InstanceMethod<&SessionWrap::Update>("update"),
                           InstanceMethod<&SessionWrap::Remove>("remove"),
                           InstanceMethod<&SessionWrap::ReadCounters>("readCounters"),
                           InstanceMethod<&SessionWrap::ReadExecs>("readExecs"),
                           InstanceMethod<&SessionWrap::Programs>("programs"),
                           InstanceMethod<&SessionWrap::Maps>("maps"),
                           InstanceMethod<&SessionWrap::Close>("close"),
                       });
  }

  // new Session(objectPath: string, log: (level: string, message: string) => void)
  explicit SessionWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    const std::string path = StringArgument(info, 0, "objectPath");
    if (!info[1].IsFunction()) throw Napi::TypeError::New(info.Env(), "log must be a function");
    log_ = Napi::Persistent(info[1].As<Napi::Function>());
    Call(info.Env(), [&] {
      session_ = std::make_unique<Session>(path, [this](LogLevel level, std::string message) {
        messages_.emplace_back(level, std::move(message));
      });
    });
  }

 private:
  enum class Needs { kOpen, kLoaded };

  static std::string StringArgument(const Napi::CallbackInfo& info, size_t index,
                                    const char* name) {
    if (!info[index].IsString()) {
      throw Napi::TypeError::New(info.Env(), std::string(name) + " must be a string");
    }
    return info[index].As<Napi::String>().Utf8Value();
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
    if (!info[0].IsArray()) throw Napi::TypeError::New(env, "programs must be an array of strings");
    const Napi::Array array = info[0].As<Napi::Array>();
    std::vector<std::string> programs;
    for (uint32_t i = 0; i < array.Length(); i++) {
      const Napi::Value name = array[i];
      if (!name.IsString()) throw Napi::TypeError::New(env, "programs must be an array of strings");
      programs.push_back(name.As<Napi::String>());
    }
    // Only now: reading the array may have run JavaScript that closed the session.
    Session& session = Get(env, Needs::kOpen);
    // An object can be loaded once: libbpf refuses a second attempt even after
    // a failed one, so the state changes before the attempt.
    if (std::exchange(load_tried_, true)) throw StateError(env, "the session was loaded before");
    Call(env, [&] { session.Load(programs); });
    loaded_ = true;
  }

  void Attach(const Napi::CallbackInfo& info) {
    Session& session = Get(info.Env(), Needs::kLoaded);
    const std::string program = StringArgument(info, 0, "program");
    Call(info.Env(), [&] { session.Attach(program); });
  }

  Napi::Value Lookup(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kLoaded);
    const std::string key = KeyArgument(info);
    std::optional<uint64_t> value;
    Call(env, [&] { value = session.Lookup(key); });
    return value ? Napi::BigInt::New(env, *value) : env.Undefined();
  }

  void Update(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kLoaded);
    const std::string key = KeyArgument(info);
    bool lossless = false;
    const uint64_t value =
        info[1].IsBigInt() ? info[1].As<Napi::BigInt>().Uint64Value(&lossless) : 0;
    if (!lossless) throw Napi::TypeError::New(env, "value must be a bigint from 0 to 2^64 - 1");
    Call(env, [&] { session.Update(key, value); });
  }

  Napi::Value Remove(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kLoaded);
    const std::string key = KeyArgument(info);
    bool removed = false;
    Call(env, [&] { removed = session.Remove(key); });
    return Napi::Boolean::New(env, removed);
  }

  Napi::Value ReadCounters(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kLoaded);
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

  Napi::Value ReadExecs(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kLoaded);
    uint64_t execs = 0;
    Call(env, [&] { execs = session.ReadExecs(); });
    return Napi::BigInt::New(env, execs);
  }

  Napi::Value Programs(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Session& session = Get(env, Needs::kLoaded);
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
    Session& session = Get(env, Needs::kLoaded);
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

  void Close(const Napi::CallbackInfo& info) {
    Get(info.Env(), Needs::kOpen);
    session_.reset();
  }

  Napi::FunctionReference log_;
  std::vector<std::pair<LogLevel, std::string>> messages_;
  bool load_tried_ = false;
  bool loaded_ = false;
  // Node destroys this object when it is collected, and when the thread that made
  // it ends, worker or main.
  std::unique_ptr<Session> session_;
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports["Session"] = SessionWrap::Define(env);
  exports["libbpfVersion"] = Session::LibbpfVersion();
  return exports;
}

NODE_API_MODULE(execve_counter, Init)

}  // namespace
