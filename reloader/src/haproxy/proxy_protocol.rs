//! Finds in a configuration of HAProxy which unix sockets expect a PROXY header, and to which of them a server line sends one. Pure.
//!
//! What cannot be known is left out: addresses with variables, and binds whose rules accept a header (`expect-proxy`). Conditional blocks are
//! read as if their conditions were true.

use std::collections::BTreeMap;

use super::scan::{Source, starts_section};
use super::words::words;

/// One end of the connections to a unix socket: the bind, or a server that connects to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The path, or `@` and the abstract name.
    pub address: String,
    /// File and line.
    pub place: String,
    /// The bind expects a PROXY header, or the server sends one.
    pub has_header: bool,
}

/// Both ends that a configuration has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Where HAProxy listens.
    pub binds: Vec<End>,
    /// Where HAProxy connects to.
    pub servers: Vec<End>,
}

/// The two versions of the header, which are switched on and off each by itself.
#[derive(Debug, Clone, Copy, Default)]
struct Sends {
    v1: bool,
    v2: bool,
}

impl Sends {
    fn changed_by(mut self, options: &[&str]) -> Sends {
        for option in options {
            match *option {
                "send-proxy" => self.v1 = true,
                "no-send-proxy" => self.v1 = false,
                "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => self.v2 = true,
                "no-send-proxy-v2" | "no-send-proxy-v2-ssl" | "no-send-proxy-v2-ssl-cn" => self.v2 = false,
                _ => {}
            }
        }
        self
    }
}

impl Ends {
    /// Reads the configuration.
    pub fn from_sources(sources: &[Source]) -> Ends {
        let texts: Vec<_> = sources.iter().map(|(path, text)| (path, String::from_utf8_lossy(text))).collect();
        let global = Global::read(texts.iter().flat_map(|(_, text)| text.lines()));
        let mut reader = Reader { global, ..Reader::default() };
        for (path, text) in &texts {
            for (number, line) in text.lines().enumerate() {
                let words = words(line);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                reader.line(&words, &|| format!("{}:{}", path.display(), number + 1));
            }
        }
        reader.end_section();
        reader.ends
    }
}

/// What `global` says about the paths of unix sockets.
#[derive(Debug, Default)]
struct Global {
    /// In front of each path of a bind.
    prefix: String,
    /// HAProxy binds before it changes its root directory, and connects after it.
    chroot: String,
}

impl Global {
    fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Global {
        let mut global = Global::default();
        for line in lines {
            match &words(line)[..] {
                [key, path, ..] if key == "chroot" => global.chroot = path.trim_end_matches('/').to_owned(),
                [key, options @ ..] if key == "unix-bind" => {
                    let prefix = options.windows(2).find(|pair| pair[0] == "prefix");
                    global.prefix = prefix.map(|pair| pair[1].clone()).unwrap_or_default();
                }
                _ => {}
            }
        }
        global
    }
}

#[derive(Debug, Default)]
struct Reader {
    global: Global,
    ends: Ends,
    section: String,
    /// The binds of this section.
    binds: Vec<End>,
    /// A rule of this section, or of `defaults`, accepts a header.
    expects_by_rule: bool,
    defaults_expect: bool,
    /// From `default-server`, up to this line.
    sends: Sends,
    /// The name of this section, if it is a `defaults`.
    defaults_name: Option<String>,
    /// From the `default-server` of the last `defaults`, and of each that has a name.
    defaults: Sends,
    named_defaults: BTreeMap<String, Sends>,
}

impl Reader {
    fn line(&mut self, words: &[&str], place: &dyn Fn() -> String) {
        match (words, self.section.as_str()) {
            ([first, rest @ ..], _) if starts_section(first) => self.begin_section(first, rest),
            (["default-server", options @ ..], _) => {
                self.sends = self.sends.changed_by(options);
                self.note_defaults();
            }
            (["bind", addresses, options @ ..], "frontend" | "listen") => {
                let has_header = options.contains(&"accept-proxy");
                let of_address =
                    |text: &str| Some(End { address: address(text, &self.global.prefix)?, place: place(), has_header });
                self.binds.extend(addresses.split(',').filter_map(of_address));
            }
            (["server", _, text, options @ ..], "backend" | "listen") => {
                let Sends { v1, v2 } = self.sends.changed_by(options);
                let address = address(text, &self.global.chroot);
                self.ends.servers.extend(address.map(|address| End { address, place: place(), has_header: v1 || v2 }));
            }
            (["tcp-request", "connection", "expect-proxy", ..], section) => {
                self.expects_by_rule = true;
                self.defaults_expect |= section == "defaults";
            }
            _ => {}
        }
    }

    fn begin_section(&mut self, kind: &str, rest: &[&str]) {
        self.end_section();
        kind.clone_into(&mut self.section);
        self.expects_by_rule = self.defaults_expect;
        let from = rest.iter().position(|word| *word == "from").and_then(|place| rest.get(place + 1));
        let from = from.map(|name| self.named_defaults.get(*name).copied().unwrap_or_default());
        self.defaults_name = None;
        self.sends = match kind {
            "defaults" => {
                self.defaults_name = rest.first().filter(|name| **name != "from").map(|name| (*name).to_owned());
                from.unwrap_or_default()
            }
            _ => from.unwrap_or(self.defaults),
        };
        self.note_defaults();
    }

    fn note_defaults(&mut self) {
        if self.section == "defaults" {
            self.defaults = self.sends;
            self.named_defaults.extend(self.defaults_name.clone().map(|name| (name, self.sends)));
        }
    }

    fn end_section(&mut self) {
        let binds = std::mem::take(&mut self.binds);
        if !self.expects_by_rule {
            self.ends.binds.extend(binds);
        }
    }
}

/// `None` for an address that is not one of a unix socket, or that only HAProxy can read.
fn address(text: &str, directory: &str) -> Option<String> {
    if text.contains('$') {
        return None;
    }
    let path = |path: &str| format!("{directory}{path}");
    match text.split_once('@') {
        Some(("unix", name)) => Some(path(name)),
        Some(("abns", name)) => Some(format!("@{name}")),
        None if text.starts_with('/') => Some(path(text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(text: &str) -> Ends {
        Ends::from_sources(&[("a.cfg".into(), text.into())])
    }

    /// For each end its address, its line and whether it has a header.
    fn short(ends: &[End]) -> Vec<(&str, &str, bool)> {
        ends.iter().map(|end| (end.address.as_str(), end.place.trim_start_matches("a.cfg:"), end.has_header)).collect()
    }

    #[test]
    fn binds_and_servers_of_unix_sockets_are_found() {
        let found = ends(
            "frontend a\n bind :80 accept-proxy\n bind /run/a accept-proxy # x\n bind unix@/run/b,abns@c mode 600\n\
             backend b\n server one unix@/run/a send-proxy-v2\n server two 127.0.0.1:1 send-proxy\n server three abns@c\n",
        );
        assert_eq!(short(&found.binds), [("/run/a", "3", true), ("/run/b", "4", false), ("@c", "4", false)]);
        assert_eq!(short(&found.servers), [("/run/a", "6", true), ("@c", "8", false)]);
    }

    #[test]
    fn default_server_holds_for_later_lines_and_sections() {
        let found = ends(
            "defaults\n default-server send-proxy\nbackend a\n server s /1\n default-server no-send-proxy\n server s /2\n\
             defaults d\nbackend b\n server s /3\ndefaults e\n default-server send-proxy-v2\nbackend c from d\n server s /4\n\
             backend f\n server s /5\n server s /6 no-send-proxy-v2\n",
        );
        let sends: Vec<bool> = found.servers.iter().map(|end| end.has_header).collect();
        assert_eq!(sends, [true, false, false, false, true, false]);
    }

    #[test]
    fn servers_are_connected_to_inside_the_chroot() {
        let text =
            "frontend a\n bind /a\nbackend b\n server s /a\nglobal\n chroot /var/h/\n unix-bind mode 600 prefix /run\n";
        let found = ends(text);
        assert_eq!((short(&found.binds)[0].0, short(&found.servers)[0].0), ("/run/a", "/var/h/a"));
    }

    #[test]
    fn nothing_is_said_of_what_only_haproxy_knows() {
        let rule = "frontend a\n bind /a\n tcp-request connection expect-proxy layer4 if { src 10.0.0.1 }\n";
        assert_eq!(ends(rule), Ends::default());
        assert_eq!(
            ends("frontend a\n bind \"unix@${DIR}/a\"\nbackend b\n server s \"unix@${DIR}/a\"\n"),
            Ends::default()
        );
        assert_eq!(ends("global\n stats socket /a\npeers p\n bind /b\n server s /c\n"), Ends::default());
    }
}
