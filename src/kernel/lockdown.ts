/** The kernel's lockdown; see kernel_lockdown(7). */

/**
 * Its mode: "none", "integrity", "confidentiality". Undefined where that is not known: the kernel has
 * no lockdown, or securityfs is not mounted and the kernel's command line names no mode.
 *
 * @param read the text of a file, undefined where there is none
 */
export function lockdownMode(read: (path: string) => string | undefined): string | undefined {
  const set = /\[(\w+)\]/.exec(read("/sys/kernel/security/lockdown") ?? "")?.[1];
  // Where securityfs is mounted, and has no such file, the kernel has no lockdown.
  if (set !== undefined || read("/sys/kernel/security/lsm") !== undefined) return set;
  return /(?:^|\s)lockdown=(\w+)/.exec(read("/proc/cmdline") ?? "")?.[1];
}
