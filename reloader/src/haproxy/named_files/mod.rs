//! Finds the files that a HAProxy configuration names: certificates, maps, Lua scripts, error pages. This is not a full parser: a path in a
//! variable or in a form that only HAProxy can read is left out.

mod bases;
mod files;
mod mention;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bases::Bases;
pub(super) use files::MAX_FILES;
pub(super) use mention::Kind;
use mention::Name;

use super::scan::Source;
use super::words::{Word, located_words};
use crate::fs::read_plain;
use crate::receipt::FileDigest;

/// The longest file whose digest is made, in bytes.
pub(super) const LONGEST: u64 = 64 << 20;

/// What a text names.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) mentions: Vec<Mention>,
    /// Where `default-path` names a directory, in bytes, and which directory this is.
    pub(super) default_paths: Vec<(Range<usize>, PathBuf)>,
    /// The directory in which relative names begin from the first line on, where it is that of the file.
    pub(super) begins_in: Option<PathBuf>,
    /// Names with variables, as they are written.
    pub(super) variables: Vec<String>,
}

/// A name of a file or a directory in a text.
#[derive(Debug)]
pub(super) struct Mention {
    pub(super) kind: Kind,
    /// The directory in which the name begins. `None` if it is absolute.
    pub(super) directory: Option<PathBuf>,
    pub(super) path: PathBuf,
    /// Where the name begins in the text, in bytes. `None` if nothing can be written before it.
    pub(super) at: Option<usize>,
    /// Where relative names in the files of a `crt-list` begin.
    bases: Option<Box<Bases>>,
}

/// The files that the configuration names, in the order of their paths. Directories stand for their files. Files that are not there are left
/// out. `working_dir` is HAProxy's working directory.
pub fn named_files(sources: &[Source], working_dir: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for mention in names(sources, working_dir).iter().flat_map(|names| &names.mentions) {
        if found.len() >= MAX_FILES {
            break;
        }
        found.extend(mention.files());
        if mention.kind == Kind::CertificateList {
            let list = read_plain(&mention.path, LONGEST).unwrap_or_default();
            found.extend(mention.listed(&list).mentions.iter().take(MAX_FILES).flat_map(Mention::files));
        }
    }
    found.into_iter().take(MAX_FILES).collect()
}

/// The digests of the configuration files and of the files that they name. It blocks.
pub fn digests(sources: &[Source], working_dir: &Path) -> Vec<FileDigest> {
    let own = sources.iter().map(|(path, bytes)| FileDigest::new(path, bytes));
    let is_source = |path: &PathBuf| sources.iter().any(|(source, _)| source == path);
    let named = named_files(sources, working_dir).into_iter().filter(|path| !is_source(path));
    own.chain(named.map(|path| digest_of(&path))).collect()
}

fn digest_of(path: &Path) -> FileDigest {
    read_plain(path, LONGEST).map_or_else(|_| FileDigest::unreadable(path), |bytes| FileDigest::new(path, &bytes))
}

/// What each of the configuration files names. Pure.
pub(super) fn names(sources: &[Source], working_dir: &Path) -> Vec<Names> {
    let mut bases = Bases::new(working_dir);
    sources.iter().map(|(path, text)| names_of(path, text, &mut bases)).collect()
}

fn names_of(source: &Path, text: &[u8], bases: &mut Bases) -> Names {
    let begins_in = bases.depends_on_file().then(|| bases.working_dir(source));
    let mut names = Names { begins_in, ..Names::default() };
    for (start, words) in lines(text) {
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        // `origin DIRECTORY`, `config` or `parent`.
        let last = if texts.get(1) == Some(&"origin") { 2 } else { 1 };
        if bases.note(&texts)
            && let (Some(first), Some(last)) = (words.get(1), words.get(last))
        {
            let range = start + first.range.start..start + last.range.end;
            names.default_paths.push((range, bases.working_dir(source)));
        }
        for name in mention::names(&words) {
            names.add(start, name, bases, source);
        }
    }
    names
}

/// The lines of a text, each with the place at which it begins.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, Vec<Word>)> {
    let mut start = 0;
    text.split(|byte| *byte == b'\n').map(move |line| {
        let began = start;
        start += line.len() + 1;
        (began, located_words(line))
    })
}

impl Names {
    fn add(&mut self, line: usize, name: Name, bases: &Bases, file: &Path) {
        let Name { kind, text, at } = name;
        if text.contains('$') {
            return self.variables.push(text);
        }
        let directory = Path::new(&text).is_relative().then(|| bases.directory(kind, file));
        let path = directory.as_ref().map_or_else(|| PathBuf::from(&text), |directory| directory.join(&text));
        let own_bases = (kind == Kind::CertificateList).then(|| Box::new(bases.at(file)));
        self.mentions.push(Mention { kind, directory, path, at: at.map(|at| line + at), bases: own_bases });
    }
}

impl Mention {
    /// The files that the name stands for: itself and what belongs to it, or the files of the directory. It blocks.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        files::standing_behind(&self.path, self.kind)
    }

    /// What the text of this `crt-list` names.
    pub(super) fn listed(&self, text: &[u8]) -> Names {
        let mut names = Names::default();
        let Some(bases) = &self.bases else { return names };
        for (start, words) in lines(text) {
            for name in mention::listed_names(&words) {
                names.add(start, name, bases, &self.path);
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn paths(sources: &[Source]) -> Vec<PathBuf> {
        names(sources, Path::new("/work"))
            .into_iter()
            .flat_map(|names| names.mentions)
            .map(|mention| mention.path)
            .collect()
    }

    #[test]
    fn relative_names_begin_at_their_base() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (name, text) in [
            ("a.cfg", ""),
            ("certs/web.pem", "c"),
            ("certs/web.pem.key", "k"),
            ("err/503.http", "e"),
            ("all/x.pem", "x"),
            ("certs/listed.pem", "l"),
            ("list.txt", "# all\nlisted.pem [alpn h2] example.com\nnone.pem\n"),
        ] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), text).unwrap();
        }
        let text = format!(
            "global\n default-path config\n crt-base {root}/certs\nfrontend f\n bind :443 ssl crt web.pem crt {root}/all crt-list {root}/list.txt\n errorfile 503 err/503.http\n \
             errorfile 500 err/none.http\n",
            root = root.display()
        );
        let sources = [(root.join("a.cfg"), text.into_bytes())];
        let expected =
            ["all/x.pem", "certs/listed.pem", "certs/web.pem", "certs/web.pem.key", "err/503.http", "list.txt"];
        assert_eq!(named_files(&sources, root), expected.map(|name| root.join(name)));
        let digests = digests(&sources, root);
        assert_eq!(digests.len(), 7);
        assert!(digests.iter().all(|file| file.sha256.is_some()));
    }

    #[test]
    fn default_path_holds_for_later_files_as_each_needs_it() {
        let line = b"backend b\n errorfile 503 e\n".to_vec();
        let sources = |path: &str| {
            let first = [line.clone(), format!("global\n default-path {path}\n").into_bytes(), line.clone()].concat();
            [("/etc/h/a.cfg".into(), first), ("/etc/h/conf.d/b.cfg".into(), line.clone())]
        };
        assert_eq!(paths(&sources("config")), ["/work/e", "/etc/h/e", "/etc/h/conf.d/e"].map(PathBuf::from));
        assert_eq!(paths(&sources("parent")), ["/work/e", "/etc/e", "/etc/h/e"].map(PathBuf::from));
        assert_eq!(paths(&sources("origin /o")), ["/work/e", "/o/e", "/o/e"].map(PathBuf::from));
        assert_eq!(paths(&sources("current")), ["/work/e"; 3].map(PathBuf::from));
        let names = names(&sources("config"), Path::new("/work"));
        assert_eq!((&names[0].begins_in, &names[1].begins_in), (&None, &Some("/etc/h/conf.d".into())));
        let (range, directory) = &names[0].default_paths[0];
        assert_eq!((&sources("config")[0].1[range.clone()], directory), (&b"config"[..], &PathBuf::from("/etc/h")));
    }

    #[test]
    fn places_of_names_are_those_in_the_whole_text() {
        let text = b"# \xff\nfrontend f\n  errorfile 500 ./x\n".to_vec();
        let found = names(&[("/a.cfg".into(), text.clone())], Path::new("/work"));
        assert!(text[found[0].mentions[0].at.unwrap()..].starts_with(b"./x"));
    }
}
