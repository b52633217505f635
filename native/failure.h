// SPDX-License-Identifier: MIT
//
// What went wrong, as facts; the words for the user are the caller's business.
#ifndef EXECVE_COUNTER_FAILURE_H_
#define EXECVE_COUNTER_FAILURE_H_

#include <stdexcept>
#include <string>
#include <utility>

namespace execve_counter {

// What was being done. src/kernel/explain.ts has the same list, by the names below.
enum class Step {
  // Of the object file and what is loaded of it.
  kOpen,
  kLoad,
  kAttach,
  // Of what a tracepoint takes. kMount is of a file system, the subject; kTracepoint says
  // that the kernel has none of that name, kTracefs that nobody can tell.
  kMount,
  kTracefs,
  kTracepoint,
  kPerfEvent,
  // Of pins: to pin the subject, or to take over what is pinned by that name. kSlot says
  // that the subject, an entry or what it calls, has something else in its slot.
  kPin,
  kPinned,
  kSlot,
  kLock,
  // Of other meters: to find them, to take the counters of one, and all that it counts.
  kFind,
  kAdopt,
  kFollow,
  // Of what is in the maps.
  kLookup,
  kUpdate,
  kDelete,
  kRead,
  kSettle,
  kInfo,
  // Of the process: its accounts, its service manager, its privileges.
  kUser,
  kNotify,
  kSeccomp,
  kSetgroups,
  kSetresgid,
  kSetresuid,
  kCapset,
  kThreads,
};

inline const char* NameOf(Step step) {
  switch (step) {
    case Step::kOpen:
      return "open";
    case Step::kLoad:
      return "load";
    case Step::kAttach:
      return "attach";
    case Step::kMount:
      return "mount";
    case Step::kTracefs:
      return "tracefs";
    case Step::kTracepoint:
      return "tracepoint";
    case Step::kPerfEvent:
      return "perf_event";
    case Step::kPin:
      return "pin";
    case Step::kPinned:
      return "pinned";
    case Step::kSlot:
      return "slot";
    case Step::kLock:
      return "lock";
    case Step::kFind:
      return "find";
    case Step::kAdopt:
      return "adopt";
    case Step::kFollow:
      return "follow";
    case Step::kLookup:
      return "lookup";
    case Step::kUpdate:
      return "update";
    case Step::kDelete:
      return "delete";
    case Step::kRead:
      return "read";
    case Step::kSettle:
      return "settle";
    case Step::kInfo:
      return "info";
    case Step::kUser:
      return "user";
    case Step::kNotify:
      return "notify";
    case Step::kSeccomp:
      return "seccomp";
    case Step::kSetgroups:
      return "setgroups";
    case Step::kSetresgid:
      return "setresgid";
    case Step::kSetresuid:
      return "setresuid";
    case Step::kCapset:
      return "capset";
    case Step::kThreads:
      return "threads";
  }
  return "";
}

// what() is the step and the subject: "attach count_exec".
struct Failure : std::runtime_error {
  Failure(Step step, int error, std::string subject = "")
      : std::runtime_error(NameOf(step) + (subject.empty() ? "" : " " + subject)),
        step(step),
        error(error),
        subject(std::move(subject)) {}

  Step step;
  // A positive errno.
  int error;
  // The program's, map's or pin's name, where it is of one.
  std::string subject;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_FAILURE_H_
