// SPDX-License-Identifier: MIT
#include "arguments.h"

#include <algorithm>
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

std::vector<std::string> WordsOf(const Napi::Value& value, const std::string& name) {
  std::vector<std::string> words;
  if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array) {
    const auto bytes = value.As<Napi::Uint8Array>();
    const auto* byte = reinterpret_cast<const char*>(bytes.Data());
    const auto* const end = byte + bytes.ByteLength();
    for (const char* nul; (nul = std::find(byte, end, '\0')) != end; byte = nul + 1) {
      words.emplace_back(byte, nul);
    }
    if (byte == end && !words.empty()) return words;
  }
  throw WrongType(value, name + " must be a Uint8Array of words, each with a NUL at its end");
}

std::vector<uint32_t> IdsOf(const Napi::Value& value, const std::string& name) {
  return Elements<uint32_t>(
      value, name + " must be an array of integers below 2^32 - 1",
      [](const Napi::Value& each) { return Integer(each, 0, UINT32_MAX - 1.0); });
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
