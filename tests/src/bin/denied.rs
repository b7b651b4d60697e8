//! Runs a program as on a machine that has or grants less.
//!
//! With `denied --syscalls bpf,statx -- PROGRAM` these system calls answer ENOSYS. With
//! `denied --capabilities BPF,SYS_ADMIN -- PROGRAM` the program can never get these capabilities back.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::libc;
use reloader_tests::confine::{deny_syscalls, drop_capability};
use rustix::thread::CapabilitySet;

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
    let [kind, names, "--", program, arguments @ ..] = words.as_slice() else {
        bail!("usage: denied --syscalls|--capabilities NAME,… -- PROGRAM [ARGUMENT…]");
    };
    match *kind {
        "--syscalls" => deny_syscalls(&numbers(names)?, libc::ENOSYS)?,
        "--capabilities" => deny_capabilities(names)?,
        _ => bail!("{kind} is neither --syscalls nor --capabilities"),
    }
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("running {program}"))
}

fn numbers(names: &str) -> Result<Vec<i64>> {
    let number = |name: &str| SYSCALLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    names.split(',').map(|name| number(name).with_context(|| format!("unknown: {name}"))).collect()
}

fn deny_capabilities(names: &str) -> Result<()> {
    for name in names.split(',') {
        drop_capability(CapabilitySet::from_name(name).with_context(|| format!("unknown: {name}"))?)?;
    }
    Ok(())
}
