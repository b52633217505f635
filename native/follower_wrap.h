// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_FOLLOWER_WRAP_H_
#define EXECVE_COUNTER_FOLLOWER_WRAP_H_

#include <napi.h>

#include "follower.h"
#include "meter_wrap.h"

namespace execve_counter {

class FollowerWrap : public MeterWrap<FollowerWrap, Follower> {
 public:
  static constexpr const char* kName = "follower";
  static Napi::Function Define(Napi::Env env);

  // new Follower(object: string | Uint8Array, log: (level: string, message: string) => void,
  //              mapId: number)
  explicit FollowerWrap(const Napi::CallbackInfo& info);

 private:
  void Follow(const Napi::CallbackInfo& info);
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_FOLLOWER_WRAP_H_
