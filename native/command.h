// SPDX-License-Identifier: MIT
//
// Runs one command in a control group. No program is executed on the way: the child enters the
// group, becomes the user and makes one call of execve(2), the command's own.
#ifndef EXECVE_COUNTER_COMMAND_H_
#define EXECVE_COUNTER_COMMAND_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace execve_counter {

// The user to run as.
struct Identity {
  uid_t uid;
  gid_t gid;
  std::vector<gid_t> groups;
};

struct Command {
  // The program, which is looked for along $PATH where it has no slash, and its arguments.
  std::vector<std::string> words;
  // What its environment differs in from this process's: NAME=value, or NAME for what is not
  // in it.
  std::vector<std::string> environment;
  // The directory of the control group in the unified hierarchy.
  std::string group;
  std::optional<Identity> identity;  // else this process's
};

// How the command ended, and how long it ran.
struct Outcome {
  int code;
  int signal;  // 0 where it exited
  double milliseconds;
};

// Notes the limits that libbpf may change, so that the command has them as they were. Call it
// before anything is loaded.
void NoteLimits();

// Waits for the command's end, not for that of processes that it leaves behind. Meanwhile and from
// then on SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 do nothing here; one that a
// process has sent is passed on to the command. Those of a terminal are not: the kernel sends
// them to the command, too. Once in a process.
//
// Failure of the step kScope where it cannot enter the group, kSetgroups, kSetresgid or
// kSetresuid where it cannot become the user, else kCommand: ENOENT where there is no such
// program, EACCES where it may not be executed.
Outcome Run(const Command& command);

// Ends this process by a signal, without a core; returns where that does not end it.
void EndBy(int signal);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_COMMAND_H_
