//! Tries the ways into the packet path, each on the `lo` of a network namespace of its own.

use std::error::Error;
use std::io;

use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;

use super::ability::{Ability, Finding};
use super::bpf;
use super::modules::Module;
use crate::gate::programs::{OBJECT, SYN_PROGRAM, with_loader};
use crate::kernel::bpf::{denial, errno, error_chain, with_memlock_restored};
use crate::kernel::devices::{self, LO};
use crate::kernel::tc;
use crate::process::effective_capabilities;

/// capabilities(7)
const NET_ADMIN: u64 = 1 << 12;

pub(super) fn abilities() -> [Ability; 4] {
    [
        Ability::new("tcx", tcx(), |present| match present {
            Some(true) => "tc programs are removed when the process that attached them ends",
            Some(false) => "tc programs are attached by clsact, and are removed at the next start after a kill -9",
            None => "TCX is tried first when a tc program is attached, then clsact",
        }),
        Ability::new("clsact", clsact(), |present| match present {
            Some(false) => "without TCX, no SYN can be held by eBPF or counted",
            Some(true) => "tc programs can be attached without TCX too",
            None => "without TCX, clsact is tried when a tc program is attached",
        }),
        Ability::new("sch-plug", plug(), |present| match present {
            Some(true) => "SYNs can be held by qdisc (held-qdisc)",
            Some(false) => "no held-qdisc: where held-ebpf is not possible either, such listeners are unproven",
            None => "held-qdisc, if the module loads when it is first needed",
        }),
        Ability::new("ifb", ifb(), |present| match present {
            Some(true) => "held-qdisc holds clients from outside too",
            Some(false) => "held-qdisc holds local clients only",
            None => "held-qdisc holds clients from outside too, if the module loads when it is first needed",
        }),
    ]
}

fn tcx() -> Finding {
    match try_with(&[], || attach(|| Ok(TcAttachOptions::TcxOrder(LinkOrder::first())))) {
        // A daemon in a sandbox has no CAP_SYS_ADMIN. Listing the programs of `lo` changes nothing, and proves nearly as much.
        Trial::NoNamespace(error) => ask_for_tcx().unwrap_or_else(|| finding("TCX", Trial::NoNamespace(error))),
        trial => finding("attaching by TCX", trial),
    }
}

fn ask_for_tcx() -> Option<Finding> {
    let error = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).err();
    match error.map(|error| errno(&error)) {
        // Linux 6.6 answers ENOENT where there is no program.
        None | Some(Some(Errno::NOENT)) => Some((Some(true), "bpf(2) lists TCX programs".into())),
        Some(Some(Errno::INVAL)) => Some((Some(false), "bpf(2) does not know TCX programs".into())),
        _ => None,
    }
}

fn clsact() -> Finding {
    let trial = try_with(&["sch_ingress", "cls_bpf"], || {
        attach(|| {
            qdisc_add_clsact("lo")?;
            Ok(TcAttachOptions::Netlink(NlOptions::default()))
        })
    });
    finding("attaching by clsact", trial)
}

fn plug() -> Finding {
    finding("a plug qdisc", try_with(&["sch_plug"], || Ok(tc::qdisc::add_root(LO, "plug")?)))
}

fn ifb() -> Finding {
    finding("an ifb device", try_with(&["ifb"], || Ok(devices::add_ifb("reloader-probe")?)))
}

/// The result of an attempt.
enum Trial {
    Worked,
    NotTried(String),
    Failed(Box<dyn Error + Send + Sync>),
    /// Not tried, because the process lacks CAP_NET_ADMIN.
    Denied,
    /// Not tried, because there was no namespace to try it in.
    NoNamespace(io::Error),
}

fn try_with(modules: &[&str], attempt: fn() -> Result<(), Box<dyn Error + Send + Sync>>) -> Trial {
    if effective_capabilities() & NET_ADMIN == 0 {
        return Trial::Denied;
    }
    if let Some(reason) = modules.iter().find_map(|name| Module::find(name).reason_not_to_try(name)) {
        return Trial::NotTried(reason);
    }
    // The namespace ends with its only thread, and everything that was added ends with the namespace.
    let thread = std::thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => attempt().map_or_else(Trial::Failed, |()| Trial::Worked),
        Err(errno) => Trial::NoNamespace(errno.into()),
    });
    thread.join().unwrap_or_else(|_| Trial::Failed("the attempt panicked".into()))
}

fn finding(what: &str, trial: Trial) -> Finding {
    match trial {
        Trial::Worked => (Some(true), format!("{what} worked in a network namespace made for it")),
        Trial::NotTried(reason) => (None, reason),
        Trial::Denied => (Some(false), format!("{what} needs CAP_NET_ADMIN, which this process lacks")),
        Trial::NoNamespace(error) => {
            (None, format!("not tried: a network namespace to try it in needs CAP_SYS_ADMIN ({error})"))
        }
        Trial::Failed(error) if denial(error.as_ref()).is_some() => match errno(error.as_ref()) {
            Some(Errno::PERM) if what.ends_with("qdisc") || what.ends_with("device") => {
                (Some(false), format!("{what} is denied: the process lacks CAP_NET_ADMIN"))
            }
            _ => bpf::failed(error.as_ref()),
        },
        Trial::Failed(error) => (Some(false), format!("{what} failed: {}", error_chain(error.as_ref()))),
    }
}

fn attach(
    options: fn() -> Result<TcAttachOptions, aya::programs::ProgramError>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    with_memlock_restored(|| {
        let mut ebpf = with_loader(|loader| loader.load(OBJECT))?;
        let program: &mut SchedClassifier =
            ebpf.program_mut(SYN_PROGRAM).ok_or("the object has no such program")?.try_into()?;
        program.load()?;
        program.attach_with_options("lo", TcAttachType::Ingress, options()?)?;
        Ok(())
    })
}
