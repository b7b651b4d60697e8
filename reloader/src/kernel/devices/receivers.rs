//! Tells which devices hand packets to IP.

use super::Device;

/// The devices that hand packets to IP. On these, every packet for this host is seen exactly once.
///
/// - A device with a master (bridge port, bond slave) hands its packets to the master, which has an ingress of its own.
/// - A VRF is the exception among masters: packets go to IP on the slave, and the VRF's ingress never sees them.
/// - A VLAN device and the device below it are both receivers. The program looks at the tag: a tagged frame counts on the VLAN
///   device only.
/// - A macvlan device and the device below it are both receivers. The program looks at the MAC address, which differs.
/// - An ipvlan device shares the MAC address of the device below it. Where that is in this namespace, it sees the packet first.
/// - Tunnels and veth devices need no rule: a tunnel's outer packet is not TCP, and each end of a veth has its own ingress.
pub fn receivers(devices: &[Device]) -> Vec<&Device> {
    devices.iter().filter(|device| hands_packets_to_ip(device, devices)).collect()
}

fn hands_packets_to_ip(device: &Device, all: &[Device]) -> bool {
    let is_vrf = |device: &Device| device.kind.as_deref() == Some("vrf");
    let on_its_own = device.master.is_none_or(|master| all.iter().any(|d| d.index == master && is_vrf(d)));
    let seen_below = device.kind.as_deref() == Some("ipvlan") && device.lower.is_some();
    device.up && on_its_own && !seen_below && !is_vrf(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str, kind: &str) -> Device {
        Device {
            name: name.into(),
            index,
            up: true,
            ethernet: true,
            kind: (!kind.is_empty()).then(|| kind.into()),
            ..Device::default()
        }
    }

    fn names(devices: &[Device]) -> Vec<&str> {
        receivers(devices).iter().map(|device| device.name.as_str()).collect()
    }

    #[test]
    fn plain_device_is_a_receiver_when_it_is_up() {
        let down = Device { up: false, ..device(3, "eth1", "") };
        assert_eq!(names(&[device(1, "lo", ""), device(2, "eth0", ""), down]), ["lo", "eth0"]);
    }

    #[test]
    fn bridge_is_the_receiver_for_its_ports() {
        let port = Device { master: Some(9), ..device(2, "eth0", "") };
        assert_eq!(names(&[port.clone(), device(9, "br0", "bridge")]), ["br0"]);
        // A master that is not in the list is still a master.
        assert_eq!(names(&[port]), [""; 0]);
    }

    #[test]
    fn slave_of_a_vrf_is_a_receiver() {
        let slave = Device { master: Some(9), ..device(2, "eth0", "") };
        assert_eq!(names(&[slave, device(9, "blue", "vrf")]), ["eth0"]);
    }

    #[test]
    fn stacked_devices_are_receivers_but_for_an_ipvlan_above_its_lower_device() {
        let on_eth0 = |index, name, kind| Device { lower: Some(2), ..device(index, name, kind) };
        let devices = [
            device(2, "eth0", ""),
            on_eth0(3, "eth0.10", "vlan"),
            on_eth0(4, "macvlan0", "macvlan"),
            on_eth0(5, "ipvlan0", "ipvlan"),
            device(6, "moved", "ipvlan"),
        ];
        assert_eq!(names(&devices), ["eth0", "eth0.10", "macvlan0", "moved"]);
    }
}
