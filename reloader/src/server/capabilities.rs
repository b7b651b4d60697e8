//! Describes what a server can do with listeners, for the plan.

use crate::haproxy::version::Version;

/// What the next generation can do with listeners.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Why it cannot be given listeners; `None` where it can.
    pub why_not_passed: Option<String>,
    /// It takes over the socket of a single IPv6 address only where its bind says `v6only`.
    pub wants_v6only: bool,
}

impl From<Version> for Capabilities {
    fn from(version: Version) -> Capabilities {
        let unable = || format!("HAProxy {version} cannot be given sockets (1.8 is the first that can)");
        // From 2.3 on (`sock_find_compatible_fd`); what a bind says is known to HAProxy alone.
        Capabilities { why_not_passed: (!version.passes_sockets()).then(unable), wants_v6only: version.at_least(2, 3) }
    }
}
