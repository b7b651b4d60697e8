//! Runs a program as docker does: `contained BPF,NET_ADMIN -- PROGRAM [ARGUMENT…]` with docker's default capabilities and these (`-` for none),
//! under its default seccomp profile as far as that denies anything that is asked for here.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::libc;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

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

/// moby, `profiles/seccomp/default_linux.go`: what is denied to whoever has none of these capabilities.
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
    deny(&[libc::SYS_clone3], libc::ENOSYS)?;
    let lacks = |any: &&[&str]| !any.iter().any(|name| added.contains(name));
    let denied: Vec<i64> = DENIED.iter().filter(|(_, any)| lacks(any)).map(|(call, _)| *call).collect();
    deny(&denied, libc::EPERM)?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("running {program}"))
}

/// Root's program gets what the bounding set leaves.
fn keep_capabilities(added: &[&str]) -> Result<()> {
    let known = |name: &&str| CapabilitySet::from_name(name).with_context(|| format!("unknown: {name}"));
    let kept = DEFAULT.iter().chain(added).map(known).collect::<Result<Vec<_>>>()?;
    for capability in CapabilitySet::all().iter().filter(|capability| !kept.contains(capability)) {
        match remove_capability_from_bounding_set(capability) {
            // Older kernels do not know the younger ones, and grant none.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => bail!("dropping {capability:?}: {errno}"),
        }
    }
    Ok(())
}

fn deny(calls: &[i64], errno: i32) -> Result<()> {
    if calls.is_empty() {
        return Ok(());
    }
    // Without conditions: whatever the arguments.
    let rules: BTreeMap<i64, _> = calls.iter().map(|call| (*call, vec![])).collect();
    let answer = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
