//! Describes the machine on which the figures were measured.

use std::fs;
use std::process::Command;

use reloader_tests::haproxy::HaproxyBinary;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Machine {
    pub(super) kernel: String,
    /// Their number and model.
    pub(super) processors: String,
    pub(super) haproxy: String,
    /// The commit of the source, as git names it.
    pub(super) reloader: String,
    /// The cargo profile of reloader.
    pub(super) profile: String,
    /// The date.
    pub(super) day: String,
}

impl Machine {
    /// The values that differ from those of another machine, as text.
    pub(super) fn differences_from(&self, other: &Machine) -> Vec<String> {
        let words = |machine: &Machine| {
            let reloader = format!("reloader {}", machine.reloader);
            let built = format!("built with profile {}", machine.profile);
            [
                machine.day.clone(),
                reloader,
                built,
                machine.haproxy.clone(),
                machine.kernel.clone(),
                machine.processors.clone(),
            ]
        };
        words(self).into_iter().zip(words(other)).filter(|(own, others)| own != others).map(|(own, _)| own).collect()
    }
}

/// Describes this machine. A value that cannot be determined is `unknown`.
pub(super) fn describe(profile: &str) -> Machine {
    Machine {
        kernel: output_of("uname", &["-sr"]),
        processors: processors(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        haproxy: format!("HAProxy {}", HaproxyBinary::installed().version),
        reloader: output_of("git", &["describe", "--always", "--dirty"]),
        profile: profile.into(),
        day: output_of("date", &["--utc", "+%Y-%m-%d"]),
    }
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    output.map_or_else(|| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn processors(cpuinfo: &str) -> String {
    let models: Vec<&str> = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model)
        .collect();
    match models.first() {
        Some(model) => format!("{} × {model}", models.len()),
        None => "unknown".into(),
    }
}

#[cfg(test)]
impl Machine {
    pub(super) fn sample() -> Machine {
        Machine {
            kernel: "Linux 6.18".into(),
            processors: "2 × <Some> CPU".into(),
            haproxy: "HAProxy 2.6".into(),
            reloader: "abcdef".into(),
            profile: "release".into(),
            day: "2026-11-23".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_and_named() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU\n\nprocessor\t: 1\nmodel name\t: Some CPU\n";
        assert_eq!((processors(cpuinfo).as_str(), processors("").as_str()), ("2 × Some CPU", "unknown"));
    }
}
