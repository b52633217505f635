// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What the meter is measured against, in an object that the addon can load: the
 * map is the meter's own.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "execve_counter.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

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

/* What kernel.bpf_stats_enabled itself costs. */
SEC("tracepoint/syscalls/sys_enter_execve")
int empty(void *ctx)
{
	return 1;
}

/* The teaching example: the key on the stack, and a plain add, which loses counts. */
SEC("tracepoint/syscalls/sys_enter_execve")
int origin(void *ctx)
{
	char key[KEY_SIZE] = KEY_EXECVE;
	__u64 *value = bpf_map_lookup_elem(&execve_counter, key);

	if (value)
		*value += 1;
	return 0;
}
