//! Finds the names of files in a line of HAProxy's configuration, or of a `crt-list`. Pure.

use crate::haproxy::words::Word;

/// What a name stands for. It decides where a relative name begins, and which other files belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file by itself.
    Plain,
    /// A certificate, with its key and what else belongs to it.
    Certificate,
    /// A file that lists certificates.
    CertificateList,
    /// Certificates of authorities, revocation lists.
    Authority,
    /// A Lua script, which may open other files.
    Script,
}

/// A name in a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) kind: Kind,
    pub(super) text: String,
    /// Where it begins in the line. `None` if nothing can be written before it.
    pub(super) at: Option<usize>,
}

/// Options with a file or a directory of files as their value.
const OPTIONS: [(&str, Kind); 11] = [
    ("crt", Kind::Certificate),
    ("crt-list", Kind::CertificateList),
    ("ca-file", Kind::Authority),
    ("ca-verify-file", Kind::Authority),
    ("ca-sign-file", Kind::Authority),
    ("crl-file", Kind::Authority),
    ("tls-ticket-keys", Kind::Plain),
    ("-f", Kind::Plain),
    ("lf-file", Kind::Plain),
    ("file", Kind::Plain),
    ("errorfile", Kind::Plain),
];

/// Keywords that begin a line and are followed by a file or a directory.
const KEYWORDS: [(&str, Kind); 7] = [
    ("lua-load", Kind::Script),
    ("lua-load-per-thread", Kind::Script),
    ("ssl-dh-param-file", Kind::Plain),
    ("issuers-chain-path", Kind::Plain),
    ("51degrees-data-file", Kind::Plain),
    ("wurfl-data-file", Kind::Plain),
    ("deviceatlas-json-file", Kind::Plain),
];

/// The names of files in a line of the configuration.
pub(super) fn names(words: &[Word]) -> Vec<Name> {
    let text = |index: usize| words.get(index).map_or("", |word| word.text.as_str());
    let whole = |index: usize, kind: Kind| words.get(index).and_then(|word| whole(word, kind));
    if let Some((_, kind)) = KEYWORDS.iter().find(|(keyword, _)| *keyword == text(0)) {
        // What follows are arguments of the script.
        return whole(1, *kind).into_iter().collect();
    }
    match text(0) {
        "errorfile" => return whole(2, Kind::Plain).into_iter().collect(),
        // The command line of another program.
        "command" => return Vec::new(),
        _ => {}
    }
    let mut names = options(words);
    if text(0) == "filter" {
        names.extend(
            (1..words.len()).filter(|index| text(*index) == "config").filter_map(|index| whole(index + 1, Kind::Plain)),
        );
    }
    if text(0) == "load" && !words.iter().any(|word| word.text == "alias") {
        // Other lines refer to this certificate of a `crt-store` by this name.
        names.iter_mut().for_each(|name| name.at = None);
    }
    names.extend(words.iter().flat_map(arguments));
    names
}

/// The names in a line of a `crt-list`: the certificate, and the options in brackets. A list names no other list.
pub(super) fn listed_names(words: &[Word]) -> Vec<Name> {
    let first = words.first().and_then(|word| whole(word, Kind::Certificate));
    let listed = options(bracketed(words)).into_iter().filter(|name| name.kind != Kind::CertificateList);
    first.into_iter().chain(listed).collect()
}

/// The words between the brackets of a line of a `crt-list`, with the brackets. What follows are names of hosts.
fn bracketed(words: &[Word]) -> &[Word] {
    let after = words.get(1..).filter(|words| words.first().is_some_and(|word| word.text.starts_with('[')));
    let Some(words) = after else { return &[] };
    let length = words.iter().position(|word| word.text.ends_with(']')).map_or(words.len(), |end| end + 1);
    &words[..length]
}

/// The names of `words`, in which the brackets of a `crt-list` may stand.
fn options(words: &[Word]) -> Vec<Name> {
    let pairs = words.iter().zip(words.iter().skip(1));
    let named = pairs.filter_map(|(option, value)| {
        let option = option.text.trim_start_matches('[');
        let (_, kind) = OPTIONS.iter().find(|(name, _)| *name == option)?;
        whole(value, *kind)
    });
    named.collect()
}

/// A word that is a name.
fn whole(word: &Word, kind: Kind) -> Option<Name> {
    let prefix = prefix_length(&word.text);
    name(word, prefix, word.text[prefix..].trim_end_matches(']'), kind)
}

/// The length of the prefix that says where a name is looked for (from HAProxy 3.0 on).
fn prefix_length(text: &str) -> usize {
    ["file@", "opt@"].iter().find(|prefix| text.starts_with(**prefix)).map_or(0, |prefix| prefix.len())
}

fn name(word: &Word, start: usize, text: &str, kind: Kind) -> Option<Name> {
    // `@system-ca`, a certificate of a `crt-store`, a map that is in memory only.
    let is_file = !text.is_empty() && !text.starts_with('@') && !text.contains("virt@");
    is_file.then(|| Name { kind, text: text.to_owned(), at: word.offset(start) })
}

/// The names in calls such as `%[src,map_ip(/etc/haproxy/a.map,default)]`, `set-map(/etc/haproxy/a.map)` and `add-acl(/etc/haproxy/a.lst)`.
fn arguments(word: &Word) -> Vec<Name> {
    let mut names = Vec::new();
    for (at, _) in word.text.match_indices('(') {
        let letters = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '-';
        let call = &word.text[..at];
        let function = &call[call.trim_end_matches(letters).len()..];
        let is_map = function.trim_start_matches("set-").trim_start_matches("del-").starts_with("map");
        if !is_map && !["add-acl", "del-acl"].contains(&function) {
            continue;
        }
        let argument = word.text[at + 1..].split([',', ')']).next().unwrap_or_default();
        let prefix = prefix_length(argument);
        names.extend(name(word, at + 1 + prefix, &argument[prefix..], Kind::Plain));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::haproxy::words::located_words;

    fn found(line: &str) -> Vec<String> {
        let names = names(&located_words(line.as_bytes()));
        for name in &names {
            assert!(line[name.at.unwrap()..].starts_with(&name.text), "{line}");
        }
        names.into_iter().map(|name| name.text).collect()
    }

    #[test]
    fn names_are_found_in_each_kind_of_line() {
        assert_eq!(found("bind :443 ssl crt /a.pem ca-file /ca.pem alpn h2"), ["/a.pem", "/ca.pem"]);
        assert_eq!(found("server s 10.0.0.1:80 ssl crt b.pem verify required ca-file @system-ca"), ["b.pem"]);
        assert_eq!(found("errorfile 503 /etc/haproxy/errors/503.http"), ["/etc/haproxy/errors/503.http"]);
        assert_eq!(found("http-request deny errorfile \"/e 1.http\""), ["/e 1.http"]);
        assert_eq!(found("lua-load /a.lua -f arg"), ["/a.lua"]);
        assert_eq!(found("command /bin/program -f /a.cfg"), [""; 0]);
        assert_eq!(found("filter spoe engine x config /spoe.conf"), ["/spoe.conf"]);
        assert_eq!(found("acl blocked src -f /etc/blocked.lst -f opt@b.lst"), ["/etc/blocked.lst", "b.lst"]);
        assert_eq!(found("use_backend %[req.hdr(host),lower,map_dom(/etc/hosts.map,web)]"), ["/etc/hosts.map"]);
        assert_eq!(found("http-request set-map(\"/a b.map\") %[src] 1"), ["/a b.map"]);
        assert_eq!(found("http-request add-acl(/a.lst) %[src]"), ["/a.lst"]);
        assert_eq!(found("use_backend %[src,map(virt@x)]"), [""; 0]);
        assert_eq!(found("http-request return status 200 content-type text/html lf-file /a.html"), ["/a.html"]);
        assert_eq!(found("bind :443 ssl crt \"${CERTS}/a.pem\""), ["${CERTS}/a.pem"]);
        assert_eq!(found("frontend map"), [""; 0]);
    }

    #[test]
    fn names_of_a_crt_list_are_found_in_brackets_too() {
        let names = listed_names(&located_words(b"a.pem [alpn h2 ca-file /ca.pem] example.com"));
        assert_eq!(names.iter().map(|name| name.text.as_str()).collect::<Vec<_>>(), ["a.pem", "/ca.pem"]);
        let names = listed_names(&located_words(b"a.pem [ca-file /ca.pem alpn h2]"));
        assert_eq!(names[1].text, "/ca.pem");
    }

    #[test]
    fn only_options_in_brackets_name_files_and_no_list_names_a_list() {
        for line in
            ["a.pem crt-list l", "a.pem [crt-list l]", "a.pem [alpn h2] ca-file x", "a.pem [verify none ] ca-file x"]
        {
            let names = listed_names(&located_words(line.as_bytes()));
            assert_eq!(names.iter().map(|name| name.text.as_str()).collect::<Vec<_>>(), ["a.pem"], "{line}");
        }
    }

    #[test]
    fn certificate_of_a_store_keeps_the_name_by_which_others_refer_to_it() {
        let at = |line: &str| names(&located_words(line.as_bytes()))[0].at;
        assert_eq!((at("load crt a.pem key a.key"), at("load crt a.pem alias a")), (None, Some(9)));
    }
}
