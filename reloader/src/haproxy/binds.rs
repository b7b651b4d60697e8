//! Finds the listeners that a new configuration moves out of their reuseport group, from the `bind` lines of both configurations. Pure.
//!
//! In companion mode the daemon sees the new worker's listeners only when the old worker is already retired. A listener that left its group
//! has then lost its queue. So the hold of SYNs must begin before the reload. Lines are compared as they are written: a change of spelling
//! alone may cost a needless hold, but not the proof.

use std::collections::BTreeSet;

use super::scan::Source;
use super::words::words;

/// The binds of a configuration: each is an address with the options that choose its reuseport group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binds(BTreeSet<String>);

/// Options with a value that choose a socket's group.
const WITH_VALUE: [&str; 2] = ["interface", "namespace"];
/// Options without a value that choose a socket's group.
const ALONE: [&str; 3] = ["v6only", "v4v6", "transparent"];

impl Binds {
    /// Reads the `bind` lines of a configuration.
    pub fn from_sources(sources: &[Source]) -> Binds {
        let mut binds = BTreeSet::new();
        for (_, text) in sources {
            for line in String::from_utf8_lossy(text).lines() {
                binds.extend(key(&words(line)));
            }
        }
        Binds(binds)
    }

    /// The first bind for which `next` has no bind with the same address and the same group options.
    pub fn first_gone(&self, next: &Binds) -> Option<String> {
        self.0.iter().find(|bind| !next.0.contains(*bind)).cloned()
    }
}

fn key(words: &[String]) -> Option<String> {
    let ("bind", [address, options @ ..]) = (words.first()?.as_str(), &words[1..]) else { return None };
    let mut key = vec![address.as_str()];
    for (place, option) in options.iter().enumerate() {
        if ALONE.contains(&option.as_str()) {
            key.push(option);
        }
        if WITH_VALUE.contains(&option.as_str()) {
            key.extend(options[place..].iter().take(2).map(String::as_str));
        }
    }
    Some(key.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(before: &str, after: &str) -> Option<String> {
        let binds = |text: &str| Binds::from_sources(&[("a.cfg".into(), text.into())]);
        binds(before).first_gone(&binds(after))
    }

    #[test]
    fn bind_that_leaves_its_group_is_found() {
        let before = "frontend a\n  bind 127.0.0.1:80\n  bind [::]:81\n";
        assert_eq!(gone(before, before), None);
        assert_eq!(gone(before, "frontend a\n bind [::]:81\n"), Some("127.0.0.1:80".into()));
        assert_eq!(
            gone(before, "frontend a\n bind 127.0.0.1:80 interface lo\n bind [::]:81"),
            Some("127.0.0.1:80".into())
        );
        assert_eq!(gone(before, "frontend a\n bind 127.0.0.1:80\n bind [::]:81 v6only"), Some("[::]:81".into()));
        assert_eq!(gone("bind :80 interface eth0", "bind :80 interface eth1"), Some(":80 interface eth0".into()));
    }

    #[test]
    fn bind_that_stays_in_its_group_is_not_a_change() {
        let before = "frontend a\n  bind 127.0.0.1:80 shards 4\n";
        assert_eq!(gone(before, "frontend b\n\tbind 127.0.0.1:80 shards 1 ssl crt /a # else\n  bind :81\n"), None);
        assert_eq!(gone(before, "frontend a\n # bind 127.0.0.1:81\n bind 127.0.0.1:80 name x"), None);
    }
}
