use super::*;

fn watched(address: &str, v6only: bool) -> Watched {
    Watched { address: address.parse().unwrap(), v6only }
}

#[test]
fn a_dual_stack_listener_is_two_keys() {
    let both = keys(&watched("[::]:80", false));
    assert_eq!(both, [keys(&watched("[::]:80", true)), keys(&watched("0.0.0.0:80", false))].concat());
    assert_eq!(both.len(), 2);
}

#[test]
fn ipv4_mapped_address_is_treated_as_ipv4() {
    assert_eq!(keys(&watched("[::ffff:192.0.2.1]:80", false)), keys(&watched("192.0.2.1:80", false)));
    assert_ne!(keys(&watched("192.0.2.1:80", false)), keys(&watched("192.0.2.1:81", false)));
}
