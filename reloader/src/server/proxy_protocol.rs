//! Compares the binds of HAProxy with what connects to them: both ends must agree on the PROXY header. Where they do not, no connection works.

use crate::config::Config;
use crate::haproxy::proxy_protocol::{End, Ends};
use crate::haproxy::scan::Source;

use super::nginx;

/// A sentence for each server that sends a PROXY header which the bind does not expect, or the other way round. The sources are HAProxy's.
pub(crate) fn warnings(config: &Config, sources: &[Source]) -> Vec<String> {
    let Ends { binds, servers } = Ends::from_sources(sources);
    let mut warnings = mismatches(&binds, &servers, "send-proxy-v2");
    for service in config.services.values() {
        warnings.extend(mismatches(&binds, &nginx::upstreams(&service.start), "proxy_protocol on;"));
    }
    warnings
}

fn mismatches(binds: &[End], servers: &[End], option: &str) -> Vec<String> {
    let pairs = servers.iter().flat_map(|server| binds.iter().map(move |bind| (server, bind)));
    let wrong = pairs.filter(|(server, bind)| server.address == bind.address && server.has_header != bind.has_header);
    wrong.map(|(server, bind)| sentence(server, bind, option)).collect()
}

/// `option` is what makes this kind of server send a header.
fn sentence(server: &End, bind: &End, option: &str) -> String {
    let (from, to, address) = (&server.place, &bind.place, &server.address);
    match server.has_header {
        true => format!(
            "{from} sends a PROXY header to {address}, and the bind there does not expect one ({to}): add `accept-proxy` to it, or send no header"
        ),
        false => format!(
            "{from} sends no PROXY header to {address}, and the bind there expects one ({to}): add `{option}`, or remove `accept-proxy`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_that_disagree_are_named_with_their_places() {
        let end =
            |address: &str, place: &str, has_header| End { address: address.into(), place: place.into(), has_header };
        let binds = [end("/a", "h:1", true), end("/b", "h:2", false), end("@c", "h:3", true)];
        let servers = [end("/a", "n:1", false), end("/b", "n:2", true), end("@c", "n:3", true), end("/d", "n:4", true)];
        let found = mismatches(&binds, &servers, "proxy_protocol on;");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("n:1 sends no PROXY header to /a, and the bind there expects one (h:1)"),
            "{found:?}"
        );
        assert!(found[0].contains("add `proxy_protocol on;`") && found[1].contains("add `accept-proxy`"), "{found:?}");
    }
}
