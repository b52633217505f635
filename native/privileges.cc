// SPDX-License-Identifier: MIT
#include "privileges.h"

#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <iterator>

#include "session.h"

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

void Check(long result, const char* step) {
  if (result < 0) throw Failure(step, errno);
}

// A thread sets no_new_privs for itself only; TSYNC of a filter is what sets it for all
// (seccomp(2)). What the filter forbids is what this process never does.
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
  Check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "seccomp");
  const long thread =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
  Check(thread, "seccomp");
  // The thread that cannot have it, because it has a filter of its own.
  if (thread > 0) throw Failure("seccomp", EBUSY);
}

// The calling thread keeps of its capabilities these only.
void KeepOnly(const std::vector<uint32_t>& capabilities) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  Check(syscall(SYS_capget, &header, sets), "capset");
  uint32_t kept[std::size(sets)] = {};
  for (const uint32_t each : capabilities) kept[CAP_TO_INDEX(each)] |= CAP_TO_MASK(each);
  for (unsigned i = 0; i < std::size(sets); i++) {
    kept[i] &= sets[i].permitted;
    sets[i] = {kept[i], kept[i], 0};
  }
  Check(syscall(SYS_capset, &header, sets), "capset");
}

}  // namespace

void Restrict(const std::optional<Account>& account, const std::vector<uint32_t>& keep) {
  ForbidPrograms();
  if (account) {
    Check(prctl(PR_SET_KEEPCAPS, !keep.empty(), 0, 0, 0), "setresuid");
    // The C library's, which do it on all threads.
    Check(setgroups(0, nullptr), "setgroups");
    Check(setresgid(account->gid, account->gid, account->gid), "setresgid");
    Check(setresuid(account->uid, account->uid, account->uid), "setresuid");
  }
  KeepOnly(keep);
  // Who has no capabilities may be traced by whoever has the same ids, and through the memory
  // that all threads share those threads would be, too, that have kept theirs.
  Check(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "capset");
}

}  // namespace execve_counter
