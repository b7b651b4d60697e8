//! Knows from which kernel version on a feature must be available.

/// A feature that kernels have from some version on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// bpf(2) with ring buffers.
    Bpf,
    /// eBPF programs attached without a qdisc.
    Tcx,
    /// Queued connections move to another socket of the group when theirs closes.
    ReusePortMigration,
    /// Ports that two generations share, by a program at bind(2).
    BindSharing,
    /// A descriptor for a process.
    PidfdOpen,
    /// A duplicate of another process's descriptor.
    PidfdGetfd,
    /// sch_plug and the filters that lead to it. Every guest has it; a host may have been built without it.
    Plug,
}

impl Feature {
    /// The first version that has it, and the system call that it depends on.
    fn needs(self) -> ((u32, u32), &'static str) {
        match self {
            Feature::Bpf => ((5, 8), "bpf"),
            Feature::Tcx => ((6, 6), "bpf"),
            Feature::ReusePortMigration => ((5, 14), "bpf"),
            // Before 5.12 the verifier refuses bpf_setsockopt to programs at bind(2).
            Feature::BindSharing => ((5, 12), "bpf"),
            Feature::PidfdOpen => ((5, 3), "pidfd_open"),
            Feature::PidfdGetfd => ((5, 6), "pidfd_getfd"),
            Feature::Plug => ((3, 4), ""),
        }
    }
}

pub(super) fn expected(feature: Feature, kernel: (u32, u32), denied: &[String], is_guest: bool) -> bool {
    let (version, call) = feature.needs();
    kernel >= version && !denied.iter().any(|denied| denied == call) && (feature != Feature::Plug || is_guest)
}

/// The version of the running kernel.
pub(super) fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    version(&release).unwrap_or_else(|| panic!("cannot read the kernel's release: {release}"))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_is_expected_from_its_version_on_unless_the_row_denies_it() {
        let expected = |feature, release| expected(feature, version(release).unwrap(), &[], true);
        assert!(
            !expected(Feature::Tcx, "6.1.0-50-cloud-amd64") && expected(Feature::Tcx, "6.12.107+deb13-cloud-amd64")
        );
        assert!(expected(Feature::Bpf, "5.10.0-32-cloud-amd64") && expected(Feature::Tcx, "7.2.13+deb14-cloud-amd64"));
        let denied = ["bpf".to_owned()];
        assert!(!super::expected(Feature::Bpf, (6, 1), &denied, true));
        assert!(super::expected(Feature::PidfdOpen, (6, 1), &denied, true));
        assert!(
            super::expected(Feature::Plug, (6, 1), &denied, true)
                && !super::expected(Feature::Plug, (6, 1), &[], false)
        );
    }
}
