// SPDX-License-Identifier: MIT
#include "arguments.h"

#include <cmath>
#include <cstring>
#include <optional>

namespace execve_counter {
namespace {

Napi::TypeError WrongType(const Napi::Value& value, const std::string& message) {
  return Napi::TypeError::New(value.Env(), message);
}

std::optional<std::string> CString(const Napi::Value& value) {
  if (!value.IsString()) return std::nullopt;
  std::string text = value.As<Napi::String>();
  if (text.find('\0') != std::string::npos) return std::nullopt;
  return text;
}

std::optional<uint32_t> Integer(const Napi::Value& value, double least, double most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= least && number <= most) || number != std::floor(number)) return std::nullopt;
  return static_cast<uint32_t>(number);
}

// The elements, of which `read` gives nothing for a wrong one.
template <typename Element, typename Read>
std::vector<Element> Elements(const Napi::Value& value, const std::string& message, Read read) {
  if (!value.IsArray()) throw WrongType(value, message);
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<Element> elements;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const std::optional<Element> element = read(array[i]);
    if (!element) throw WrongType(value, message);
    elements.push_back(*element);
  }
  return elements;
}

}  // namespace

Napi::Error StateError(Napi::Env env, const std::string& message) {
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

std::string StringOf(const Napi::Value& value, const std::string& name) {
  const auto text = CString(value);
  if (!text) throw WrongType(value, name + " must be a string without NUL");
  return *text;
}

std::vector<std::string> StringsOf(const Napi::Value& value, const std::string& name) {
  return Elements<std::string>(value, name + " must be an array of strings without NUL", CString);
}

bool BooleanOf(const Napi::Value& value, const std::string& name) {
  if (!value.IsBoolean()) throw WrongType(value, name + " must be true or false");
  return value.As<Napi::Boolean>();
}

uint32_t U32Of(const Napi::Value& value, const std::string& name, uint32_t least) {
  const auto number = Integer(value, least, UINT32_MAX);
  if (number) return *number;
  throw WrongType(value,
                  name + " must be an integer from " + std::to_string(least) + " to 2^32 - 1");
}

uint64_t U64Of(const Napi::Value& value, const std::string& name) {
  bool lossless = false;
  const uint64_t number = value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless) throw WrongType(value, name + " must be a bigint from 0 to 2^64 - 1");
  return number;
}

uint64_t TimeOf(const Napi::Value& value, const std::string& name) {
  const double time = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(time >= 0 && time < 9e15)) throw WrongType(value, name + " must be a time in ms");
  return static_cast<uint64_t>(time);
}

std::vector<uint32_t> CapabilitiesOf(const Napi::Value& value, const std::string& name) {
  return Elements<uint32_t>(value, name + " must be an array of integers from 0 to 63",
                            [](const Napi::Value& each) { return Integer(each, 0, 63); });
}

}  // namespace execve_counter
