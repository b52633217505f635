// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_SESSION_WRAP_H_
#define EXECVE_COUNTER_SESSION_WRAP_H_

#include <napi.h>

#include "meter_wrap.h"
#include "session.h"

namespace execve_counter {

class SessionWrap : public MeterWrap<SessionWrap, Session> {
 public:
  static constexpr const char* kName = "session";
  static Napi::Function Define(Napi::Env env);

  // new Session(object: string | Uint8Array, log: (level: string, message: string) => void)
  explicit SessionWrap(const Napi::CallbackInfo& info);

 private:
  void Load(const Napi::CallbackInfo& info);
  void Attach(const Napi::CallbackInfo& info);
  Napi::Value Retire(const Napi::CallbackInfo& info);
  void SetScope(const Napi::CallbackInfo& info);

  bool taken_ = false;  // load() was called
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_SESSION_WRAP_H_
