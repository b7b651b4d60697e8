//! Runs a program as on a machine that has or grants less: `denied --syscalls bpf,statx -- PROGRAM`, where each of these
//! answers ENOSYS, or `denied --capabilities BPF,SYS_ADMIN -- PROGRAM`, which can never get these again.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::libc;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const SYSCALLS: [(&str, i64); 7] = [
    ("bpf", libc::SYS_bpf),
    ("clone3", libc::SYS_clone3),
    ("close_range", libc::SYS_close_range),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("statx", libc::SYS_statx),
];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [what, names, "--", program, arguments @ ..] = words.as_slice() else {
        bail!("usage: denied --syscalls|--capabilities NAME,… -- PROGRAM [ARGUMENT…]");
    };
    match *what {
        "--syscalls" => deny_syscalls(names)?,
        "--capabilities" => deny_capabilities(names)?,
        _ => bail!("{what} is neither --syscalls nor --capabilities"),
    }
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("running {program}"))
}

fn deny_syscalls(names: &str) -> Result<()> {
    let number = |name: &str| SYSCALLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let mut rules = BTreeMap::new();
    for name in names.split(',') {
        // Without conditions: whatever the arguments.
        rules.insert(number(name).with_context(|| format!("unknown: {name}"))?, vec![]);
    }
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

/// Root's program gets what the bounding set leaves.
fn deny_capabilities(names: &str) -> Result<()> {
    for name in names.split(',') {
        let capability = CapabilitySet::from_name(name).with_context(|| format!("unknown: {name}"))?;
        match remove_capability_from_bounding_set(capability) {
            // Older kernels do not know the younger ones, and grant none.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => bail!("dropping {name}: {errno}"),
        }
    }
    Ok(())
}
