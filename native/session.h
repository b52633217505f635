// SPDX-License-Identifier: MIT
//
// libbpf without Node: one Session is one loaded copy of the BPF object, and the
// only owner of its maps, programs and links. Destroying it, like the death of
// the process, unloads everything.
//
// The order is: construct (which opens), Load, Insert to seed the keys, Attach, then
// any of the others. Keys are seeded before the first program is attached, so that counting starts
// at a moment everybody agrees on. Or else: construct, Adopt the counters of a Session that
// runs elsewhere, and edit those, or Follow that Session and read all that it counts.
//
// Not thread-safe: a Session belongs to the thread that made it. Every method may
// throw Failure, and leaves the Session usable or closed, never half-way.
#ifndef EXECVE_COUNTER_SESSION_H_
#define EXECVE_COUNTER_SESSION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../bpf/execve_counter.h"
#include "failure.h"
#include "fd.h"

struct bpf_link;
struct bpf_map;
struct bpf_object;
struct bpf_program;

namespace execve_counter {

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

// What to load, and how it counts; see struct config in execve_counter.h.
struct Plan {
  std::vector<std::string> programs;
  config keys{};      // which fields of exec_key to fill, and whether calls are followed
  uint32_t rows = 2;  // that `execs` has room for, OTHER_KEY included; at least 2
  // A directory in bpffs to pin everything in, so that it outlives the process.
  std::string pins;
  bool adopt = false;  // what is pinned there, rather than to pin anew
};

// A row of `execs`; what it is not keyed by is empty or 0.
struct Exec {
  std::string command;
  std::string container;  // 64 hexadecimal digits; "unknown"; empty outside containers
  uint32_t uid;
  uint64_t count;
};

struct FailedCalls {
  const char* syscall;  // "execve", "execveat"
  uint32_t error;       // a positive errno; 0 where it is not known
  uint64_t count;
};

// How calls ended that started no program; see struct failures in execve_counter.h.
struct Failures {
  std::vector<FailedCalls> failed;  // where there were any
  uint64_t checks = 0;
  uint64_t unfollowed = 0;
};

class Session {
 public:
  // Opens and parses the object file; touches nothing in the kernel.
  Session(const std::string& object_path, Log log);
  // The same of an object file that was read before, where it may be out of reach by now.
  Session(std::string_view object, Log log);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Creates the maps, seeds OTHER_KEY, and loads the named programs, no others. Once only.
  // With pins the maps are pinned, or are those that were; what is pinned and does not
  // fit is a Failure of the step kPinned.
  void Load(const Plan& plan);

  // How what is pinned in a directory counts: `keys` and `rows` as they were for Load; a
  // Failure of the step kPinned where it is none of ours.
  static Plan Pinned(const std::string& pins);

  // Since when the counts run, in ms since 1970: from `now` on, or, where they were
  // adopted, what was said here first. To be called before Attach. Of a Session that is
  // followed it is when the kernel began to load the last of the programs that were attached
  // first: a few tenths of a second early. (The map that says it to the millisecond is in no
  // program's hands, and so cannot be told from another Session's.)
  uint64_t Begin(uint64_t now);

  // Instead of Load: takes the map `execve_counter` with this id for the counters.
  // EINVAL where that is another kind of map.
  void Adopt(uint32_t map_id);

  // After Adopt: finds the programs that count in those counters, and the other maps that they
  // count in. Holds the maps, which live on by that when their Session ends, and no program,
  // which would live on, too; changes nothing. To be called again where Programs says ESTALE:
  // what is pinned has new programs when its agent is started again, and the same maps.
  // ESRCH where nobody counts there any more; EINVAL where the maps are of another version; of
  // the step kSlot ESTALE where an entry calls nothing: it is about to, or somebody
  // has emptied its slot.
  void Follow();

  // Takes an advisory lock on a directory, or on a file that is made where it is not, for
  // as long as the Session lives; EWOULDBLOCK where somebody has it.
  void Lock(const std::string& path);

  // Mounts bpffs there, for everybody.
  static void MountBpffs(const std::string& directory);

  // The ids of the maps `execve_counter` that loaded programs count in, in rising order.
  static std::vector<uint32_t> FindCounters();

  // Adds one loaded program to its hook, once (EEXIST); where it is adopted, in the place of
  // the one that was there, between two events. A tracepoint's number is looked up in
  // tracefs: where that is mounted, or else through a private mount that nobody
  // else sees and that is gone when the method returns.
  void Attach(const std::string& program);

  // The counters, by key; see KEY_* in execve_counter.h. A key is 1 to
  // KEY_SIZE - 1 bytes without NUL: the caller checks, see ValidKey.
  static bool ValidKey(std::string_view key);
  void Update(std::string_view key, uint64_t value);
  bool Insert(std::string_view key);  // at 0; false: it is there, and keeps its count
  std::optional<uint64_t> Lookup(std::string_view key);
  bool Remove(std::string_view key);  // false: there was no such key

  // Waits until every program has ended that runs at this moment: milliseconds, mostly.
  // The kernel reuses a removed element at once, and a program that found it before
  // would add to the key that comes after: settle between a Remove and the next Insert.
  static void Settle();

  // All counters, in no particular order, with one bpf() call.
  std::vector<std::pair<std::string, uint64_t>> ReadCounters();
  // All rows of `execs`, OTHER_KEY's among them, likewise.
  std::vector<Exec> ReadExecs();
  Failures ReadFailures();

  // The loaded programs, and the maps, in the object's order; of a Session that is followed,
  // the programs that count, and the maps that they count in.
  std::vector<ProgramInfo> Programs();
  std::vector<MapInfo> Maps();

  // What `execs` is keyed by, and whether calls are followed.
  const config& Keys() const { return plan_.keys; }

  static std::string LibbpfVersion();

 private:
  class LogScope;
  explicit Session(Log log);
  void ReuseMap(bpf_map* map);
  void CheckEntry(const std::string& program);
  void Pin(int fd, const std::string& name);
  std::vector<std::string> PinnedMaps();
  bpf_program* Program(const std::string& name);
  bpf_map* Map(const std::string& name);
  uint32_t ReadHash(int fd, uint32_t capacity);
  void MakeRoom();
  Fd FollowMap(uint32_t id, uint32_t type, uint32_t key_size, uint32_t value_size);
  ProgramInfo FollowedProgram(const std::string& name);

  Log log_;
  std::unique_ptr<bpf_object, void (*)(bpf_object*)> object_;
  // Destroyed before object_: a program is detached before it is unloaded.
  std::map<std::string, std::unique_ptr<bpf_link, int (*)(bpf_link*)>> links_;
  // Owned by object_, or by adopted_.
  int counters_fd_ = -1;
  int execs_fd_ = -1;
  int failures_fd_ = -1;
  std::vector<Fd> adopted_;
  // A program of another Session, by ids. Where it is pinned, what is attached is its entry,
  // which calls what is in slot 0 of `next`; else 0 and 0.
  struct Followed {
    uint32_t program;
    uint32_t entry;
    uint32_t next;
    uint64_t load_time;  // of what is attached
  };
  std::map<std::string, Followed> followed_;
  std::unique_ptr<Fd> lock_;
  Plan plan_;
  std::map<std::string, Fd> entries_;  // what is attached, by the program it calls
  // Links that were pinned before: held, so that they stay attached though somebody
  // removes the pins.
  std::vector<Fd> pinned_links_;
  // Room to read the fullest map into.
  std::unique_ptr<char[]> keys_;
  std::unique_ptr<uint64_t[]> values_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_SESSION_H_
