//! The eBPF programs, as `cargo xtask build-ebpf` builds them from `reloader-ebpf`, and how they are loaded.

mod error;

use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::maps::{Map, MapError};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use reloader_ebpf::{ABI_VERSION, Address, any_address, v4_mapped, v6};

pub use error::ProgramsError;

/// The object with the programs that every kernel with bpf(2) takes.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!("reloader.o");

/// The object with the programs of a hold.
pub(crate) static HOLD_OBJECT: &[u8] = aya::include_bytes_aligned!("hold.o");

/// The tc program that counts SYNs. `tc filter show` shows this name.
pub(crate) const SYN_PROGRAM: &str = "reloader_syns";

/// The tc program that parks SYNs.
pub(crate) const HOLD_PROGRAM: &str = "reloader_hold";

/// The tc program that turns delivered SYNs back into the device by which they came.
pub(crate) const BACK_PROGRAM: &str = "reloader_back";

/// The object with the programs that let a generation bind beside another.
pub(crate) static BIND_OBJECT: &[u8] = aya::include_bytes_aligned!("bind.o");

/// Its programs: for IPv4 and for IPv6.
pub(crate) const BIND_PROGRAMS: [&str; 2] = ["reloader_bind4", "reloader_bind6"];

/// The object with the steering programs.
pub(crate) static STEER_OBJECT: &[u8] = aya::include_bytes_aligned!("steer.o");

/// The sk_reuseport program that steers where the kernel migrates connections: older kernels refuse it.
pub(crate) const STEER_PROGRAM: &str = "reloader_steer";

/// The sk_reuseport program that steers where the kernel does not migrate.
pub(crate) const SELECT_PROGRAM: &str = "reloader_select";

/// The loader of all objects. To make one takes tens of milliseconds and tens of megabytes, because it reads the types of the whole kernel
/// (aya 0.14, `EbpfLoader::new`). A hold would wait for that while it begins.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    // The programs use no kernel types.
    loader.btf(None);
    Mutex::new(loader)
});

/// Calls `work` with the loader of all objects. Options that `work` sets for a map stay set, for all maps of that name.
pub(crate) fn with_loader<T>(work: impl FnOnce(&mut EbpfLoader<'static>) -> T) -> T {
    work(&mut LOADER.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Creates the maps of an object, with the options that `configure` sets. Its programs are not loaded yet.
pub(crate) fn load(object: &[u8], configure: impl FnOnce(&mut EbpfLoader<'static>)) -> Result<Ebpf, ProgramsError> {
    check_abi(object, ABI_VERSION)?;
    with_loader(|loader| {
        configure(loader);
        loader.load(object).map_err(|error| ProgramsError::from_error(&error))
    })
}

/// A program of a loaded object.
pub(crate) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, ProgramsError>
where
    &'a mut T: TryFrom<&'a mut Program>,
{
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or(ProgramsError::Damaged { what: name })
}

/// A map of a loaded object.
pub(crate) fn map<'a, M>(ebpf: &'a mut Ebpf, what: &'static str) -> Result<M, ProgramsError>
where
    M: TryFrom<&'a mut Map, Error = MapError>,
{
    let map = ebpf.map_mut(what).ok_or(ProgramsError::Damaged { what })?;
    M::try_from(map).map_err(|error| ProgramsError::map(what, error))
}

/// Refuses an object of another version. The size of the map ABI, which has no other use, is the version.
fn check_abi(object: &[u8], expected: u32) -> Result<(), ProgramsError> {
    let version = |object| Some(aya_obj::Object::parse(object).ok()?.maps.remove("ABI")?.max_entries());
    match version(object) {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(ProgramsError::Abi { found }),
        None => Err(ProgramsError::Damaged { what: "map ABI" }),
    }
}

/// The addresses in the keys by which the programs find a listener on `address`.
pub(crate) fn listened_addresses(address: IpAddr, v6only: bool) -> Vec<Address> {
    match address {
        IpAddr::V4(address) => vec![v4_mapped(address.octets())],
        IpAddr::V6(address) if address.is_unspecified() && !v6only => vec![any_address(false), any_address(true)],
        // An IPv6 socket that is bound to a mapped address gets IPv4 packets. The keys have that form anyway.
        IpAddr::V6(address) => vec![v6(address.octets())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_another_abi_version_is_refused_with_a_remedy() {
        for object in [OBJECT, HOLD_OBJECT, STEER_OBJECT, BIND_OBJECT] {
            check_abi(object, ABI_VERSION).unwrap();
        }
        let error = check_abi(OBJECT, ABI_VERSION + 1).unwrap_err();
        assert!(matches!(error, ProgramsError::Abi { found: ABI_VERSION }));
        assert!(error.to_string().contains("build-ebpf"), "{error}");
        assert!(matches!(check_abi(b"no ELF", ABI_VERSION), Err(ProgramsError::Damaged { .. })));
    }

    /// The loader is kept, and with it the size that a hold sets for this map.
    #[test]
    fn only_the_object_of_a_hold_has_the_map_whose_size_is_set() {
        let has_ring = |object| aya_obj::Object::parse(object).unwrap().maps.contains_key("RING");
        assert_eq!([OBJECT, HOLD_OBJECT, STEER_OBJECT, BIND_OBJECT].map(has_ring), [false, true, false, false]);
    }

    #[test]
    fn the_objects_have_the_license_that_their_helpers_demand() {
        for object in [OBJECT, HOLD_OBJECT, STEER_OBJECT, BIND_OBJECT] {
            assert_eq!(aya_obj::Object::parse(object).unwrap().license.to_str(), Ok("Dual MIT/GPL"));
        }
    }
}
