// SPDX-License-Identifier: MIT
//
// libbpf without Node: one Session is one loaded copy of the BPF object, and the
// only owner of its maps, programs and links. Destroying it, like the death of
// the process, unloads everything.
//
// The order is: construct (which opens), Load, Update to seed the keys, Attach, then
// any of the others. Keys are seeded before the first program is attached, so that counting starts
// at a moment everybody agrees on.
//
// Not thread-safe: a Session belongs to the thread that made it. Every method may
// throw Failure, and leaves the Session usable or closed, never half-way.
#ifndef EXECVE_COUNTER_SESSION_H_
#define EXECVE_COUNTER_SESSION_H_

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

struct bpf_link;
struct bpf_object;
struct bpf_program;

namespace execve_counter {

// What went wrong, as facts; the words for the user are the caller's business.
struct Failure : std::exception {
  Failure(std::string step, int error) : step(std::move(step)), error(error) {}
  const char* what() const noexcept override { return step.c_str(); }

  // What was being done: "open", "load", "attach count_exec", "tracefs",
  // "tracepoint", "perf_event", "lookup", "update", "delete", "read", "info".
  std::string step;
  // A positive errno.
  int error;
};

enum class LogLevel { kWarn, kInfo, kDebug };
// Receives libbpf's messages, on the Session's thread, while a method runs.
using Log = std::function<void(LogLevel, std::string)>;

// From struct bpf_prog_info. Times and counts are 0 while the sysctl
// kernel.bpf_stats_enabled is 0; misses are kept regardless.
struct ProgramInfo {
  std::string name;    // the C name
  std::string hook;    // the ELF section: "tp_btf/sched_process_exec"
  uint32_t id;         // as `bpftool prog` shows it
  uint64_t run_count;  // runs
  uint64_t run_time;   // nanoseconds
  uint64_t misses;     // runs the kernel skipped (recursion_misses)
};

struct MapInfo {
  std::string name;
  uint32_t id;  // as `bpftool map` shows it
  uint32_t capacity;
};

class Session {
 public:
  // Opens and parses the object file; touches nothing in the kernel.
  Session(const std::string& object_path, Log log);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Creates the maps and loads the named programs, no others. Once only.
  void Load(const std::vector<std::string>& programs);

  // Adds one loaded program to its hook, once (EEXIST). A tracepoint's number is looked up in
  // tracefs: where that is mounted, or else through a private mount that nobody
  // else sees and that is gone when the method returns.
  void Attach(const std::string& program);

  // The counters, by key; see KEY_* in execve_counter.h. A key is 1 to
  // KEY_SIZE - 1 bytes without NUL: the caller checks, see ValidKey.
  static bool ValidKey(std::string_view key);
  void Update(std::string_view key, uint64_t value);
  std::optional<uint64_t> Lookup(std::string_view key);
  bool Remove(std::string_view key);  // false: there was no such key

  // All counters, in no particular order, with one bpf() call.
  std::vector<std::pair<std::string, uint64_t>> ReadCounters();
  // Programs started since the Session was loaded.
  uint64_t ReadExecs();

  // The loaded programs, and the maps, in the object's order.
  std::vector<ProgramInfo> Programs();
  std::vector<MapInfo> Maps();

  static std::string LibbpfVersion();

 private:
  class LogScope;
  int MapFd(const char* name);

  Log log_;
  std::unique_ptr<bpf_object, void (*)(bpf_object*)> object_;
  // Destroyed before object_: a program is detached before it is unloaded.
  std::map<std::string, std::unique_ptr<bpf_link, int (*)(bpf_link*)>> links_;
  int counters_fd_ = -1;  // owned by object_
  int execs_fd_ = -1;     // owned by object_
  std::unique_ptr<char[]> keys_;
  std::unique_ptr<uint64_t[]> values_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_SESSION_H_
