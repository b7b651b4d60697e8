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
fn a_mapped_address_is_the_ipv4_address() {
    assert_eq!(keys(&watched("[::ffff:192.0.2.1]:80", false)), keys(&watched("192.0.2.1:80", false)));
    assert_ne!(keys(&watched("192.0.2.1:80", false)), keys(&watched("192.0.2.1:81", false)));
}

#[test]
fn errors_name_the_remedy() {
    let denied = CounterError::load(&std::io::Error::from(rustix::io::Errno::PERM));
    assert!(denied.to_string().contains("CAP_BPF"), "{denied}");
    let missing = CounterError::load(&std::io::Error::from(rustix::io::Errno::NOSYS));
    assert!(missing.to_string().contains("seccomp"), "{missing}");
    let refused = CounterError::load(&std::io::Error::from(rustix::io::Errno::INVAL));
    assert!(matches!(refused, CounterError::Refused { .. }), "{refused}");
}

#[test]
fn an_object_of_another_abi_is_refused_with_a_sentence() {
    check_abi(OBJECT, ABI_VERSION).unwrap();
    let error = check_abi(OBJECT, ABI_VERSION + 1).unwrap_err();
    assert!(matches!(error, CounterError::Abi { found: ABI_VERSION, .. }));
    assert!(error.to_string().contains("build-ebpf"), "{error}");
    assert!(matches!(check_abi(b"no ELF", ABI_VERSION), Err(CounterError::Damaged { .. })));
}

#[test]
fn the_object_keeps_the_license_that_its_helpers_ask_for() {
    let object = aya_obj::Object::parse(OBJECT).unwrap();
    assert_eq!(object.license.to_str(), Ok("Dual MIT/GPL"));
}
