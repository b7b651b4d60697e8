//! What this kernel can do for us, found by trying and never by its version: distributions carry features back, and
//! containers take them away.
//!
//! Nothing here changes the machine: what has to be tried on a device is tried in a network namespace that ends with its
//! thread, and what would make the kernel load a module is not tried.

use crate::kernel::kernel_release;

mod bpf;
mod modules;
mod process;
mod traffic;

/// Something that the kernel can do, or not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ability {
    /// What scripts know it by, in kebab-case.
    pub name: &'static str,
    /// Whether this kernel has it for this process; `None` where that cannot be known without changing something.
    pub present: Option<bool>,
    /// How that is known.
    pub how: String,
    /// What follows from it.
    pub follows: String,
}

impl Ability {
    fn new(name: &'static str, (present, how): Finding, follows: impl FnOnce(Option<bool>) -> &'static str) -> Self {
        Self { name, present, how, follows: follows(present).into() }
    }
}

/// Whether it is there, and how that is known.
type Finding = (Option<bool>, String);

/// All abilities, in the order in which a person wants to read them. Takes some tens of milliseconds; blocking.
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
    Ability::new("kernel", finding, |_| "nothing: what counts is what follows below")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ability_is_named_once_and_explained() {
        let abilities = abilities();
        for ability in &abilities {
            assert!(ability.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", ability.name);
            assert!(!ability.how.is_empty() && !ability.follows.is_empty(), "{ability:?}");
            assert_eq!(abilities.iter().filter(|other| other.name == ability.name).count(), 1, "{}", ability.name);
        }
        let names: Vec<_> = abilities.iter().map(|ability| ability.name).collect();
        assert_eq!(names[..4], ["kernel", "pidfd-open", "pidfd-getfd", "bpf"]);
    }

    #[test]
    fn scripts_get_kebab_case() {
        let ability = Ability::new("ifb", (None, "so".into()), |_| "then");
        let json = serde_json::to_string(&ability).unwrap();
        assert_eq!(json, r#"{"name":"ifb","present":null,"how":"so","follows":"then"}"#);
    }
}
