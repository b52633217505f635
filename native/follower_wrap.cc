// SPDX-License-Identifier: MIT
#include "follower_wrap.h"

#include <memory>

namespace execve_counter {

Napi::Function FollowerWrap::Define(Napi::Env env) {
  return MeterWrap::Define(env, "Follower", {InstanceMethod<&FollowerWrap::Follow>("follow")});
}

FollowerWrap::FollowerWrap(const Napi::CallbackInfo& info) : MeterWrap(info) {
  const uint32_t map_id = U32Of(info[2], "mapId");
  Open(info, [=](const Object& object) { return std::make_unique<Follower>(object, map_id); });
}

void FollowerWrap::Follow(const Napi::CallbackInfo& info) {
  Follower& follower = Get(info.Env());
  Call(info.Env(), [&] { follower.Follow(); });
}

}  // namespace execve_counter
