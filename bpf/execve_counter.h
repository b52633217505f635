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
 * Is there where a file is the whole watch list: then no other process edits it. The kernel
 * never looks for it.
 */
#define KEY_WATCH_FILE "watch_file"

/*
 * Map `execs`: a hash of counters of execs, that is, of calls that succeeded and
 * replaced the program.
 *
 *   key    struct exec_key, of which only the first config.key_size bytes are there
 *   value  struct exec_row
 *
 * The kernel inserts a row when it is first needed, and adds to it as long as its group
 * lives. User space seeds two rows, which the kernel never inserts: OTHER_GROUP counts the
 * execs that find no room, RETIRED_GROUP those of the rows that user space has removed, once
 * their groups had ended. So the sum over all rows, and the runs of count_exec that the
 * kernel skipped, is the number of execs, at every moment.
 */
#define EXECS_MAP "execs"

/* The labels whose values are in a key, with their sizes, which are multiples of 8. */
#define KEY_LABELS(label)                                                                          \
	label(command, COMM_SIZE)        /* as above, zero-padded */                               \
		label(parent, COMM_SIZE) /* the command of the parent */                           \
		label(user, 8)           /* __u64: the real uid in the initial user namespace */   \
		label(path, PATH_SIZE)   /* the file's name as the caller gave it, zero-padded */

/*
 * Of a path that is longer than PATH_SIZE - 1 bytes the end is kept, after PATH_MARK. What
 * the cut has left of a character follows the mark.
 */
#define PATH_SIZE 128
#define PATH_MARK "\xe2\x80\xa6" /* U+2026, three dots */

/* The labels that a control group has: their values are in struct group. */
#define GROUP_LABELS(label) label(container, CONTAINER_SIZE) label(unit, UNIT_SIZE)

struct exec_key {
	/*
	 * The key in `groups`; 0 where no control group has one of the labels that are chosen;
	 * with UNKNOWN_CONTAINER for a process without a container's id in a PID namespace
	 * other than the initial one.
	 */
	unsigned long long group;
	/* The labels of KEY_LABELS that are chosen, in that order. */
#define SIZE(name, size) +size
	unsigned char labels[0 KEY_LABELS(SIZE)];
#undef SIZE
};

#define UNKNOWN_CONTAINER (1ULL << 63)
#define OTHER_GROUP       (~0ULL)
#define RETIRED_GROUP     (~0ULL - 1)

struct exec_row {
	unsigned long long count;
	/* Rows that user space has added to this one, and removed. */
	unsigned long long rows;
	/* Who has made it necessary: keys of `owners`, or 0. */
	unsigned long long user;
	unsigned long long container;
	/*
	 * While user space adds this row to another one: the other's group, and what count and
	 * rows will be there; else 0. If it dies meanwhile, another can go on.
	 */
	unsigned long long target;
	unsigned long long target_count;
	unsigned long long target_rows;
};

/*
 * Map `groups`: a hash of the control groups that have been seen, and have a label: the
 * innermost one for each process.
 *
 *   key    __u64: the control group's serial number; the kernel gives each number once
 *   value  struct group
 *
 * The kernel inserts a group at its first exec, and notes when it is removed: from then on
 * nothing can exec in it. User space may then change and remove it.
 *
 * Key MOVES is no group. Its `ended` is odd while user space moves rows, and changes each
 * time: whoever has read the same even number before and after has read every exec once.
 */
#define GROUPS_MAP     "groups"
#define MOVES          0
#define CONTAINER_SIZE 32
#define UNIT_SIZE      256

struct group {
	unsigned long long ended; /* ns since boot; 0 while it lives */
	/* The id, half as many bytes as hexadecimal digits; zero outside containers. */
	unsigned char container[CONTAINER_SIZE];
	/* The name of the systemd unit, zero-padded; empty outside units. */
	char unit[UNIT_SIZE];
};

/*
 * Map `owners`: a hash of the numbers of rows in `execs`, by who has made them necessary.
 *
 *   key    __u64: USER_OWNER and the uid, but for root in a container; the serial number
 *          of a container's control group, where container is chosen; ALL_OWNERS for all
 *   value  __u64: rows
 *
 * The kernel counts up; user space, which removes rows, sets the numbers. A row that is made
 * at that moment may be left out until the next time: the numbers are for a bound, and no
 * count depends on them. See make_row().
 */
#define OWNERS_MAP "owners"
#define USER_OWNER (1ULL << 63)
#define ALL_OWNERS (~0ULL)

/*
 * Map `.rodata.config`: one struct config, written before the programs are loaded.
 */
#define CONFIG_MAP ".rodata.config"

struct config {
	/* Of each label of KEY_LABELS the offset in struct exec_key; 0 where it is not chosen. */
#define OFFSET(name, size) unsigned char name;
	KEY_LABELS(OFFSET)
#undef OFFSET
	/* Whether each label of GROUP_LABELS is chosen; bool. */
#define CHOSEN(name, size) unsigned char name;
	GROUP_LABELS(CHOSEN)
#undef CHOSEN
	/*
	 * Whether the labels' cgroups are those of the pids controller, because it is in a
	 * version 1 hierarchy; else those of the unified hierarchy. bool.
	 */
	unsigned char cgroup_v1;
	/* Whether calls are followed to their ends, in `calls`, and counted there; bool. */
	unsigned char failures;
	/* Whether attempts are not counted, though calls may be followed; bool. */
	unsigned char no_attempts;
	/* Of the part of struct exec_key that is there. */
	unsigned char key_size;
	/* Whether only what happens in the control group in `scope` is counted; bool. */
	unsigned char scoped;
	/* Room in `execs`. */
	unsigned int rows;
};

/*
 * Map `scope`: an array of one struct scope, the control group of the unified hierarchy outside
 * of which nothing counts. It is there only where config.scoped is set. A call counts if it
 * enters in the group or at most SCOPE_DEPTH - 1 levels below it, an exec if its task is there
 * when the new program starts.
 *
 * Where it has a path, the kernel notes when the group is removed, and when one of that path
 * is made again, before anything can be in it.
 */
#define SCOPE_MAP       "scope"
#define SCOPE_DEPTH     32
#define SCOPE_PATH_SIZE 1024 /* of the path that the kernel tells: TRACE_CGROUP_PATH_LEN */

struct scope {
	unsigned long long group;   /* the number of its directory's inode; 0 for none */
	unsigned long long made;    /* how often it was made again */
	char path[SCOPE_PATH_SIZE]; /* from the hierarchy's root, zero-padded, or empty */
	char last[SCOPE_PATH_SIZE]; /* the kernel's own: of the group that was made last */
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
#define PIN_VERSION "v3"

/* Map `state`: an array of one struct state, written before anything is attached. */
#define STATE_MAP "state"

struct state {
	unsigned long long start_time; /* when these counts began: ms since 1970 */
	struct config config;          /* how they are counted */
};

#endif
