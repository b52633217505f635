/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The kernel types that execve_counter.bpf.c reads, and no others. The attribute
 * makes clang record each access, and libbpf moves it to where the running
 * kernel has the field (CO-RE), so one object fits every kernel with BTF.
 *
 * To add a type, print it with
 *     bpftool btf dump file /sys/kernel/btf/vmlinux format c
 * and keep the fields that are read; their order and offsets do not matter.
 */
#ifndef VMLINUX_H
#define VMLINUX_H

#include <linux/bpf.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	const char *name;
	__u64 id; /* the number of the directory's inode */
};

/* In cgroup_subsys_state.flags; cleared before the cgroup is removed. */
enum {
	CSS_ONLINE = 1 << 1,
};

struct cgroup_subsys_state {
	unsigned int flags;
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
	__u64 serial_nr;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

/* Where each controller has its place in css_set.subsys. */
enum cgroup_subsys_id {
	pids_cgrp_id,
};

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
};

struct pid {
	unsigned int level;
};

typedef struct {
	unsigned int val;
} kuid_t;

struct cred {
	kuid_t uid;
};

/* Which of these fields exists tells the architecture. */
struct thread_info___x86 {
	unsigned int status;
};

struct thread_info {
	unsigned long flags;
};

struct pt_regs___x86 {
	unsigned long ax;
	unsigned long orig_ax;
};

struct pt_regs___arm64 {
	__u64 regs[1];
	int syscallno;
};

struct pt_regs;

typedef struct {
	unsigned long sig[1];
} sigset_t;

struct sigpending {
	sigset_t signal;
};

struct task_struct {
	struct thread_info thread_info;
	char comm[16];
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct css_set *cgroups;
	const struct cred *cred;
	struct pid *thread_pid;
	struct sigpending pending;
};

struct linux_binprm {
	const char *filename;
};

struct task_struct___x86 {
	struct thread_info___x86 thread_info;
};

/* Of enum bpf_func_id, which the headers that this is built with may not have. */
enum bpf_func_id___new {
	BPF_FUNC_get_current_task_btf___new = 158,
	BPF_FUNC_task_pt_regs___new = 175,
};

/*
 * What a program on a tracepoint syscalls/sys_exit_* finds in its context. Not
 * trace_event_raw_sys_exit, which lies elsewhere on kernels patched for real time.
 */
struct syscall_trace_exit {
	long ret;
};

#pragma clang attribute pop

#endif
