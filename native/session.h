// SPDX-License-Identifier: MIT
//
// libbpf without Node: one Session is one loaded copy of the BPF object, and the
// only owner of its maps, programs and links. Destroying it, like the death of
// the process, unloads everything but what is pinned.
//
// The order is: construct, Load, Insert into counters() to seed the keys, Begin, Attach, then
// any of the others. Keys are seeded before the first program is attached, so that counting
// starts at one moment for all keys.
//
// Not thread-safe: a Session belongs to the thread that made it. Every method may
// throw Failure, and leaves the Session usable or closed, never half-way.
#ifndef EXECVE_COUNTER_SESSION_H_
#define EXECVE_COUNTER_SESSION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "counters.h"
#include "fd.h"
#include "info.h"
#include "object.h"
#include "pins.h"
#include "tables.h"

struct bpf_link;

namespace execve_counter {

// What to load, and how it counts.
struct Plan {
  std::vector<std::string> programs;
  struct config config{};  // without the places of labels in a key
  // The directory to pin everything in, so that it outlives the process.
  std::optional<Pins> pins;
  bool reuse = false;  // what is pinned there, rather than to pin anew
  // The path of the control group outside of which nothing counts, from the root of the unified
  // hierarchy; empty for one that is never made again. See SetScope.
  std::optional<std::string> scope;
};

class Session {
 public:
  explicit Session(Object object);

  // Creates the maps, seeds their first rows, and loads the named programs, no others. Once only.
  // With pins it pins the maps, or reuses the pinned ones; a pin that does not fit is a
  // Failure of the step kPinned.
  void Load(const Plan& plan);

  // Null until it is loaded. Every method below is for a Session that is.
  Counters* counters() { return counters_ ? &*counters_ : nullptr; }
  Tables* tables() { return tables_ ? &*tables_ : nullptr; }

  // When the counts began, in ms since 1970: `now`, or the `now` of the first start where pins
  // are reused. Call it before Attach.
  uint64_t Begin(uint64_t now);

  // Adds one loaded program to its hook, once (EEXIST). Where pins are reused it replaces the
  // one that was there, between two events. Tracepoints: see OpenTracepoint.
  void Attach(const std::string& program);

  // Removes rows of control groups that ended before that time, in ns since boot, and adds them
  // to the row of all retired ones; returns how many. Some may be left for the next call, so
  // that none takes long. Rows of a group are kept while another with the same labels lives:
  // they are added to those of one group, the first of these that have ended. It waits until
  // no program can add to them any more. Failure of the step kRetire or kSettle.
  uint32_t Retire(uint64_t ended_before);

  // The loaded programs, and the maps, in the object's order. Failure of the step kSlot where
  // a pinned entry calls another program than this Session's.
  std::vector<ProgramInfo> Programs() const;
  std::vector<MapInfo> Maps() const;

 private:
  using Link = std::unique_ptr<bpf_link, int (*)(bpf_link*)>;

  void Choose();
  void Configure();
  void Reuse();
  void Seed();
  void PinAll();
  Fd Copy(const std::string& map) const;
  static Link Hook(const std::string& name, bpf_program* program);

  Object object_;
  Plan plan_;
  // Destroyed before object_: a program is detached before it is unloaded.
  std::map<std::string, Link> links_;
  // The pinned entries, by the programs that they call.
  std::map<std::string, Fd> entries_;
  // Links that were pinned before: held, so that they stay attached though another process
  // removes the pins.
  std::vector<Fd> pinned_links_;
  std::optional<Counters> counters_;
  std::optional<Tables> tables_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_SESSION_H_
