// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_SERVICE_H_
#define EXECVE_COUNTER_SERVICE_H_

#include <string>

namespace execve_counter {

// Tells the service manager, as sd_notify(3) describes it: "READY=1", "WATCHDOG=1", one
// assignment a line. False where there is no manager ($NOTIFY_SOCKET is not set); throws
// Failure of the step kNotify.
bool Notify(const std::string& state);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_SERVICE_H_
