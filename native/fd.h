// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_FD_H_
#define EXECVE_COUNTER_FD_H_

#include <unistd.h>

#include <utility>

namespace execve_counter {

// A file descriptor, closed at the end; or none.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_FD_H_
