// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_OBJECT_H_
#define EXECVE_COUNTER_OBJECT_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct bpf_map;
struct bpf_object;
struct bpf_program;

namespace execve_counter {

enum class LogLevel { kWarn, kInfo, kDebug };
// Receives libbpf's messages, on the thread that made the Object.
using Log = std::function<void(LogLevel, std::string)>;

std::string LibbpfVersion();

// The BPF object file, open and parsed; its owner may load it. Destroying it, like the death of
// the process, unloads what was loaded of it.
//
// libbpf's messages are passed on while the file is opened, and while a Listener lives.
class Object {
 public:
  // Throws Failure of the step kOpen.
  Object(const std::string& path, Log log);
  // The same with the content of a file, which may be out of reach by now.
  Object(std::string_view content, Log log);
  Object(Object&&) = default;

  // While it lives, messages of libbpf on this thread go to the Object's log.
  class Listener {
   public:
    explicit Listener(const Log& log);
    ~Listener();
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

   private:
    const Log* previous_;
  };
  [[nodiscard]] Listener Listen() const { return Listener(log_); }

  bpf_object* get() const { return object_.get(); }
  // In the file's order.
  std::vector<bpf_program*> Programs() const;
  std::vector<bpf_map*> Maps() const;
  // By name; Failure of the step kLoad where there is none.
  bpf_program* Program(const std::string& name) const;
  bpf_map* Map(const std::string& name) const;

 private:
  explicit Object(Log log);

  Log log_;
  std::unique_ptr<bpf_object, void (*)(bpf_object*)> object_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_OBJECT_H_
