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

struct task_struct {
	char comm[16];
} __attribute__((preserve_access_index));

#endif
