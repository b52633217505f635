// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_RETIREMENT_H_
#define EXECVE_COUNTER_RETIREMENT_H_

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>

#include "../bpf/execve_counter.h"
#include "barrier.h"
#include "hash.h"

namespace execve_counter {

std::string UnitOf(const group& group);
// The names that make control groups one for the labels that are chosen.
std::string NamesOf(const group& group);
// The key in `groups` of a row's group; 0 for none.
uint64_t GroupOf(uint64_t group);

// Adds rows of `execs` whose control groups have ended to other rows, and removes them. Nothing
// else writes to such rows.
//
// Each row goes in steps that the death of the process cannot divide: it gets the target and the
// sum that will be there, the target gets the sum, the row goes. Whoever finds a row with a
// target can take the last two steps, again or for the first time.
//
// Every method may throw Failure of the step kRetire.
class Retirement {
 public:
  Retirement(Hash& execs, Hash& groups, Hash& owners, const config& config);

  // See Session.
  uint32_t Retire(uint64_t ended_before, Barrier& barrier);
  // Ends what a process has begun that has died.
  void Recover();

 private:
  // By the group's key, the target of its rows: a group, or RETIRED_GROUP.
  using Plan = std::unordered_map<uint64_t, uint64_t>;

  Plan Choose(uint64_t ended_before);
  void FinishMoves();
  // Moves the rows; returns how many have retired.
  uint32_t Carry(const Plan& plan);
  bool Move(const std::string& key, exec_row row, uint64_t target);
  void Finish(const std::string& key, const exec_row& row);
  bool IsMoves(uint32_t index) const;
  std::string KeyAt(uint32_t index) const;
  void CountOwners();

  Hash& execs_;
  Hash& groups_;
  Hash& owners_;
  const config& config_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_RETIREMENT_H_
