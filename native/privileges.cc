// SPDX-License-Identifier: MIT
#include "privileges.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <set>
#include <string>

#include "failure.h"

namespace execve_counter {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "which AUDIT_ARCH_ is it?"
#endif
// Calls of x32, which have x86-64's architecture, are numbered from here on
// (__X32_SYSCALL_BIT); no other call's number gets there.
constexpr uint32_t kForeignCalls = 0x40000000;

void Check(long result, Step step) {
  if (result < 0) throw Failure(step, errno);
}

// A thread sets no_new_privs for itself only; TSYNC of a filter sets it for all threads
// (seccomp(2)). The filter forbids only what this process never does.
void ForbidPrograms() {
  constexpr auto kLoad = BPF_LD | BPF_W | BPF_ABS;
  sock_filter filter[] = {
      BPF_STMT(kLoad, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 0, 4),
      BPF_STMT(kLoad, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kForeignCalls, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execveat, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {std::size(filter), filter};
  Check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), Step::kSeccomp);
  const long thread =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
  Check(thread, Step::kSeccomp);
  // The result names a thread that cannot have it, because it has a filter of its own.
  if (thread > 0) throw Failure(Step::kSeccomp, EBUSY);
}

// The calling thread keeps only these of its capabilities.
void KeepOnly(const std::vector<uint32_t>& capabilities) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  Check(syscall(SYS_capget, &header, sets), Step::kCapset);
  uint32_t kept[std::size(sets)] = {};
  for (const uint32_t each : capabilities) kept[CAP_TO_INDEX(each)] |= CAP_TO_MASK(each);
  for (unsigned i = 0; i < std::size(sets); i++) {
    kept[i] &= sets[i].permitted;
    sets[i] = {kept[i], kept[i], 0};
  }
  Check(syscall(SYS_capset, &header, sets), Step::kCapset);
}

// The struct of rt_sigaction(2): the C library lets no handler be set for its own signals.
struct KernelAction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  unsigned long mask;
};

// The signal by which glibc makes all threads change their user (SIGSETXID): no thread can block
// it by pthread_sigmask(3), and Node.js does not hand it out.
constexpr int kSignal = 33;

void SignalAction(const KernelAction* action, KernelAction* before) {
  Check(syscall(SYS_rt_sigaction, kSignal, action, before, sizeof action->mask), Step::kThreads);
}

// The result is seen in /proc. errno stays: this fails only where KeepOnly has.
void KeepNothing(int) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  syscall(SYS_capset, &header, none);
}

// Opened before the user changes: the new user may not be allowed to enter a directory above /proc.
struct Tasks {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory{opendir("/proc/self/task"), closedir};
  Tasks() {
    if (!directory) throw Failure(Step::kThreads, errno);
  }

  std::vector<pid_t> Threads() const {
    std::vector<pid_t> threads;
    rewinddir(directory.get());
    while (const dirent* entry = readdir(directory.get())) {
      if (const pid_t thread = atoi(entry->d_name)) threads.push_back(thread);
    }
    return threads;
  }

  std::string Status(pid_t thread) const {
    const std::string path = std::to_string(thread) + "/status";
    const int fd = openat(dirfd(directory.get()), path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return "";
    const std::unique_ptr<FILE, int (*)(FILE*)> file(fdopen(fd, "r"), fclose);
    std::string text;
    for (int next; file && (next = getc(file.get())) != EOF;) text += static_cast<char>(next);
    return text;
  }
};

// A line of it, with the line feed before.
std::string Line(const std::string& status, const std::string& name) {
  const size_t start = status.find("\n" + name + ":");
  if (start == std::string::npos) return "";
  return status.substr(start, status.find('\n', start + 1) - start);
}

// Every other thread loses its capabilities, and has the ids of the calling one. The threads are
// listed until all are so, twice in a row: they start others meanwhile, and where one ends the
// directory may leave out the next.
void RestrictOthers(const Tasks& tasks) {
  using namespace std::chrono_literals;
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  const std::string self = tasks.Status(gettid());
  const auto same = [&](const std::string& status, const char* name) {
    return Line(status, name) == Line(self, name);
  };
  const auto none = [](const std::string& status, const std::string& name) {
    return Line(status, name) == "\n" + name + ":\t0000000000000000";
  };
  KernelAction action;
  SignalAction(nullptr, &action);
  // Only what the C library has set up can return from the signal.
  if (!(action.flags & SA_SIGINFO)) throw Failure(Step::kThreads, ENOSYS);
  const KernelAction before = action;
  action.handler = KeepNothing;
  SignalAction(&action, nullptr);

  std::set<pid_t> told;
  for (int settled = 0; settled < 2; settled++) {
    for (const pid_t thread : tasks.Threads()) {
      if (thread == gettid()) continue;
      const std::string status = tasks.Status(thread);
      // The effective and ambient ones are among these, too.
      if (none(status, "CapInh") && none(status, "CapPrm") && same(status, "Uid") &&
          same(status, "Gid") && same(status, "Groups")) {
        continue;
      }
      settled = -1;
      // Sent once, so that none is under way when the C library has its signal again.
      if (told.insert(thread).second) tgkill(getpid(), thread, kSignal);
    }
    if (std::chrono::steady_clock::now() > deadline) throw Failure(Step::kThreads, ETIMEDOUT);
    if (settled < 0) usleep(1000);
  }
  SignalAction(&before, nullptr);
}

}  // namespace

void Restrict(const std::optional<Account>& account, const std::vector<uint32_t>& keep) {
  const Tasks tasks;
  ForbidPrograms();
  if (account) {
    Check(prctl(PR_SET_KEEPCAPS, !keep.empty(), 0, 0, 0), Step::kSetresuid);
    // The C library's functions, which do it on all threads.
    Check(setgroups(0, nullptr), Step::kSetgroups);
    Check(setresgid(account->gid, account->gid, account->gid), Step::kSetresgid);
    Check(setresuid(account->uid, account->uid, account->uid), Step::kSetresuid);
  }
  // A process without capabilities can be traced by any process with the same ids, which could
  // then change the counts through the descriptors that are open here.
  Check(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), Step::kCapset);
  KeepOnly(keep);
  RestrictOthers(tasks);
}

}  // namespace execve_counter
