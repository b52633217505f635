// SPDX-License-Identifier: MIT
#include "users.h"

#include <grp.h>
#include <pwd.h>

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "failure.h"

namespace execve_counter {
namespace {

// Looks a passwd(5) entry up, with a buffer as large as it needs, and takes from it.
template <typename Look, typename Take>
auto FromEntry(Look look, Take take) -> std::optional<decltype(take(passwd{}))> {
  constexpr size_t kMost = 1 << 20;
  passwd entry;
  passwd* found = nullptr;
  std::vector<char> buffer(1024);
  int error;
  while ((error = look(&entry, buffer.data(), buffer.size(), &found)) == ERANGE &&
         buffer.size() < kMost) {
    buffer.resize(buffer.size() * 2);
  }
  if (found) return take(entry);
  // What getpwuid(3) lists for "not found".
  if (error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM) {
    return std::nullopt;
  }
  throw Failure(Step::kUser, error);
}

Account AccountOf(const passwd& entry) { return {entry.pw_uid, entry.pw_gid}; }

struct Answer {
  std::optional<std::string> name;
  int error = 0;
};

Answer AskForName(uid_t uid) try {
  return {FromEntry([&](auto... result) { return getpwuid_r(uid, result...); },
                    [](const passwd& entry) { return std::string(entry.pw_name); })};
} catch (const Failure& failure) {
  return {std::nullopt, failure.error};
}

// Between the callers and the thread that answers.
struct Names {
  std::mutex mutex;
  std::condition_variable asked, answered;
  std::deque<uid_t> waiting;
  // The answers by user; nothing for one that is waiting or under way.
  std::map<uid_t, std::optional<Answer>> answers;
};

void AnswerAll(Names* names) {
  // Signals are for the threads of Node.js.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  std::unique_lock lock(names->mutex);
  for (;;) {
    names->asked.wait(lock, [&] { return !names->waiting.empty(); });
    const uid_t uid = names->waiting.front();
    names->waiting.pop_front();
    lock.unlock();
    const Answer answer = AskForName(uid);
    lock.lock();
    names->answers[uid] = answer;
    names->answered.notify_all();
  }
}

// Never freed, nor is the code unloaded (binding.gyp): the thread may be waiting for a
// directory service when its caller ends.
Names* StartNames() try {
  auto names = std::make_unique<Names>();
  std::thread(AnswerAll, names.get()).detach();
  return names.release();
} catch (const std::system_error& error) {
  throw Failure(Step::kUser, error.code().value());
}

}  // namespace

std::optional<Account> FindAccount(const std::string& name) {
  return FromEntry([&](auto... result) { return getpwnam_r(name.c_str(), result...); }, AccountOf);
}

std::optional<Account> FindAccount(uid_t uid) {
  return FromEntry([&](auto... result) { return getpwuid_r(uid, result...); }, AccountOf);
}

std::optional<Login> FindLogin(uid_t uid, gid_t gid) {
  auto login = FromEntry(
      [&](auto... result) { return getpwuid_r(uid, result...); },
      [](const passwd& entry) { return Login{entry.pw_name, entry.pw_dir, entry.pw_shell, {}}; });
  if (!login) return login;
  int count = 64;
  do {
    login->groups.resize(count);
  } while (getgrouplist(login->name.c_str(), gid, login->groups.data(), &count) < 0);
  login->groups.resize(count);
  return login;
}

Name UserName(uid_t uid, std::chrono::milliseconds patience) {
  static Names* const names = StartNames();
  std::unique_lock lock(names->mutex);
  if (names->answers.try_emplace(uid).second) {
    names->waiting.push_back(uid);
    names->asked.notify_one();
  }
  const auto there = [&] {
    const auto found = names->answers.find(uid);
    return found != names->answers.end() && found->second;
  };
  if (!names->answered.wait_for(lock, patience, there)) return std::nullopt;
  const Answer answer = *names->answers.extract(uid).mapped();
  if (answer.error) throw Failure(Step::kUser, answer.error);
  return std::make_optional(answer.name);
}

}  // namespace execve_counter
