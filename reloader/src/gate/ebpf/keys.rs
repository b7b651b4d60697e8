//! The keys by which the programs find out what to do with a SYN. Pure.

use reloader_ebpf::{HeldKey, PARK, PASS, held_key};

use crate::gate::contract::Spec;
use crate::gate::programs::listened_addresses;
use crate::kernel::devices::Device;

/// The keys of a hold, each with the verdict on its SYNs. Targets come last: for one address, the later verdict counts.
pub(super) fn keys(spec: &Spec, devices: &[Device]) -> Vec<(HeldKey, u32)> {
    let mut keys = Vec::new();
    for exception in &spec.exceptions {
        for address in listened_addresses(exception.address.ip(), true) {
            let port = exception.address.port();
            keys.extend(
                arriving_by(exception.interface, devices).map(|device| (held_key(address, port, device), PASS)),
            );
        }
    }
    for target in &spec.targets {
        for address in listened_addresses(target.address.ip(), target.v6only) {
            let port = target.address.port();
            keys.extend(arriving_by(target.interface, devices).map(|device| (held_key(address, port, device), PARK)));
        }
    }
    keys
}

/// The device indices in the keys of a listener: `interface`, and for a VRF its slaves too, because the programs see packets there.
fn arriving_by(interface: u32, devices: &[Device]) -> impl Iterator<Item = u32> {
    let slaves = devices.iter().filter(move |device| interface != 0 && device.master == Some(interface));
    std::iter::once(interface).chain(slaves.map(|device| device.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::contract::{Exception, Target};
    use reloader_ebpf::{any_address, v4_mapped};

    fn target(address: &str, v6only: bool, interface: u32) -> Target {
        Target { address: address.parse().unwrap(), v6only, interface }
    }

    fn keys_of(targets: Vec<Target>, exceptions: &[&str], devices: &[Device]) -> Vec<(HeldKey, u32)> {
        let exception = |address: &&str| Exception { address: address.parse().unwrap(), interface: 0 };
        let exceptions = exceptions.iter().map(exception).collect();
        keys(&Spec { id: 1, targets, exceptions, capacity: 0 }, devices)
    }

    #[test]
    fn a_dual_stack_wildcard_is_two_keys() {
        let both = [(held_key(any_address(false), 80, 0), PARK), (held_key(any_address(true), 80, 0), PARK)];
        assert_eq!(keys_of(vec![target("[::]:80", false, 0)], &[], &[]), both);
        assert_eq!(keys_of(vec![target("[::]:80", true, 0)], &[], &[]), both[..1]);
    }

    #[test]
    fn an_exception_passes_unless_it_is_a_target_too() {
        let address = held_key(v4_mapped([10, 0, 0, 1]), 80, 0);
        let wildcard = target("0.0.0.0:80", false, 0);
        assert!(keys_of(vec![wildcard], &["10.0.0.1:80"], &[]).contains(&(address, PASS)));
        // The map keeps the later one.
        let keys = keys_of(vec![wildcard, target("10.0.0.1:80", false, 0)], &["10.0.0.1:80"], &[]);
        assert_eq!(keys.iter().rfind(|(key, _)| *key == address), Some(&(address, PARK)));
    }

    #[test]
    fn an_exception_that_is_bound_to_a_device_passes_on_that_device_only() {
        let address = v4_mapped([10, 0, 0, 1]);
        let exceptions = vec![Exception { address: "10.0.0.1:80".parse().unwrap(), interface: 3 }];
        let keys = keys(&Spec { id: 1, targets: vec![target("0.0.0.0:80", false, 0)], exceptions, capacity: 0 }, &[]);
        assert!(keys.contains(&(held_key(address, 80, 3), PASS)));
        assert!(keys.iter().all(|(key, _)| *key != held_key(address, 80, 0)));
    }

    #[test]
    fn a_vrf_is_held_on_its_slaves() {
        let device = |index, master| Device { index, master, ..Device::default() };
        let devices = [device(2, None), device(3, Some(9)), device(9, None)];
        let address = v4_mapped([10, 0, 0, 1]);
        let expected = [(held_key(address, 80, 9), PARK), (held_key(address, 80, 3), PARK)];
        assert_eq!(keys_of(vec![target("10.0.0.1:80", false, 9)], &[], &devices), expected);
    }
}
