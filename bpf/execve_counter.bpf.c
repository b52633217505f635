// SPDX-License-Identifier: MIT OR GPL-2.0-only
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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} execs SEC(".maps");

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

/*
 * The two syscall programs return 1, which lets the event go on to whoever else
 * records this tracepoint: with 0, `perf record -e syscalls:sys_enter_execve`
 * would see nothing while the meter runs (trace_call_bpf() in the kernel).
 */
SEC("tracepoint/syscalls/sys_enter_execve")
int count_execve(void *ctx)
{
	add_one(&execve_counter, execve_key);
	return 1;
}

SEC("tracepoint/syscalls/sys_enter_execveat")
int count_execveat(void *ctx)
{
	add_one(&execve_counter, execveat_key);
	return 1;
}

/* Fires once for each program started, when the task already bears its new name. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(count_exec, struct task_struct *task)
{
	char key[KEY_SIZE] __attribute__((aligned(8))) = KEY_WATCH_PREFIX;
	const __u32 row = 0;

	add_one(&execs, &row);

	bpf_core_read_str(key + sizeof(KEY_WATCH_PREFIX) - 1, COMM_SIZE, &task->comm);
	add_one(&execve_counter, key);
	return 0;
}
