//! Finds the abilities of this kernel, by trying and never by its version: distributions carry features back, and
//! containers take them away.
//!
//! No trial changes the machine. Trials on a device run in a network namespace that ends with its thread. A trial that would
//! make the kernel load a module is left out.

use crate::kernel::kernel_release;

mod ability;
mod bpf;
mod modules;
mod process;
mod traffic;

pub use ability::Ability;

/// All abilities, in the order in which they are shown. Blocks for some tens of milliseconds.
pub fn abilities() -> Vec<Ability> {
    let mut abilities = vec![kernel()];
    abilities.extend(process::abilities());
    abilities.extend(bpf::abilities());
    abilities.extend(traffic::abilities());
    abilities
}

fn kernel() -> Ability {
    let finding = match kernel_release() {
        Some(release) => (Some(true), format!("/proc/sys/kernel/osrelease says {release}")),
        None => (None, "/proc/sys/kernel/osrelease cannot be read".into()),
    };
    Ability::new("kernel", finding, |_| "nothing: the abilities below decide")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ability_has_a_name_of_its_own_and_an_explanation() {
        let abilities = abilities();
        for ability in &abilities {
            assert!(ability.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", ability.name);
            assert!(!ability.how.is_empty() && !ability.follows.is_empty(), "{ability:?}");
            assert_eq!(abilities.iter().filter(|other| other.name == ability.name).count(), 1, "{}", ability.name);
        }
        let page = include_str!("../../../../docs/reference/kernels.md");
        for ability in &abilities {
            assert!(page.contains(&format!("\n| `{}` |", ability.name)), "{} is not documented", ability.name);
        }
        let names: Vec<_> = abilities.iter().map(|ability| ability.name).collect();
        assert_eq!(names[..4], ["kernel", "pidfd-open", "pidfd-getfd", "bpf"]);
    }

    #[test]
    fn json_has_kebab_case_keys() {
        let ability = Ability::new("ifb", (None, "so".into()), |_| "then");
        let json = serde_json::to_string(&ability).unwrap();
        assert_eq!(json, r#"{"name":"ifb","present":null,"how":"so","follows":"then"}"#);
    }
}
