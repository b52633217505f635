// SPDX-License-Identifier: MIT
#include "object.h"

#include <bpf/libbpf.h>

#include <cerrno>
#include <cstdio>
#include <mutex>
#include <utility>

#include "failure.h"

namespace execve_counter {
namespace {

// libbpf has one print callback for the whole process; the Object with a Listener on this
// thread receives the message.
thread_local const Log* current_log = nullptr;

int Print(libbpf_print_level level, const char* format, va_list args) {
  if (!current_log || !*current_log) return 0;
  // The verifier's log can be long, and its end matters most.
  va_list again;
  va_copy(again, args);
  const int length = vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (length < 0) return length;
  std::string message(length, '\0');
  vsnprintf(message.data(), length + 1, format, args);
  const LogLevel mapped = level == LIBBPF_WARN   ? LogLevel::kWarn
                          : level == LIBBPF_INFO ? LogLevel::kInfo
                                                 : LogLevel::kDebug;
  (*current_log)(mapped, std::move(message));
  return length;
}

}  // namespace

std::string LibbpfVersion() {
  const std::string version = libbpf_version_string();  // "v1.1"
  return version.substr(version.find_first_not_of('v'));
}

Object::Listener::Listener(const Log& log) : previous_(std::exchange(current_log, &log)) {}

Object::Listener::~Listener() { current_log = previous_; }

Object::Object(Log log) : log_(std::move(log)), object_(nullptr, bpf_object__close) {
  static std::once_flag once;
  std::call_once(once, [] { libbpf_set_print(Print); });
}

Object::Object(const std::string& path, Log log) : Object(std::move(log)) {
  const auto listener = Listen();
  object_.reset(bpf_object__open_file(path.c_str(), nullptr));
  if (!object_) throw Failure(Step::kOpen, errno);
}

Object::Object(std::string_view content, Log log) : Object(std::move(log)) {
  const auto listener = Listen();
  bpf_object_open_opts options{};
  options.sz = sizeof(options);
  options.object_name = "execve_counter";
  // libbpf copies what it keeps of it.
  object_.reset(bpf_object__open_mem(content.data(), content.size(), &options));
  if (!object_) throw Failure(Step::kOpen, errno);
}

std::vector<bpf_program*> Object::Programs() const {
  std::vector<bpf_program*> programs;
  bpf_program* program;
  bpf_object__for_each_program(program, object_.get()) programs.push_back(program);
  return programs;
}

std::vector<bpf_map*> Object::Maps() const {
  std::vector<bpf_map*> maps;
  bpf_map* map;
  bpf_object__for_each_map(map, object_.get()) maps.push_back(map);
  return maps;
}

bpf_program* Object::Program(const std::string& name) const {
  bpf_program* program = bpf_object__find_program_by_name(object_.get(), name.c_str());
  if (!program) throw Failure(Step::kLoad, ENOENT, name);
  return program;
}

bpf_map* Object::Map(const std::string& name) const {
  bpf_map* map = bpf_object__find_map_by_name(object_.get(), name.c_str());
  if (!map) throw Failure(Step::kLoad, ENOENT, name);
  return map;
}

}  // namespace execve_counter
