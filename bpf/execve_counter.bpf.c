// SPDX-License-Identifier: MIT OR GPL-2.0-only
#include <stdbool.h>

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "execve_counter.h"

/* Part of the kernel's contract for bpf_probe_read_kernel_str(). */
char LICENSE[] SEC("license") = "Dual MIT/GPL";

/*
 * Preallocated, which is the default: before 6.1 the kernel warns of tracing
 * programs with any other hash, or refuses them (PREEMPT_RT).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_COUNTERS);
	__type(key, char[KEY_SIZE]);
	__type(value, __u64);
} execve_counter SEC(".maps");

/* Without types, because the size of the key is not that of any: user space chooses it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2); /* user space chooses */
	__uint(key_size, sizeof(struct exec_key));
	__uint(value_size, sizeof(struct exec_row));
} execs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* user space chooses */
	__type(key, __u64);
	__type(value, struct group);
} groups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2); /* user space chooses */
	__type(key, __u64);
	__type(value, __u64);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct failures);
} failures SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* user space chooses */
	__type(key, __u64);
	__type(value, struct call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scope);
} scope SEC(".maps");

/* What find_group() found for a cgroup. */
struct found {
	__u64 serial;    /* of the cgroup: the kernel gives each number once */
	__u64 group;     /* as in struct exec_key */
	__u64 container; /* the serial number of the container's cgroup; 0 outside containers */
};

/*
 * By the cgroup's serial number, modulo the size: to walk up the hierarchy costs a
 * microsecond, to look here hardly anything. Each CPU has entries of its own, so that
 * none is written while it is read: no CPU begins a program that it is in the middle
 * of. (Where it would, from Linux 7 on, the kernel counts the run as missed.)
 */
#define FOUND_GROUPS 256
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FOUND_GROUPS);
	__type(key, __u32);
	__type(value, struct found);
} found_groups SEC(".maps");

#define MAX_NAME_SIZE 256  /* NAME_MAX and the NUL */
#define MAX_PATH_SIZE 4096 /* PATH_MAX, the NUL included */

/* What does not fit on the stack of 512 bytes. */
struct scratch {
	struct found found;
	struct group group;
	struct exec_row row;
	char name[MAX_NAME_SIZE];
	char path[MAX_PATH_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} state SEC(".maps");

/* Frozen when the object is loaded: a field that is not chosen takes no time. */
const volatile struct config config SEC(CONFIG_MAP);

/*
 * The add is atomic: a plain `+= 1` loses counts as soon as two CPUs exec at once.
 * Relaxed, so that every clang makes it the instruction that returns nothing; the
 * one that fetches the old value needs Linux 5.12.
 */
static __always_inline void add_one(void *map, const void *key)
{
	__u64 *value = bpf_map_lookup_elem(map, key);

	if (value)
		__atomic_fetch_add(value, 1, __ATOMIC_RELAXED);
}

/*
 * In .rodata rather than built on the stack for every call; whole keys, since
 * the kernel hashes and compares all KEY_SIZE bytes.
 */
static const char execve_key[KEY_SIZE] = KEY_EXECVE;
static const char execveat_key[KEY_SIZE] = KEY_EXECVEAT;
static const struct exec_key other = {OTHER_GROUP};
static const __u64 all_owners = ALL_OWNERS;

/*
 * The current task, and a field of what it leads to. From Linux 5.11 on that is loaded through
 * a BTF pointer; lockdown=confidentiality forbids the helper that reads it before.
 */
#define HAS_BTF_TASK                                                                               \
	bpf_core_enum_value_exists(enum bpf_func_id___new, BPF_FUNC_get_current_task_btf___new)
#define CURRENT_TASK(type)                                                                         \
	((const struct type *)(HAS_BTF_TASK ? (__u64)bpf_get_current_task_btf()                    \
					    : bpf_get_current_task()))
#define LOAD(from, field)    (HAS_BTF_TASK ? (from)->field : BPF_CORE_READ(from, field))
#define CURRENT(type, field) LOAD(CURRENT_TASK(type), field)

/* Whether the current task is in the control group of `scope`, or below it. */
static __noinline bool is_under_scope(void)
{
	const __u32 zero = 0;
	const struct scope *only = bpf_map_lookup_elem(&scope, &zero);
	const struct css_set *groups = CURRENT(task_struct, cgroups);
	const struct cgroup *cgroup = LOAD(groups, dfl_cgrp);

	for (int i = 0; only && i < SCOPE_DEPTH; i++) {
		const struct kernfs_node *directory = LOAD(cgroup, kn);
		const struct cgroup_subsys_state *parent;

		if (LOAD(directory, id) == only->group)
			return true;
		parent = LOAD(cgroup, self.parent);
		if (!parent)
			return false;
		cgroup = LOAD(parent, cgroup);
	}
	return false;
}

/* Whether what the current task does is counted. */
static __always_inline bool in_scope(void)
{
	return !config.scoped || is_under_scope();
}

#define TS_COMPAT (1 << 1)  /* x86: in thread_info.status, while a 32-bit call runs */
#define TIF_32BIT (1 << 22) /* arm64: in thread_info.flags */

/* Whether the task is in a call of a 32-bit program, which has other call numbers. */
static __always_inline bool in_compat_call(void)
{
	if (bpf_core_field_exists(struct task_struct___x86, thread_info.status))
		return CURRENT(task_struct___x86, thread_info.status) & TS_COMPAT;
	return CURRENT(task_struct, thread_info.flags) & TIF_32BIT;
}

static __always_inline void add_failure(__u32 which, long result)
{
	/* A 32-bit program's result may not have its sign in the upper half. */
	unsigned long error = -(long)(int)result;
	struct failures *row = bpf_map_lookup_elem(&failures, &which);

	if (error > MAX_ERRNO)
		error = 0;
	if (row)
		__atomic_fetch_add(&row->by_errno[error], 1, __ATOMIC_RELAXED);
}

/* Remembers a call that has entered, until its end. */
static __always_inline void follow_call(__u32 which, bool compat)
{
	const __u64 task = bpf_get_current_task();
	const struct call call = {which, compat};
	struct failures *row;
	struct call *unended;

	if (!bpf_map_update_elem(&calls, &task, &call, BPF_NOEXIST))
		return;
	unended = bpf_map_lookup_elem(&calls, &task);
	if (unended) {
		/* The kernel skipped the program at its end: the result is not known. */
		add_failure(unended->which, 0);
		*unended = call;
		return;
	}
	row = bpf_map_lookup_elem(&failures, &which);
	if (row)
		__atomic_fetch_add(&row->unfollowed, 1, __ATOMIC_RELAXED);
}

/* For a call that enters: counts the attempt, and follows the call, as configured. */
static __always_inline void begin_call(__u32 which, bool compat)
{
	if (!in_scope())
		return;
	if (!config.no_attempts)
		add_one(&execve_counter, which == CALL_EXECVE ? execve_key : execveat_key);
	if (config.failures)
		follow_call(which, compat);
}

#define CALL_OTHER -1

/* Forgets the call that the task has begun, and returns it; CALL_OTHER where there is none. */
static __always_inline struct call end_call(void)
{
	const __u64 task = bpf_get_current_task();
	struct call *begun = bpf_map_lookup_elem(&calls, &task);
	struct call call = {CALL_OTHER, false};

	if (begun) {
		call = *begun;
		bpf_map_delete_elem(&calls, &task);
	}
	return call;
}

#define SIGSEGV_BIT (1UL << (11 - 1))

/*
 * Counts a call that leaves, unless it has started a program. A call whose entry was not
 * seen counts as `which`: a seccomp filter has stopped it, or it was under way when the
 * meter started. The exception is a call that the kernel ends with SIGSEGV, because it can
 * neither start the new program nor go back: a 32-bit program's call may leave as a 64-bit one.
 */
static __always_inline void count_end(int which, long result)
{
	const struct call begun = end_call();
	struct failures *row;
	const __u32 execveat = CALL_EXECVEAT;

	if ((int)result == 0) {
		/* A call that starts a program leaves as execve, or is forgotten by now. */
		if (begun.which != CALL_EXECVEAT || which != CALL_EXECVEAT)
			return;
		row = bpf_map_lookup_elem(&failures, &execveat);
		if (row)
			__atomic_fetch_add(&row->checks, 1, __ATOMIC_RELAXED);
	} else if (begun.which != CALL_OTHER) {
		add_failure(begun.which, result);
	} else if (which != CALL_OTHER && in_scope() &&
		   !(CURRENT(task_struct, pending.signal.sig[0]) & SIGSEGV_BIT)) {
		add_failure(which, result);
	}
}

/*
 * The syscall programs return 1, which lets the event go on to others that
 * record this tracepoint: with 0, `perf record -e syscalls:sys_enter_execve`
 * would see nothing while the meter runs (trace_call_bpf() in the kernel).
 */
SEC("tracepoint/syscalls/sys_enter_execve")
int count_execve(void *ctx)
{
	begin_call(CALL_EXECVE, false);
	return 1;
}

SEC("tracepoint/syscalls/sys_enter_execveat")
int count_execveat(void *ctx)
{
	begin_call(CALL_EXECVEAT, false);
	return 1;
}

SEC("tracepoint/syscalls/sys_exit_execve")
int count_execve_failure(struct syscall_trace_exit *ctx)
{
	count_end(CALL_EXECVE, ctx->ret);
	return 1;
}

SEC("tracepoint/syscalls/sys_exit_execveat")
int count_execveat_failure(struct syscall_trace_exit *ctx)
{
	count_end(CALL_EXECVEAT, ctx->ret);
	return 1;
}

/*
 * The raw hook: the programs run at every system call of the host, and pick the two
 * calls. They see 32-bit callers too, need no tracefs, and the kernel never skips them
 * for a reader of maps. The numbers are those of the kernel's system call tables; the
 * 32-bit ones are those of i386 and arm, and of x32, which has its own among the 64-bit ones.
 */
#define X86_EXECVE     59
#define X86_EXECVEAT   322
#define I386_EXECVE    11
#define I386_EXECVEAT  358
#define X32_EXECVE     (0x40000000 | 520)
#define X32_EXECVEAT   (0x40000000 | 545)
#define ARM64_EXECVE   221
#define ARM64_EXECVEAT 281
#define ARM_EXECVE     11
#define ARM_EXECVEAT   387

/* The call of that number, where the task may be in a 32-bit one or in a 64-bit one. */
static __always_inline struct call exec_call(long number)
{
	const bool x86 = bpf_core_field_exists(struct pt_regs___x86, orig_ax);

	if (number == (x86 ? X86_EXECVE : ARM64_EXECVE))
		return (struct call){CALL_EXECVE, false};
	if (number == (x86 ? X86_EXECVEAT : ARM64_EXECVEAT))
		return (struct call){CALL_EXECVEAT, false};
	if (number == (x86 ? I386_EXECVE : ARM_EXECVE))
		return (struct call){CALL_EXECVE, true};
	if (number == (x86 ? I386_EXECVEAT : ARM_EXECVEAT))
		return (struct call){CALL_EXECVEAT, true};
	if (x86 && number == X32_EXECVE)
		return (struct call){CALL_EXECVE, false};
	if (x86 && number == X32_EXECVEAT)
		return (struct call){CALL_EXECVEAT, false};
	return (struct call){CALL_OTHER, false};
}

SEC("tp_btf/sys_enter")
int BPF_PROG(count_attempts, struct pt_regs *regs, long number)
{
	const struct call call = exec_call(number);

	if (call.which != CALL_OTHER && call.compat == in_compat_call())
		begin_call(call.which, call.compat);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(count_failures, struct pt_regs *regs, long result)
{
	struct call call;
	int number;

	if ((int)result > 0)
		return 0;
	if (bpf_core_field_exists(struct pt_regs___x86, orig_ax))
		number = ((struct pt_regs___x86 *)regs)->orig_ax;
	else
		number = ((struct pt_regs___arm64 *)regs)->syscallno;
	call = exec_call(number);
	/* The new program may have 32 bits where the old one had 64, or the other way round. */
	if (call.which != CALL_OTHER)
		count_end(call.compat == in_compat_call() ? call.which : CALL_OTHER, result);
	return 0;
}

/* The result of the call in which the task ends; 0 before Linux 5.15. */
static __always_inline long final_result(struct task_struct *task)
{
	void *regs;

	if (!bpf_core_enum_value_exists(enum bpf_func_id___new, BPF_FUNC_task_pt_regs___new))
		return 0;
	regs = (void *)bpf_task_pt_regs(task);
	if (bpf_core_field_exists(struct pt_regs___x86, ax))
		return ((struct pt_regs___x86 *)regs)->ax;
	return ((struct pt_regs___arm64 *)regs)->regs[0];
}

/*
 * Counts a call whose end was not seen: the tracepoints do not show a call of a 64-bit program
 * that fails after the kernel has taken over the format of a 32-bit one. That ends the task.
 */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(count_killed, struct task_struct *task)
{
	const struct call begun = end_call();

	if (begun.which != CALL_OTHER)
		add_failure(begun.which,
			    !begun.compat && in_compat_call() ? final_result(task) : 0);
	return 0;
}

#define MAX_DEPTH 32 /* of the cgroups that are looked at */
#define ID_DIGITS (2 * CONTAINER_SIZE)

/* Eight characters as they lie in memory; both x86-64 and arm64 are little-endian. */
#define WORD(a, b, c, d, e, f, g, h)                                                               \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |   \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)

/*
 * The value of each hexadecimal digit, with HEX. A table, because the verifier
 * would follow comparisons both ways, 64 times over.
 */
#define HEX 0x10
static const __u8 hex[256] = {
	['0'] = 0x10, ['1'] = 0x11, ['2'] = 0x12, ['3'] = 0x13, ['4'] = 0x14, ['5'] = 0x15,
	['6'] = 0x16, ['7'] = 0x17, ['8'] = 0x18, ['9'] = 0x19, ['a'] = 0x1a, ['b'] = 0x1b,
	['c'] = 0x1c, ['d'] = 0x1d, ['e'] = 0x1e, ['f'] = 0x1f,
};

/*
 * Whether a cgroup bears a container's id, that is, whether its name is, or after
 * a '-' or ':' ends in, 64 hexadecimal digits, with or without ".scope":
 *
 *   <id>                       Docker, containerd, CRI-O, podman with cgroupfs
 *   docker-<id>.scope          Docker with systemd
 *   cri-containerd-<id>.scope  containerd below kubelet with systemd
 *   crio-<id>.scope            CRI-O with systemd
 *   libpod-<id>.scope          podman with systemd
 *   <slice>:cri-containerd:<id>
 *
 * The monitors beside the containers of podman and CRI-O are not containers:
 * libpod-conmon-<id>.scope, crio-conmon-<id>.scope.
 */
static __noinline bool is_container(const char *name, long length, char *text,
				    unsigned char *container)
{
	const __u64 scope = WORD('.', 's', 'c', 'o', 'p', 'e', 0, 0);
	const __u64 conmon = WORD('-', 'c', 'o', 'n', 'm', 'o', 'n', '-');
	__u64 before = 0, end = 0;
	__u8 separator = '-';
	__u8 all = HEX;

	if (length < ID_DIGITS)
		return false;
	bpf_probe_read_kernel(&end, 6, name + length - 6);
	if (end == scope)
		length -= 6;
	length -= ID_DIGITS;
	if (length < 0)
		return false;

	if (length > 0)
		bpf_probe_read_kernel(&separator, 1, name + length - 1);
	if (separator != '-' && separator != ':')
		return false;
	if (length >= 8)
		bpf_probe_read_kernel(&before, 8, name + length - 8);
	if (before == conmon)
		return false;

	if (bpf_probe_read_kernel(text, ID_DIGITS, name + length))
		return false;
	for (int i = 0; i < CONTAINER_SIZE; i++) {
		const __u8 high = hex[(__u8)text[2 * i]], low = hex[(__u8)text[2 * i + 1]];

		all &= high & low;
		container[i] = high << 4 | (low & 0xf);
	}
	return all == HEX;
}

/* Whether a cgroup bears the name of a systemd unit that has processes. */
static __always_inline bool is_unit(const char *name, long length)
{
	__u64 end = 0;

	if (length < 7)
		return false;
	bpf_probe_read_kernel(&end, 6, name + length - 6);
	if (end == WORD('.', 's', 'c', 'o', 'p', 'e', 0, 0) ||
	    end == WORD('.', 's', 'l', 'i', 'c', 'e', 0, 0))
		return true;
	if (length < 9)
		return false;
	bpf_probe_read_kernel(&end, 8, name + length - 8);
	return end == WORD('.', 's', 'e', 'r', 'v', 'i', 'c', 'e');
}

/*
 * Finds the container and the unit that a cgroup belongs to, as chosen: the nearest cgroup
 * of each kind, from this one up. So a container's own cgroups belong to it, and a container
 * inside another counts by its own id. Returns the inner one of both; NULL for none.
 */
static __noinline struct cgroup *find_group(struct cgroup *cgroup, struct found *found,
					    struct scratch *scratch)
{
	struct cgroup *inner = NULL;
	struct group *group = &scratch->group;
	bool has_container = !config.container, has_unit = !config.unit;
	struct cgroup_subsys_state *parent;
	long length;

	__builtin_memset(group, 0, sizeof(*group));
	found->container = 0;
	for (int i = 0; i < MAX_DEPTH; i++) {
		const char *name = cgroup->kn->name;

		length = bpf_probe_read_kernel_str(scratch->name, MAX_NAME_SIZE, name) - 1;
		if (!has_unit && is_unit(name, length)) {
			has_unit = true;
			bpf_probe_read_kernel_str(group->unit, UNIT_SIZE, name);
			if (!inner)
				inner = cgroup;
		}
		if (!has_container && is_container(name, length, scratch->name, group->container)) {
			has_container = true;
			found->container = cgroup->self.serial_nr;
			if (!inner)
				inner = cgroup;
		}
		parent = cgroup->self.parent;
		if ((has_container && has_unit) || !parent)
			break;
		cgroup = parent->cgroup;
	}
	found->group = inner ? inner->self.serial_nr : 0;
	if (!has_container) {
		__builtin_memset(group->container, 0, CONTAINER_SIZE);
		if (parent)
			found->group |= UNKNOWN_CONTAINER;
	}
	return inner;
}

/* The cgroup of a task that tells its container and its unit. */
static __always_inline struct cgroup *cgroup_of(struct task_struct *task)
{
	if (config.cgroup_v1)
		return task->cgroups
			->subsys[bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id)]
			->cgroup;
	return task->cgroups->dfl_cgrp;
}

/* The task's group, as in struct exec_key; `container` gets the container's serial number. */
static __always_inline __u64 group_of(struct task_struct *task, struct cgroup *cgroup,
				      __u64 *container)
{
	const __u64 serial = cgroup->self.serial_nr;
	const __u32 index = serial % FOUND_GROUPS, zero = 0;
	struct found *found = bpf_map_lookup_elem(&found_groups, &index);
	struct scratch *space;

	if (!found)
		return 0; /* never: the index is below the map's size */
	if (found->serial != serial) {
		space = bpf_map_lookup_elem(&scratch, &zero);
		if (!space)
			return 0; /* never */
		find_group(cgroup, found, space);
		found->serial = serial;
	}
	*container = found->container;
	if (config.container && !found->container && task->thread_pid->level > 0)
		return found->group | UNKNOWN_CONTAINER;
	return found->group;
}

/* Puts the group of a key into `groups`, where it is not there; false where there is no room. */
static __always_inline bool add_group(__u64 key, struct cgroup *cgroup, struct scratch *space)
{
	struct group *group;

	key &= ~UNKNOWN_CONTAINER;
	if (!key || bpf_map_lookup_elem(&groups, &key))
		return true;
	cgroup = find_group(cgroup, &space->found, space);
	bpf_map_update_elem(&groups, &key, &space->group, BPF_NOEXIST);
	group = bpf_map_lookup_elem(&groups, &key);
	/* The task may have left it since, and it may have gone before it was there. */
	if (group && cgroup && !(cgroup->self.flags & CSS_ONLINE))
		group->ended = bpf_ktime_get_boot_ns();
	return group;
}

/*
 * How many times the free room an owner may have, at most. So one owner gets three quarters
 * of the table, two get three sevenths each, and some room is left for the next.
 */
#define SHARE 3

static __always_inline bool has_share(__u64 owner, __u64 free)
{
	const __u64 *rows = bpf_map_lookup_elem(&owners, &owner);

	return !rows || *rows < SHARE * free;
}

static __always_inline void charge(__u64 owner)
{
	const __u64 zero = 0;

	bpf_map_update_elem(&owners, &owner, &zero, BPF_NOEXIST);
	add_one(&owners, &owner);
}

/* Who pays for a row: see `owners`. */
struct payers {
	__u64 user;
	__u64 container;
};

/*
 * Makes a row where there is none, and returns it; NULL where there is no room. If two CPUs
 * make the same row at once, one fails, and finds the other's.
 */
static __noinline struct exec_row *make_row(const struct exec_key *key, const struct payers *payers,
					    struct cgroup *cgroup)
{
	const __u64 *all = bpf_map_lookup_elem(&owners, &all_owners);
	const __u32 zero = 0;
	struct scratch *space = bpf_map_lookup_elem(&scratch, &zero);
	const __u64 used = all ? *all : 0;
	const __u64 free = config.rows - used;

	if (used < config.rows && (!payers->user || has_share(payers->user, free)) &&
	    (!payers->container || has_share(payers->container, free)) && space &&
	    ((!config.container && !config.unit) || add_group(key->group, cgroup, space))) {
		space->row =
			(struct exec_row){.user = payers->user, .container = payers->container};
		if (!bpf_map_update_elem(&execs, key, &space->row, BPF_NOEXIST)) {
			charge(ALL_OWNERS);
			if (payers->user)
				charge(payers->user);
			if (payers->container)
				charge(payers->container);
		}
	}
	/* Also where there is no room: another CPU may just have made it. */
	return bpf_map_lookup_elem(&execs, key);
}

/* Adds one to a row, or, where there is no room for it, to the row of all others. */
static __always_inline void add_exec(const struct exec_key *key, const struct payers *payers,
				     struct cgroup *cgroup)
{
	struct exec_row *row = bpf_map_lookup_elem(&execs, key);

	if (!row)
		row = make_row(key, payers, cgroup);
	if (!row)
		row = bpf_map_lookup_elem(&execs, &other);
	if (row)
		__atomic_fetch_add(&row->count, 1, __ATOMIC_RELAXED);
}

/* What of eight characters comes before the first NUL, and zeros. */
static __always_inline __u64 until_nul(__u64 text)
{
	const __u64 ones = 0x0101010101010101;
	/* The highest bit of the first NUL, and perhaps more above it. */
	const __u64 nuls = (text - ones) & ~text & ones << 7;

	return nuls ? text & (((nuls & -nuls) >> 7) - 1) : text;
}

/* A command's name, zero-padded. */
struct command {
	__u64 words[COMM_SIZE / 8];
};

/*
 * Two loads, where a helper would take as long as a whole look-up. Before Linux 5.17 the
 * rest of a longer name, of before, follows the NUL.
 */
static __always_inline struct command command_of(const struct task_struct *task)
{
	const __u64 *comm = (const __u64 *)task->comm;
	const __u64 first = until_nul(comm[0]);

	return (struct command){{first, first >> 56 ? until_nul(comm[1]) : 0}};
}

/* The command of the parent process: of its main thread, whichever has made the child. */
static __always_inline struct command parent_of(const struct task_struct *task)
{
	const struct task_struct *parent = task->real_parent;

	/* Neither is NULL; see user_of(). */
	if (parent)
		parent = parent->group_leader;
	return parent ? command_of(parent) : (struct command){};
}

static __always_inline __u64 user_of(const struct task_struct *task)
{
	/* Never NULL, but on kernels built by clang the verifier takes it for one that may be. */
	const struct cred *cred = task->cred;

	return cred ? cred->uid.val : 0;
}

/* The name of the executed file as the caller gave it, of a `#!` script the script's. */
static __noinline void set_path(char *path, const char *name)
{
	const __u32 zero = 0;
	const long kept = PATH_SIZE - sizeof(PATH_MARK);
	struct scratch *space;
	long size;

	__builtin_memset(path, 0, PATH_SIZE);
	if (bpf_probe_read_kernel_str(path, PATH_SIZE, name) < PATH_SIZE)
		return;
	space = bpf_map_lookup_elem(&scratch, &zero);
	if (!space)
		return; /* never */
	size = bpf_probe_read_kernel_str(space->path, MAX_PATH_SIZE, name);
	if (size <= PATH_SIZE)
		return;
	__builtin_memcpy(path, PATH_MARK, sizeof(PATH_MARK) - 1);
	bpf_probe_read_kernel_str(path + sizeof(PATH_MARK) - 1, kept + 1, name + size - 1 - kept);
}

/* Counts an exec of a command that is watched. */
static __always_inline void add_watched(struct command command)
{
	union {
		char text[KEY_SIZE];
		__u64 words[KEY_SIZE / 8];
	} watched = {KEY_WATCH_PREFIX};

	_Static_assert(sizeof(KEY_WATCH_PREFIX) - 1 == 5, "the shifts below move by five bytes");
	watched.words[0] |= command.words[0] << 40;
	watched.words[1] = command.words[0] >> 24 | command.words[1] << 40;
	watched.words[2] = command.words[1] >> 24;
	add_one(&execve_counter, &watched);
}

/* Counts an exec in the row of its labels. */
static __always_inline void add_labelled(struct task_struct *task, struct command command,
					 const char *path)
{
	struct exec_key key __attribute__((aligned(8)));
	char *const labels = (char *)&key;
	struct payers payers = {USER_OWNER | user_of(task)};
	struct cgroup *cgroup = NULL;

	key.group = 0;
	if (config.container || config.unit) {
		cgroup = cgroup_of(task);
		key.group = group_of(task, cgroup, &payers.container);
		if (payers.container && payers.user == USER_OWNER)
			payers.user = 0; /* root, of whom every container may have its own */
	}
	if (config.command)
		*(struct command *)(labels + config.command) = command;
	if (config.parent)
		*(struct command *)(labels + config.parent) = parent_of(task);
	if (config.user)
		*(__u64 *)(labels + config.user) = user_of(task);
	if (config.path)
		set_path(labels + config.path, path);
	add_exec(&key, &payers, cgroup);
}

/* Fires once for each exec, when the task already has its new name. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(count_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	const struct command command = command_of(task);

	/* The call is forgotten also where its task has left the scope since. */
	if (config.failures)
		end_call();
	if (!in_scope())
		return 0;
	/* One after the other: their keys share room on the stack, of which there is little. */
	add_watched(command);
	add_labelled(task, command, bprm->filename);
	return 0;
}

/* A cgroup was removed: nothing is in it any more. The kernel runs one of these at a time. */
SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(end_group, struct cgroup *cgroup)
{
	const __u64 serial = cgroup->self.serial_nr;
	struct group *group = bpf_map_lookup_elem(&groups, &serial);

	if (group)
		group->ended = bpf_ktime_get_boot_ns();
	return 0;
}

/* Whether it is in the unified hierarchy: those of version 1 have other numbers. */
static __always_inline bool is_unified(const struct cgroup *cgroup)
{
	return cgroup->root->hierarchy_id == 0;
}

/*
 * A cgroup was made: the kernel says so before it lets anything see it, and runs one of these
 * at a time.
 */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(begin_scope, struct cgroup *cgroup, const char *path)
{
	const __u32 zero = 0;
	struct scope *only = bpf_map_lookup_elem(&scope, &zero);

	if (!only || !is_unified(cgroup))
		return 0;
	bpf_probe_read_kernel_str(only->last, SCOPE_PATH_SIZE, path);
	for (int i = 0; i < SCOPE_PATH_SIZE; i++) {
		if (only->path[i] != only->last[i])
			return 0;
		if (!only->path[i])
			break;
	}
	only->group = cgroup->kn->id;
	only->made++;
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(end_scope, struct cgroup *cgroup)
{
	const __u32 zero = 0;
	struct scope *only = bpf_map_lookup_elem(&scope, &zero);

	if (only && is_unified(cgroup) && only->group == cgroup->kn->id)
		only->group = 0;
	return 0;
}

/* The program that is attached where the counts are pinned; it returns `on`. */
#define ENTER(program, section, on)                                                                \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);                                             \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, __u32);                                                              \
	} next_##program SEC(".maps");                                                             \
                                                                                                   \
	SEC(section)                                                                               \
	int enter_##program(void *ctx)                                                             \
	{                                                                                          \
		bpf_tail_call(ctx, &next_##program, 0);                                            \
		return on;                                                                         \
	}

ENTER(count_execve, "tracepoint/syscalls/sys_enter_execve", 1)
ENTER(count_execveat, "tracepoint/syscalls/sys_enter_execveat", 1)
ENTER(count_execve_failure, "tracepoint/syscalls/sys_exit_execve", 1)
ENTER(count_execveat_failure, "tracepoint/syscalls/sys_exit_execveat", 1)
ENTER(count_attempts, "tp_btf/sys_enter", 0)
ENTER(count_failures, "tp_btf/sys_exit", 0)
ENTER(count_killed, "tp_btf/sched_process_exit", 0)
ENTER(count_exec, "tp_btf/sched_process_exec", 0)
ENTER(end_group, "tp_btf/cgroup_rmdir", 0)
ENTER(begin_scope, "tp_btf/cgroup_mkdir", 0)
ENTER(end_scope, "tp_btf/cgroup_rmdir", 0)
