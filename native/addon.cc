// SPDX-License-Identifier: MIT
//
// The module: two classes, and functions. A wrong argument is a TypeError; what the kernel,
// libbpf or NSS refuses is an Error as FailureError makes it. src/kernel/addon.ts is the only
// caller.
#include <napi.h>
#include <time.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "command.h"
#include "counters.h"
#include "follower_wrap.h"
#include "mount.h"
#include "object.h"
#include "pins.h"
#include "privileges.h"
#include "service.h"
#include "session_wrap.h"
#include "users.h"
#include "values.h"

namespace execve_counter {
namespace {

// findCounters(): number[]
Napi::Value FindCounters(const Napi::CallbackInfo& info) {
  Napi::Array ids = Napi::Array::New(info.Env());
  for (const uint32_t id : Try(info.Env(), Follower::FindCounters)) ids[ids.Length()] = id;
  return ids;
}

// emptySlot(path: string): void
void EmptySlot(const Napi::CallbackInfo& info) { Pins::EmptySlot(StringOf(info[0], "path")); }

// pinned(pins: string): { flags: string[]; rows: number; scope?: string }
Napi::Value Pinned(const Napi::CallbackInfo& info) {
  const Pins pins(StringOf(info[0], "pins"));
  const config config = Try(info.Env(), [&] { return pins.ReadConfig(); });
  std::string scope;
  if (config.scoped) scope = Try(info.Env(), [&] { return pins.ReadScope(); });
  Napi::Object object = Napi::Object::New(info.Env());
  object["flags"] = FlagsOf(info.Env(), config);
  object["rows"] = config.rows;
  if (config.scoped) object["scope"] = scope;
  return object;
}

// mountBpffs(directory: string): void
void MountBpffs(const Napi::CallbackInfo& info) {
  const std::string directory = StringOf(info[0], "directory");
  Try(info.Env(), [&] { Pins::MountBpffs(directory); });
}

// userName(uid: number, patience: number): string | null | undefined
Napi::Value UserNameOf(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const uint32_t uid = U32Of(info[0], "uid");
  const std::chrono::milliseconds patience(U32Of(info[1], "patience"));
  const Name name = Try(env, [&] { return UserName(uid, patience); });
  if (!name) return env.Undefined();
  return *name ? Napi::String::New(env, **name) : env.Null();
}

// account(who: string | number): { uid: number; gid: number } | undefined
Napi::Value AccountOf(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::optional<Account> account;
  if (info[0].IsNumber()) {
    const uint32_t uid = U32Of(info[0], "who");
    account = Try(env, [&] { return FindAccount(uid); });
  } else {
    const std::string name = StringOf(info[0], "who");
    account = Try(env, [&] { return FindAccount(name); });
  }
  if (!account) return env.Undefined();
  Napi::Object object = Napi::Object::New(env);
  object["uid"] = account->uid;
  object["gid"] = account->gid;
  return object;
}

// restrict(keep: number[], uid?: number, gid?: number): void
void RestrictTo(const Napi::CallbackInfo& info) {
  const std::vector<uint32_t> keep = CapabilitiesOf(info[0], "keep");
  std::optional<Account> account;
  if (!info[1].IsUndefined()) {
    account = Account{U32Of(info[1], "uid"), U32Of(info[2], "gid")};
    // To setresuid(2) and setresgid(2) this means: as it is.
    if (account->uid == UINT32_MAX || account->gid == UINT32_MAX) {
      throw Napi::TypeError::New(info.Env(), "uid and gid must be less than 2^32 - 1");
    }
  }
  Try(info.Env(), [&] { Restrict(account, keep); });
}

// login(uid: number, gid: number): Login | undefined
Napi::Value LoginOf(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const uint32_t uid = U32Of(info[0], "uid"), gid = U32Of(info[1], "gid");
  const auto login = Try(env, [&] { return FindLogin(uid, gid); });
  if (!login) return env.Undefined();
  Napi::Object object = Napi::Object::New(env);
  object["name"] = login->name;
  object["home"] = login->home;
  object["shell"] = login->shell;
  Napi::Array groups = Napi::Array::New(env);
  for (const gid_t group : login->groups) groups[groups.Length()] = group;
  object["groups"] = groups;
  return object;
}

// mountAlone(type: string): number
Napi::Value MountOf(const Napi::CallbackInfo& info) {
  const std::string type = StringOf(info[0], "type");
  return Napi::Number::New(info.Env(), Try(info.Env(), [&] { return MountAlone(type).release(); }));
}

// runCommand(command: Uint8Array, environment: string[], group: string,
//            uid?: number, gid?: number, groups?: number[]): Outcome
Napi::Value RunCommand(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Command command{WordsOf(info[0], "command"), StringsOf(info[1], "environment"),
                  StringOf(info[2], "group"), std::nullopt};
  if (!info[3].IsUndefined()) {
    command.identity =
        Identity{U32Of(info[3], "uid"), U32Of(info[4], "gid"), IdsOf(info[5], "groups")};
    if (command.identity->uid == UINT32_MAX || command.identity->gid == UINT32_MAX) {
      throw Napi::TypeError::New(env, "uid and gid must be less than 2^32 - 1");
    }
  }
  const Outcome outcome = Try(env, [&] { return Run(command); });
  Napi::Object object = Napi::Object::New(env);
  object["code"] = outcome.code;
  object["signal"] = outcome.signal;
  object["milliseconds"] = outcome.milliseconds;
  return object;
}

// endBy(signal: number): void
void EndBySignal(const Napi::CallbackInfo& info) { EndBy(U32Of(info[0], "signal")); }

// bootTime(): number
Napi::Value BootTime(const Napi::CallbackInfo& info) {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return Napi::Number::New(info.Env(), now.tv_sec * 1e3 + now.tv_nsec / 1e6);
}

// notify(state: string): boolean
Napi::Value NotifyOf(const Napi::CallbackInfo& info) {
  const std::string state = StringOf(info[0], "state");
  return Napi::Boolean::New(info.Env(), Try(info.Env(), [&] { return Notify(state); }));
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  NoteLimits();
  exports["Session"] = SessionWrap::Define(env);
  exports["Follower"] = FollowerWrap::Define(env);
  exports["bootTime"] = Napi::Function::New(env, BootTime);
  exports["findCounters"] = Napi::Function::New(env, FindCounters);
  exports["mountBpffs"] = Napi::Function::New(env, MountBpffs);
  exports["emptySlot"] = Napi::Function::New(env, EmptySlot);
  exports["pinned"] = Napi::Function::New(env, Pinned);
  exports["account"] = Napi::Function::New(env, AccountOf);
  exports["notify"] = Napi::Function::New(env, NotifyOf);
  exports["restrict"] = Napi::Function::New(env, RestrictTo);
  exports["userName"] = Napi::Function::New(env, UserNameOf);
  exports["login"] = Napi::Function::New(env, LoginOf);
  exports["mountAlone"] = Napi::Function::New(env, MountOf);
  exports["runCommand"] = Napi::Function::New(env, RunCommand);
  exports["endBy"] = Napi::Function::New(env, EndBySignal);
  exports["libbpfVersion"] = LibbpfVersion();
  return exports;
}

NODE_API_MODULE(execve_counter, Init)

}  // namespace
}  // namespace execve_counter
