// SPDX-License-Identifier: MIT
//
// Between JavaScript and C++: arguments are checked here, and a TypeError names the wrong one.
// Reading an array may run JavaScript; nothing else does.
#ifndef EXECVE_COUNTER_ARGUMENTS_H_
#define EXECVE_COUNTER_ARGUMENTS_H_

#include <napi.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "failure.h"

namespace execve_counter {

// A call that the object's state does not allow; its code is "ERR_SESSION_STATE".
Napi::Error StateError(Napi::Env env, const std::string& message);

// The Failure as an Error, with the facts in its properties:
//   step     the name of the step that failed: "attach"
//   subject  the program's, map's or pin's name, or ""
//   errno    the kernel's reason, positive
Napi::Error FailureError(Napi::Env env, const Failure& failure);

// Does native work; a Failure becomes an Error.
template <typename Work>
std::invoke_result_t<Work> Try(Napi::Env env, Work work) {
  try {
    return work();
  } catch (const Failure& failure) {
    throw FailureError(env, failure);
  }
}

// A string without NUL: to code that reads up to a NUL it would be another string.
std::string StringOf(const Napi::Value& value, const std::string& name);
std::vector<std::string> StringsOf(const Napi::Value& value, const std::string& name);
// A Uint8Array of words, each with a NUL at its end; at least one.
std::vector<std::string> WordsOf(const Napi::Value& value, const std::string& name);
// Numbers of users or groups.
std::vector<uint32_t> IdsOf(const Napi::Value& value, const std::string& name);
bool BooleanOf(const Napi::Value& value, const std::string& name);
uint32_t U32Of(const Napi::Value& value, const std::string& name, uint32_t least = 0);
uint64_t U64Of(const Napi::Value& value, const std::string& name);   // a bigint
uint64_t TimeOf(const Napi::Value& value, const std::string& name);  // in ms
std::vector<uint32_t> CapabilitiesOf(const Napi::Value& value, const std::string& name);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_ARGUMENTS_H_
