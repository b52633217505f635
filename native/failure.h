// SPDX-License-Identifier: MIT
//
// A failure, as facts; the caller finds the words for the user.
#ifndef EXECVE_COUNTER_FAILURE_H_
#define EXECVE_COUNTER_FAILURE_H_

#include <stdexcept>
#include <string>
#include <utility>

namespace execve_counter {

// The step that failed. src/kernel/explain.ts has the same list, by the names below.
enum class Step {
  // Of the object file and the programs loaded from it.
  kOpen,
  kLoad,
  kAttach,
  // Of opening a tracepoint. kMount is of a file system, the subject. With kTracepoint the
  // kernel has none of that name; with kTracefs that cannot be known.
  kMount,
  kTracefs,
  kTracepoint,
  kPerfEvent,
  // Of pins: to pin the subject, or to reuse the pin of that name. kSlot says that another
  // program, or none, is in the slot of the subject, an entry or the program that it calls.
  kPin,
  kPinned,
  kSlot,
  kLock,
  // Of other meters: to find them, to open the counters of one by id, and its other maps.
  kFind,
  kOpenById,
  kFollow,
  // Of the contents of maps.
  kLookup,
  kUpdate,
  kDelete,
  kRead,
  kSettle,
  kRetire,
  kInfo,
  // Of a command that is counted alone: to count in the control group of the subject, or to
  // enter it; to start the command.
  kScope,
  kCommand,
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
    case Step::kOpenById:
      return "open_by_id";
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
    case Step::kRetire:
      return "retire";
    case Step::kSettle:
      return "settle";
    case Step::kInfo:
      return "info";
    case Step::kScope:
      return "scope";
    case Step::kCommand:
      return "command";
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
  // The program's, map's or pin's name; empty where the step has none.
  std::string subject;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_FAILURE_H_
