// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The programs that the meter is measured against, in its own object, which the
 * addon can load.
 */
#include "../../bpf/execve_counter.bpf.c"

/* What kernel.bpf_stats_enabled itself costs. */
SEC("tracepoint/syscalls/sys_enter_execve")
int empty(void *ctx)
{
	return 1;
}

SEC("tp_btf/sched_process_exec")
int empty_exec(void *ctx)
{
	return 0;
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
