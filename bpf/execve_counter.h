/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The ABI between the programs in the kernel and user space: what the maps are
 * called and how their keys and values look. Plain C, read by clang for BPF and
 * by the C++ compiler, so that neither side can change it alone.
 */
#ifndef EXECVE_COUNTER_H
#define EXECVE_COUNTER_H

/*
 * Map `execve_counter`: a hash of counters under text keys.
 *
 *   key    char[KEY_SIZE]: at most KEY_SIZE - 1 bytes of text, zero-padded
 *   value  __u64, in the machine's byte order
 *
 * User space alone creates and deletes keys, so the key set is the
 * configuration: what has no key is not counted, and no insert can fail or be
 * lost under load.
 */
#define COUNTERS_MAP "execve_counter"
#define KEY_SIZE     64
#define MAX_COUNTERS 4096

/* Calls of execve(2) and execveat(2) that entered the kernel, failed ones included. */
#define KEY_EXECVE   "execve_counter"
#define KEY_EXECVEAT "execveat_counter"

/*
 * "comm:<name>": programs started under that name. The name is what the kernel
 * keeps in task_struct.comm: the basename of the executed file (of the script,
 * for a `#!` script), cut to COMM_SIZE - 1 bytes. Before Linux 6.14 a program
 * executed by file descriptor (execveat with AT_EMPTY_PATH) bears its number.
 */
#define KEY_WATCH_PREFIX "comm:"
#define COMM_SIZE        16

/*
 * Map `execs`: an array of one __u64 at index 0: programs started, that is,
 * calls that succeeded and replaced the program.
 */
#define EXECS_MAP "execs"

#endif
