/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The ABI between the programs in the kernel and user space: the names of the maps,
 * and the layout of their keys and values. Plain C, read by clang for BPF and by the
 * C++ compiler, so that neither side can change it alone.
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
 * "comm:<name>": execs of that command. The name is what the kernel keeps in
 * task_struct.comm: the basename of the executed file (of the script, for a `#!`
 * script), cut to COMM_SIZE - 1 bytes. Before Linux 6.14 a program executed by file
 * descriptor (execveat with AT_EMPTY_PATH) has the descriptor's number as its name.
 */
#define KEY_WATCH_PREFIX "comm:"
#define COMM_SIZE        16

/*
 * Map `execs`: a hash of counters of execs, that is, of calls that succeeded and
 * replaced the program.
 *
 *   key    struct exec_key; fields that struct config does not choose are zero
 *   value  __u64
 *
 * The kernel inserts a row when it is first needed; no row is ever removed. User
 * space seeds one row, OTHER_KEY, which counts the execs that find no room. So the
 * sum over all rows, and the runs of count_exec that the kernel skipped, is the
 * number of execs, at every moment.
 */
#define EXECS_MAP      "execs"
#define CONTAINER_SIZE 32

struct exec_key {
	char command[COMM_SIZE]; /* as above, zero-padded */
	/*
	 * The id, half as many bytes as hexadecimal digits; all zero outside
	 * containers, all 0xff (UNKNOWN_CONTAINER) for a process without an id in
	 * a PID namespace other than the initial one.
	 */
	unsigned char container[CONTAINER_SIZE];
	unsigned int uid; /* the real one, in the initial user namespace */
};

#define UNKNOWN_CONTAINER 0xff

#define OTHER_UID ((unsigned int)-1) /* which no user has */
#define OTHER_KEY {{0}, {0}, OTHER_UID}

/*
 * Map `.rodata.config`: one struct config, written before the programs are loaded.
 */
#define CONFIG_MAP ".rodata.config"

struct config {
	/* The fields of struct exec_key to fill; bool. */
	unsigned char command;
	unsigned char container;
	unsigned char user;
	/*
	 * Whether the containers' cgroups are those of the pids controller, because it
	 * is in a version 1 hierarchy; else those of the unified hierarchy. bool.
	 */
	unsigned char cgroup_v1;
	/* Whether calls are followed to their ends, in `calls`, and counted there; bool. */
	unsigned char failures;
	/* Whether attempts are not counted, though calls may be followed; bool. */
	unsigned char no_attempts;
};

/*
 * Map `failures`: an array of two struct failures, CALL_EXECVE and
 * CALL_EXECVEAT: how the calls ended that started no program.
 */
#define FAILURES_MAP  "failures"
#define CALL_EXECVE   0
#define CALL_EXECVEAT 1
#define MAX_ERRNO     4095

struct failures {
	/*
	 * Calls that returned an error. Some errors never reach a program, like
	 * ERESTARTNOINTR (513). Index 0 has the calls whose result was not seen.
	 */
	unsigned long long by_errno[MAX_ERRNO + 1];
	/* Calls of execveat(2) with AT_EXECVE_CHECK that returned 0. */
	unsigned long long checks;
	/* Calls for which there was no room in `calls`. */
	unsigned long long unfollowed;
};

/*
 * Map `calls`: a hash of the calls under way.
 *
 *   key    __u64: the address of the task, which is the same at both ends of a
 *          call, though the thread has another number afterwards where it was not
 *          the leader (de_thread() in the kernel)
 *   value  struct call
 *
 * Only the entry tells which call it is: once the kernel has taken over the new
 * program's format, it pretends that the call was an execve of such a program.
 */
#define CALLS_MAP "calls"
#define MAX_CALLS 8192

struct call {
	unsigned int which;  /* CALL_EXECVE or CALL_EXECVEAT */
	unsigned int compat; /* by a 32-bit program; bool */
};

/*
 * Pins. With --pin the programs themselves are not attached. One enter_<program> for
 * each is attached, which does nothing but a tail call into slot 0 of its map
 * next_<program>. These and their links stay for good. Each agent that starts replaces
 * what they call, between two events, so none is lost or counted twice.
 *
 * The maps are pinned by their names below PIN_VERSION, which changes with anything
 * above; so are enter_<program> and link_<program>.
 */
#define PIN_VERSION "v2"

/* Map `state`: an array of one struct state, written before anything is attached. */
#define STATE_MAP "state"

struct state {
	unsigned long long start_time; /* when these counts began: ms since 1970 */
	struct config keys;            /* what `execs` is keyed by */
};

#endif
