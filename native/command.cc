// SPDX-License-Identifier: MIT
#include "command.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>

#include "failure.h"
#include "fd.h"

extern char** environ;

namespace execve_counter {
namespace {

constexpr int kPassedOn[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};

rlimit locked_memory;
std::atomic<pid_t> running = 0;

// What the kernel has sent, for a terminal, the command has got itself.
void PassOn(int signal, siginfo_t* info, void*) {
  const int before = errno;
  const pid_t command = running;
  if (info->si_code <= 0 && command > 0) kill(command, signal);
  errno = before;
}

double Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

std::string_view NameOf(std::string_view variable) {
  return variable.substr(0, variable.find('='));
}

std::vector<std::string> EnvironmentOf(const std::vector<std::string>& changes) {
  std::vector<std::string> all;
  for (char** each = environ; *each; each++) {
    const bool changed = std::any_of(changes.begin(), changes.end(), [&](const auto& change) {
      return NameOf(change) == NameOf(*each);
    });
    if (!changed) all.emplace_back(*each);
  }
  std::copy_if(changes.begin(), changes.end(), std::back_inserter(all),
               [](const auto& change) { return change.find('=') != std::string::npos; });
  return all;
}

// Where the program may be, as execvp(3) looks for it.
std::vector<std::string> PlacesOf(const std::string& program,
                                  const std::vector<std::string>& environment) {
  if (program.find('/') != std::string::npos) return {program};
  std::string path = "/bin:/usr/bin";
  for (const std::string& each : environment) {
    if (NameOf(each) == "PATH") path = each.substr(5);
  }
  std::vector<std::string> places;
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find(':', start), path.size());
    const std::string directory = path.substr(start, end - start);
    places.push_back((directory.empty() ? "." : directory) + "/" + program);
    start = end + 1;
  }
  return places;
}

std::vector<char*> PointersTo(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Everything that the child needs: it may neither allocate nor lock.
struct Plan {
  const Command& command;
  std::vector<std::string> environment = EnvironmentOf(command.environment);
  std::vector<std::string> places = command.words[0].empty()
                                        ? std::vector<std::string>{}
                                        : PlacesOf(command.words[0], environment);
  std::vector<char*> words = PointersTo(command.words);
  std::vector<char*> variables = PointersTo(environment);
  // With the place of a script without `#!` as its second word.
  std::vector<char*> shell_words = [this] {
    std::vector<char*> all = {const_cast<char*>("/bin/sh")};
    all.insert(all.end(), words.begin(), words.end());
    return all;
  }();
  Fd directory{};  // of the group
  Fd group{};      // its list of processes, where the child has to enter it itself
  sigset_t signals{};
};

// A copy of this process that begins in the group. To move one there takes the kernel some 15 ms,
// because it waits until all CPUs have seen that a process moves.
pid_t ForkInto(Plan& plan) {
  clone_args args{};
  args.flags = CLONE_INTO_CGROUP;
  args.exit_signal = SIGCHLD;
  args.cgroup = plan.directory.get();
  const long child = syscall(SYS_clone3, &args, sizeof(args));
  if (child >= 0 || errno != ENOSYS) return child;
  // Seccomp filters of containers say that there is no clone3(2).
  plan.group = Fd(open((plan.command.group + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
  return plan.group ? fork() : -1;
}

struct Refusal {
  Step step;
  int error;
};

// Looks for the program as this user, so that no attempt is made that the caller has not asked for.
int Execute(Plan& plan) {
  int error = ENOENT;
  const bool search = !strchr(plan.command.words[0].c_str(), '/');
  for (const std::string& place : plan.places) {
    struct stat file;
    if (search) {
      if (stat(place.c_str(), &file) < 0 || !S_ISREG(file.st_mode)) continue;
      if (access(place.c_str(), X_OK) < 0) {
        error = EACCES;
        continue;
      }
    }
    execve(place.c_str(), plan.words.data(), plan.variables.data());
    if (errno != ENOEXEC) return errno;
    plan.shell_words[1] = const_cast<char*>(place.c_str());
    execve("/bin/sh", plan.shell_words.data(), plan.variables.data());
    return errno;
  }
  return error;
}

// In the child, a copy of one thread of many: system calls only. The C library's
// functions that change ids would look for other threads.
Refusal Become(Plan& plan) {
  for (int signal = 1; signal < _NSIG; signal++) {
    struct sigaction preset{};
    preset.sa_handler = SIG_DFL;
    sigaction(signal, &preset, nullptr);
  }
  if (plan.group && write(plan.group.get(), "0", 1) < 0) return {Step::kScope, errno};
  setrlimit(RLIMIT_MEMLOCK, &locked_memory);
  // Node.js keeps its stdin, stdout and stderr from the programs it executes, and makes pipes
  // among them non-blocking, for all processes that share them.
  for (int fd = 0; fd <= 2; fd++) {
    fcntl(fd, F_SETFD, 0);
    const int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && flags & O_NONBLOCK) fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
  }
  if (plan.command.identity) {
    const auto& [uid, gid, groups] = *plan.command.identity;
    if (syscall(SYS_setgroups, groups.size(), groups.data()) < 0) return {Step::kSetgroups, errno};
    if (syscall(SYS_setresgid, gid, gid, gid) < 0) return {Step::kSetresgid, errno};
    if (syscall(SYS_setresuid, uid, uid, uid) < 0) return {Step::kSetresuid, errno};
  }
  sigprocmask(SIG_SETMASK, &plan.signals, nullptr);
  return {Step::kCommand, Execute(plan)};
}

void Listen() {
  struct sigaction action{};
  action.sa_sigaction = PassOn;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  for (const int signal : kPassedOn) sigaction(signal, &action, nullptr);
}

}  // namespace

void NoteLimits() { getrlimit(RLIMIT_MEMLOCK, &locked_memory); }

Outcome Run(const Command& command) {
  Plan plan{command};
  plan.directory = Fd(open(command.group.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!plan.directory) throw Failure(Step::kScope, errno, command.group);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) throw Failure(Step::kCommand, errno, command.words[0]);
  const Fd from(ends[0]);
  Fd to(ends[1]);

  // Signals wait until there is a process to pass them on to.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &plan.signals);
  const double start = Now();
  const pid_t child = ForkInto(plan);
  if (child == 0) {
    const Refusal refusal = Become(plan);
    [[maybe_unused]] const ssize_t told = write(to.get(), &refusal, sizeof(refusal));
    _exit(127);
  }
  const int error = errno;
  if (child > 0) {
    running = child;
    Listen();
  }
  pthread_sigmask(SIG_SETMASK, &plan.signals, nullptr);
  if (child < 0 && error == EAGAIN) throw Failure(Step::kCommand, error, command.words[0]);
  if (child < 0) throw Failure(Step::kScope, error, command.group);

  to = Fd();
  Refusal refusal;
  ssize_t told;
  while ((told = read(from.get(), &refusal, sizeof(refusal))) < 0 && errno == EINTR) continue;
  // It stays a zombie, so that no signal is passed on to another process with its number.
  siginfo_t end{};
  while (waitid(P_PID, child, &end, WEXITED | WNOWAIT) < 0 && errno == EINTR) continue;
  const double milliseconds = Now() - start;
  running = 0;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (told == sizeof(refusal)) {
    throw Failure(refusal.step, refusal.error,
                  refusal.step == Step::kScope ? command.group : command.words[0]);
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 0, WIFSIGNALED(status) ? WTERMSIG(status) : 0,
          milliseconds};
}

void EndBy(int signal) {
  // Where cores are piped to a program, their limit of 0 does not keep the kernel from it.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  struct sigaction preset{};
  preset.sa_handler = SIG_DFL;
  sigaction(signal, &preset, nullptr);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  kill(getpid(), signal);
}

}  // namespace execve_counter
