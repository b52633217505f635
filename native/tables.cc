// SPDX-License-Identifier: MIT
#include "tables.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <memory>
#include <utility>

#include "failure.h"

namespace execve_counter {
namespace {

// A container's id as text: empty outside containers, "unknown" for a container without an id.
std::string Container(const unsigned char (&id)[CONTAINER_SIZE]) {
  const auto all = [&](unsigned char value) {
    return std::all_of(std::begin(id), std::end(id),
                       [=](unsigned char byte) { return byte == value; });
  };
  if (all(0)) return "";
  if (all(UNKNOWN_CONTAINER)) return "unknown";
  std::string text;
  for (const unsigned char byte : id) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace

Tables::Tables(Fd execs, Fd failures, const Layout& layout)
    : keys_(layout.keys),
      execs_(std::move(execs), sizeof(exec_key), layout.rows),
      failures_(std::move(failures)) {}

std::vector<Exec> Tables::ReadExecs() {
  std::vector<Exec> execs;
  const uint32_t count = execs_.Read();
  execs.reserve(count);
  for (uint32_t i = 0; i < count; i++) {
    exec_key key;
    memcpy(&key, execs_.Key(i), sizeof(key));
    execs.push_back({std::string(key.command, strnlen(key.command, COMM_SIZE)),
                     Container(key.container), key.uid, execs_.Value(i)});
  }
  return execs;
}

Failures Tables::ReadFailures() const {
  Failures all;
  if (!failures_) return all;
  auto row = std::make_unique<struct failures>();
  for (uint32_t call : {CALL_EXECVE, CALL_EXECVEAT}) {
    if (bpf_map_lookup_elem(failures_.get(), &call, row.get()) < 0) {
      throw Failure(Step::kRead, errno);
    }
    for (uint32_t error = 0; error <= MAX_ERRNO; error++) {
      if (!row->by_errno[error]) continue;
      all.failed.push_back(
          {call == CALL_EXECVE ? "execve" : "execveat", error, row->by_errno[error]});
    }
    all.checks += row->checks;
    all.unfollowed += row->unfollowed;
  }
  return all;
}

}  // namespace execve_counter
