// SPDX-License-Identifier: MIT
#include "counters.h"

#include <bpf/bpf.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "../bpf/execve_counter.h"
#include "failure.h"

namespace execve_counter {
namespace {

std::array<char, KEY_SIZE> Pad(std::string_view key) {
  std::array<char, KEY_SIZE> padded{};
  key.copy(padded.data(), KEY_SIZE - 1);
  return padded;
}

}  // namespace

Counters::Counters(Fd map) : hash_(std::move(map), KEY_SIZE, sizeof(uint64_t), MAX_COUNTERS) {}

bool Counters::ValidKey(std::string_view key) {
  return !key.empty() && key.size() < KEY_SIZE && key.find('\0') == std::string_view::npos;
}

std::optional<uint64_t> Counters::Lookup(std::string_view key) const {
  uint64_t value;
  if (bpf_map_lookup_elem(fd(), Pad(key).data(), &value) == 0) return value;
  if (errno != ENOENT) throw Failure(Step::kLookup, errno);
  return std::nullopt;
}

void Counters::Update(std::string_view key, uint64_t value) {
  if (bpf_map_update_elem(fd(), Pad(key).data(), &value, BPF_ANY) < 0) {
    throw Failure(Step::kUpdate, errno);
  }
}

bool Counters::Insert(std::string_view key) {
  const uint64_t zero = 0;
  if (bpf_map_update_elem(fd(), Pad(key).data(), &zero, BPF_NOEXIST) == 0) return true;
  if (errno != EEXIST) throw Failure(Step::kUpdate, errno);
  return false;
}

bool Counters::Remove(std::string_view key) {
  if (bpf_map_delete_elem(fd(), Pad(key).data()) == 0) return true;
  if (errno != ENOENT) throw Failure(Step::kDelete, errno);
  return false;
}

std::vector<std::pair<std::string, uint64_t>> Counters::Read() {
  std::vector<std::pair<std::string, uint64_t>> counters;
  const uint32_t count = hash_.Read();
  counters.reserve(count);
  for (uint32_t i = 0; i < count; i++) {
    const char* key = hash_.Key(i);
    counters.emplace_back(std::string(key, strnlen(key, KEY_SIZE)), hash_.ValueAt<uint64_t>(i));
  }
  return counters;
}

}  // namespace execve_counter
