//! Tries bpf(2): whether it answers, and the programs and maps that it accepts.

use std::error::Error;

use aya::maps::MapType;
use aya::programs::{ProgramType, SkReuseport};
use aya::sys::{is_map_supported, is_program_supported};
use rustix::io::Errno;

use super::ability::{Ability, Finding};
use crate::gate::port_sharing;
use crate::gate::programs::{SELECT_PROGRAM, STEER_OBJECT, STEER_PROGRAM, with_loader};
use crate::kernel::bpf::{denial, error_chain, shorten_verifier_log, with_memlock_restored};
use crate::process::control_group;

pub(super) fn abilities() -> [Ability; 5] {
    with_memlock_restored(|| {
        [
            Ability::new("bpf", bpf(), |present| match present {
                Some(true) => "eBPF is available: see below for what it can do",
                _ => "no eBPF: no steering, holds by qdisc only, SYNs are not counted",
            }),
            Ability::new("bpf-ringbuf", ring_buffer(), |present| match present {
                Some(true) => "SYNs can be held by eBPF (held-ebpf)",
                _ => "SYNs are held by qdisc (held-qdisc), where that is possible",
            }),
            Ability::new("reuseport-migration", steering(STEER_PROGRAM), |present| match present {
                Some(true) => "new listeners in a reuseport group can be steered without delay (steered)",
                _ => "connections queued on a listener end with it, so it is drained before it closes",
            }),
            Ability::new("reuseport-selection", steering(SELECT_PROGRAM), |present| match present {
                Some(true) => "new connections can be steered to new listeners of a reuseport group",
                _ => "listeners that cannot be passed have to be held",
            }),
            Ability::new("bind-sharing", bind_sharing(), |present| match present {
                Some(true) => "servers that bind alone can overlap (sockets = \"overlap\", `noreuseport`)",
                _ => "servers that bind alone are replaced while SYNs are held, where the configuration allows it",
            }),
        ]
    })
}

fn bpf() -> Finding {
    match is_program_supported(ProgramType::SchedClassifier) {
        Ok(true) => (Some(true), "bpf(2) loaded a tc program".into()),
        Ok(false) => (Some(false), "bpf(2) answers, but does not know tc programs".into()),
        Err(error) => failed(&error),
    }
}

fn ring_buffer() -> Finding {
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => (Some(true), "bpf(2) created a ring buffer".into()),
        Ok(false) => (Some(false), "bpf(2) does not know ring buffers".into()),
        Err(error) => failed(&error),
    }
}

/// Loads the program that steers. The sysctl `tcp_migrate_req` is not a proof: stable 5.10 has it without the feature.
fn steering(program: &'static str) -> Finding {
    match load(program) {
        Ok(()) => (Some(true), format!("bpf(2) loaded the sk_reuseport program {program}")),
        Err(error) if denial(error.as_ref()).is_some() => failed(error.as_ref()),
        Err(error) => (
            Some(false),
            format!("the kernel refuses {program}: {}", shorten_verifier_log(&error_chain(error.as_ref()))),
        ),
    }
}

fn bind_sharing() -> Finding {
    match port_sharing::load() {
        Ok(_) => match control_group::why_none() {
            None => (Some(true), "bpf(2) loaded the programs, and a control group can be made for a start".into()),
            Some(why) => (Some(false), why),
        },
        Err(error) if denial(&error).is_some() => failed(&error),
        Err(error) => {
            (Some(false), format!("the kernel refuses the programs: {}", shorten_verifier_log(&error_chain(&error))))
        }
    }
}

fn load(program: &'static str) -> Result<(), Box<dyn Error>> {
    let mut ebpf = with_loader(|loader| loader.load(STEER_OBJECT))?;
    let program: &mut SkReuseport = ebpf.program_mut(program).ok_or("the object has no such program")?.try_into()?;
    Ok(program.load()?)
}

/// Explains a failure of bpf(2).
pub(super) fn failed(error: &(dyn Error + 'static)) -> Finding {
    match denial(error) {
        Some(Errno::NOSYS) => (
            Some(false),
            "bpf(2) answers ENOSYS: the kernel is built without it, or a seccomp filter (a container's, or \
             SystemCallFilter=) hides it"
                .into(),
        ),
        Some(errno) => (
            Some(false),
            format!(
                "bpf(2) is denied ({errno}): the process lacks CAP_BPF and CAP_NET_ADMIN (before Linux 5.8: \
                 CAP_SYS_ADMIN), or a security module forbids it"
            ),
        ),
        None => (None, format!("bpf(2) failed: {}", error_chain(error))),
    }
}
