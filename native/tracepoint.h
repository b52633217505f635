// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_TRACEPOINT_H_
#define EXECVE_COUNTER_TRACEPOINT_H_

#include <string>

#include "fd.h"

namespace execve_counter {

// Opens a perf event of the tracepoint ("syscalls/sys_enter_execve"), on any CPU that is
// online: a program attached to it runs on all of them, because it is attached to the
// tracepoint itself (perf_event_attach_bpf_prog() in the kernel).
//
// The tracepoint's number is looked up in tracefs: where that is mounted, or else through a
// private mount that no other process sees and that is gone when this returns.
//
// Throws Failure of the step kMount, kTracefs, kTracepoint or kPerfEvent.
Fd OpenTracepoint(const std::string& name);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_TRACEPOINT_H_
