//! Runs a program with the privileges that docker gives it: `contained BPF,NET_ADMIN -- PROGRAM [ARGUMENT…]`.
//!
//! The program gets docker's default capabilities and these (`-` for none). Docker's default seccomp profile applies, as far
//! as it denies a system call that is used here.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::libc;
use reloader_tests::confine::{deny_syscalls, drop_capability};
use rustix::thread::CapabilitySet;

/// moby, `oci/caps/defaults.go`.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// moby, `profiles/seccomp/default_linux.go`: system calls that are denied unless one of these capabilities is given.
const DENIED: [(i64, &[&str]); 9] = [
    (libc::SYS_bpf, &["BPF", "SYS_ADMIN"]),
    (libc::SYS_kcmp, &["SYS_PTRACE"]),
    (libc::SYS_mount, &["SYS_ADMIN"]),
    (libc::SYS_perf_event_open, &["PERFMON", "SYS_ADMIN"]),
    (libc::SYS_pidfd_getfd, &["SYS_PTRACE"]),
    (libc::SYS_process_madvise, &["SYS_PTRACE"]),
    (libc::SYS_setns, &["SYS_ADMIN"]),
    (libc::SYS_umount2, &["SYS_ADMIN"]),
    (libc::SYS_unshare, &["SYS_ADMIN"]),
];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [added, "--", program, arguments @ ..] = words.as_slice() else {
        bail!("usage: contained CAPABILITY,…|- -- PROGRAM [ARGUMENT…]");
    };
    let added: Vec<&str> = added.split(',').filter(|name| *name != "-").collect();
    keep_capabilities(&added)?;
    deny_syscalls(&[libc::SYS_clone3], libc::ENOSYS)?;
    let is_denied = |enabling: &&[&str]| !enabling.iter().any(|name| added.contains(name));
    let denied: Vec<i64> = DENIED.iter().filter(|(_, enabling)| is_denied(enabling)).map(|(call, _)| *call).collect();
    deny_syscalls(&denied, libc::EPERM)?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("running {program}"))
}

fn keep_capabilities(added: &[&str]) -> Result<()> {
    let known = |name: &&str| CapabilitySet::from_name(name).with_context(|| format!("unknown: {name}"));
    let kept = DEFAULT.iter().chain(added).map(known).collect::<Result<Vec<_>>>()?;
    CapabilitySet::all().iter().filter(|capability| !kept.contains(capability)).try_for_each(drop_capability)
}
