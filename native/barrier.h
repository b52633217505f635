// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_BARRIER_H_
#define EXECVE_COUNTER_BARRIER_H_

#include "fd.h"

namespace execve_counter {

// Waits for programs in the kernel. Every method may throw Failure of the step kSettle.
class Barrier {
 public:
  // Makes what waiting takes. This needs privileges; from then on waiting needs none.
  void Prepare();

  // Waits until every program that runs now has ended: milliseconds, mostly.
  void Wait();

 private:
  Fd inner_;
  Fd outer_;
};

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_BARRIER_H_
