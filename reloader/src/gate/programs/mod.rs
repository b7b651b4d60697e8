//! The eBPF programs, as `cargo xtask build-ebpf` built them from `reloader-ebpf`, and how they get into the kernel.

use std::error::Error;
use std::io;
use std::net::IpAddr;

use aya::maps::MapError;
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use reloader_ebpf::{ABI_VERSION, Address, any_address, v4_mapped, v6};
use rustix::io::Errno;

use crate::kernel::bpf::{denial, error_chain, shorten_verifier_log};

/// The object that holds those that every kernel with bpf(2) takes.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!("reloader.o");

/// The object that holds those of a hold.
pub(crate) static HOLD_OBJECT: &[u8] = aya::include_bytes_aligned!("hold.o");

/// The tc program that counts SYNs; `tc filter show` calls it so too.
pub(crate) const SYN_PROGRAM: &str = "reloader_syns";

/// The tc program that parks SYNs.
pub(crate) const HOLD_PROGRAM: &str = "reloader_hold";

/// The tc program that turns delivered SYNs back into the device that they came by.
pub(crate) const BACK_PROGRAM: &str = "reloader_back";

/// The object that holds those that steer.
pub(crate) static STEER_OBJECT: &[u8] = aya::include_bytes_aligned!("steer.o");

/// The sk_reuseport program that steers where the kernel migrates connections: older kernels refuse it.
pub(crate) const STEER_PROGRAM: &str = "reloader_steer";

/// The sk_reuseport program that steers where it does not.
pub(crate) const SELECT_PROGRAM: &str = "reloader_select";

/// Why an eBPF program cannot be had. The sentence goes on in whoever wanted it, who knows the way without.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// bpf(2) answered EPERM or EACCES.
    #[error(
        "the kernel denies bpf(2) to this process. Give it CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW (before Linux 5.8: CAP_SYS_ADMIN, and \
         before 5.11 LimitMEMLOCK=infinity)"
    )]
    Denied,
    /// bpf(2) answered ENOSYS.
    #[error(
        "bpf(2) is not there (ENOSYS). Either this kernel is built without it, or a seccomp filter (a container's, or \
         SystemCallFilter=) hides it: allow bpf in the filter"
    )]
    Missing,
    /// The object does not fit to this program.
    #[error(
        "the eBPF object has ABI version {found}, and this reloader needs {ABI_VERSION}. Run `cargo xtask build-ebpf` and build again"
    )]
    Abi {
        /// The object's version.
        found: u32,
    },
    /// The object lacks something.
    #[error("the eBPF object has no {what}. Run `cargo xtask build-ebpf` and build again")]
    Damaged {
        /// The name of the map or program.
        what: &'static str,
    },
    /// The kernel does not take the program or its maps.
    #[error("this kernel refuses the eBPF program: {reason}")]
    Refused {
        /// What aya and the verifier say.
        reason: String,
    },
    /// A map could not be read or written.
    #[error("the eBPF map {what} failed: {source}")]
    Map {
        /// The map.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ProgramsError {
    /// What a failure to load means.
    pub(crate) fn from_error(error: &(dyn Error + 'static)) -> Self {
        match denial(error) {
            Some(Errno::NOSYS) => Self::Missing,
            Some(_) => Self::Denied,
            None => Self::Refused { reason: shorten_verifier_log(&error_chain(error)) },
        }
    }

    pub(crate) fn map(what: &'static str, error: MapError) -> Self {
        Self::Map { what, source: io::Error::other(error) }
    }
}

/// Makes the maps of an object, as `configure` wants them; its programs are not loaded yet.
pub(crate) fn load<'a>(object: &[u8], configure: impl FnOnce(&mut EbpfLoader<'a>)) -> Result<Ebpf, ProgramsError> {
    check_abi(object, ABI_VERSION)?;
    let mut loader = EbpfLoader::new();
    // The programs use no kernel types: BTF would be read from /sys for nothing.
    loader.btf(None);
    configure(&mut loader);
    loader.load(object).map_err(|error| ProgramsError::from_error(&error))
}

/// A program of a loaded object.
pub(crate) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, ProgramsError>
where
    &'a mut T: TryFrom<&'a mut Program>,
{
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or(ProgramsError::Damaged { what: name })
}

/// The object says its version by the size of a map that has no other use.
fn check_abi(object: &[u8], expected: u32) -> Result<(), ProgramsError> {
    let version = |object| Some(aya_obj::Object::parse(object).ok()?.maps.remove("ABI")?.max_entries());
    match version(object) {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(ProgramsError::Abi { found }),
        None => Err(ProgramsError::Damaged { what: "map ABI" }),
    }
}

/// The addresses by which the programs find a listener of this address.
pub(crate) fn listened_addresses(address: IpAddr, v6only: bool) -> Vec<Address> {
    match address {
        IpAddr::V4(address) => vec![v4_mapped(address.octets())],
        IpAddr::V6(address) if address.is_unspecified() && !v6only => vec![any_address(false), any_address(true)],
        // The kernel answers IPv4 on an IPv6 socket bound to a mapped address; our keys are of that form anyway.
        IpAddr::V6(address) => vec![v6(address.octets())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_remedy() {
        let denied = ProgramsError::from_error(&io::Error::from(Errno::PERM));
        assert!(denied.to_string().contains("CAP_BPF"), "{denied}");
        let missing = ProgramsError::from_error(&io::Error::from(Errno::NOSYS));
        assert!(missing.to_string().contains("seccomp"), "{missing}");
        let refused = ProgramsError::from_error(&io::Error::from(Errno::INVAL));
        assert!(matches!(refused, ProgramsError::Refused { .. }), "{refused}");
    }

    #[test]
    fn an_object_of_another_abi_is_refused_with_a_sentence() {
        for object in [OBJECT, HOLD_OBJECT, STEER_OBJECT] {
            check_abi(object, ABI_VERSION).unwrap();
        }
        let error = check_abi(OBJECT, ABI_VERSION + 1).unwrap_err();
        assert!(matches!(error, ProgramsError::Abi { found: ABI_VERSION }));
        assert!(error.to_string().contains("build-ebpf"), "{error}");
        assert!(matches!(check_abi(b"no ELF", ABI_VERSION), Err(ProgramsError::Damaged { .. })));
    }

    #[test]
    fn the_objects_keep_the_license_that_their_helpers_ask_for() {
        for object in [OBJECT, HOLD_OBJECT, STEER_OBJECT] {
            assert_eq!(aya_obj::Object::parse(object).unwrap().license.to_str(), Ok("Dual MIT/GPL"));
        }
    }
}
