//! Finds in the configuration of nginx to which unix sockets its `stream` servers connect, and whether they send a PROXY header.
//!
//! nginx itself validates its configuration. What cannot be known is left out: an nginx that is not started by its own name, targets with
//! variables, and files that cannot be read.

mod directives;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::haproxy::proxy_protocol::End;
use directives::Directive;

/// Where Debian's nginx has its configuration.
const DEFAULT_CONFIGURATION: &str = "/etc/nginx/nginx.conf";

/// The unix sockets to which the nginx of this command line connects. Empty if the program is another one.
pub(crate) fn upstreams(start: &[String]) -> Vec<End> {
    configuration(start).map(|file| ends(&directives::read(&file))).unwrap_or_default()
}

/// The configuration file. `None` if the program is another one, or if the path is relative to what only nginx knows.
fn configuration(start: &[String]) -> Option<PathBuf> {
    let (program, arguments) = start.split_first()?;
    if Path::new(program).file_name()? != "nginx" {
        return None;
    }
    let mut file = PathBuf::from(DEFAULT_CONFIGURATION);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let letters = argument.strip_prefix('-')?;
        // Letters may be joined. The rest of the word, or the next word, is the value of the last one (`ngx_get_options`).
        if let Some(place) = letters.find(['c', 'p', 'e', 'g', 's']) {
            let (letter, joined) = letters[place..].split_at(1);
            let value = if joined.is_empty() { arguments.next()?.as_str() } else { joined };
            if letter == "c" {
                file = value.into();
            }
        }
    }
    file.is_absolute().then_some(file)
}

fn ends(directives: &[Directive]) -> Vec<End> {
    let streams = directives.iter().filter(|directive| directive.words == ["stream"]);
    streams.flat_map(|stream| stream_ends(&stream.block)).collect()
}

fn stream_ends(stream: &[Directive]) -> Vec<End> {
    let by_default = sends(stream).unwrap_or(false);
    let groups: BTreeMap<&str, Vec<String>> = stream.iter().filter_map(group).collect();
    let mut ends = Vec::new();
    for server in stream.iter().filter(|directive| directive.words == ["server"]) {
        let has_header = sends(&server.block).unwrap_or(by_default);
        let Some((target, place)) = server.block.iter().find_map(|directive| match &directive.words[..] {
            [word, target] if word == "proxy_pass" => Some((target, &directive.place)),
            _ => None,
        }) else {
            continue;
        };
        let addresses = path(target).map(|path| vec![path]).or_else(|| groups.get(target.as_str()).cloned());
        let addresses = addresses.unwrap_or_default().into_iter();
        ends.extend(addresses.map(|address| End { address, place: place.clone(), has_header }));
    }
    ends
}

/// The value of `proxy_protocol` in a block.
fn sends(block: &[Directive]) -> Option<bool> {
    block.iter().find_map(|directive| match &directive.words[..] {
        [word, value] if word == "proxy_protocol" => Some(value == "on"),
        _ => None,
    })
}

/// The name of an `upstream`, and the unix sockets in it.
fn group(directive: &Directive) -> Option<(&str, Vec<String>)> {
    let [word, name] = &directive.words[..] else { return None };
    let servers = directive.block.iter().filter(|inner| inner.words.first().is_some_and(|word| word == "server"));
    let paths = servers.filter_map(|server| path(server.words.get(1)?)).collect();
    (word == "upstream").then_some((name.as_str(), paths))
}

fn path(target: &str) -> Option<String> {
    target.strip_prefix("unix:").filter(|path| !path.contains('$')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_named_by_the_command_line() {
        let file = |words: &str| configuration(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(file("/usr/sbin/nginx"), Some(DEFAULT_CONFIGURATION.into()));
        assert_eq!(file("/usr/sbin/nginx -e /l -c /a -g x;"), Some("/a".into()));
        assert_eq!(file("/usr/sbin/nginx -qc/a"), Some("/a".into()));
        assert_eq!(file("/usr/sbin/nginx -e c -p /d"), Some(DEFAULT_CONFIGURATION.into()));
        for unknown in ["/usr/sbin/nginx -c a", "/bin/sh nginx", "/usr/sbin/nginx -c", "/usr/sbin/nginx x"] {
            assert_eq!(file(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn stream_servers_are_found_with_their_headers() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nginx.conf");
        let text = "http { server { proxy_pass unix:/no; } }\nstream {\n  proxy_protocol on;\n\
                    server { listen 80; proxy_pass unix:/a; }\n server { proxy_pass group; proxy_protocol off; }\n\
                    server { proxy_pass $b; }\n server { proxy_pass 127.0.0.1:1; }\n\
                    upstream group { least_conn; server unix:/c max_fails=0; server 10.0.0.1:1; }\n}\n";
        std::fs::write(&file, text).unwrap();
        let found = upstreams(&["/usr/sbin/nginx".into(), "-c".into(), file.display().to_string()]);
        let end = |address: &str, line: usize, has_header| End {
            address: address.into(),
            place: format!("{}:{line}", file.display()),
            has_header,
        };
        assert_eq!(found, [end("/a", 4, true), end("/c", 5, false)]);
    }
}
