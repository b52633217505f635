// SPDX-License-Identifier: MIT
#ifndef EXECVE_COUNTER_MOUNT_H_
#define EXECVE_COUNTER_MOUNT_H_

#include <string>

#include "fd.h"

namespace execve_counter {

// Mounts a file system of that type for this process alone: the directory's descriptor is all
// there is of the mount, which ends with it. Failure of the step kMount.
Fd MountAlone(const std::string& type);

}  // namespace execve_counter

#endif  // EXECVE_COUNTER_MOUNT_H_
