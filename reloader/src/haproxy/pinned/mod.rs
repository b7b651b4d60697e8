//! Plans copies of a configuration and of the files that it names, so that HAProxy starts from the copies alone.
//!
//! Each copy has the path of its original below one directory. That directory is written before each name, which works wherever a name may
//! stand and needs no privilege. What cannot be moved safely keeps its name.

mod default_paths;
mod edit;
mod place;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use default_paths::DefaultPaths;
use edit::{Edit, applied};
use place::is_plain;
pub(crate) use place::{key_of, place_of};

use super::named_files::{Kind, MAX_FILES, Mention, Names, names};
use super::scan::Source;
use crate::fs::read_plain;
use crate::receipt::FileDigest;

/// The longest file that is copied, in bytes.
const LONGEST_FILE: u64 = 32 << 20;
/// All copies together have at most this many bytes.
const MAX_TOTAL: u64 = 128 << 20;
/// At most this many names are listed as not pinned.
const MAX_LISTED: usize = 32;

/// Copies that are to be written.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// The configuration files, in their order, with the names of the copies.
    pub(crate) configuration: Vec<Vec<u8>>,
    /// The directories in which relative names begin, where these have copies.
    pub(crate) directories: BTreeSet<PathBuf>,
    /// The originals of the other files, each with its text where the copy has another one.
    pub(crate) files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// Files that are too large to be copied.
    pub(crate) too_large: Vec<String>,
    /// Names that could not be moved to copies.
    pub(crate) not_pinned: Vec<String>,
    total: u64,
}

/// What copies are made from.
pub(crate) struct Originals<'a> {
    /// The configuration files.
    pub(crate) sources: &'a [Source],
    /// HAProxy's working directory.
    pub(crate) working_dir: &'a Path,
    /// The digests of all files, by path.
    pub(crate) digests: &'a HashMap<String, FileDigest>,
}

impl Copies {
    /// Plans the copies below `directory`. Without one no file is copied, and only relative names are kept true: the copies of the
    /// configuration are in another directory than their originals. It blocks.
    pub(crate) fn plan(originals: &Originals<'_>, directory: Option<&Path>) -> Copies {
        let mut copies = Copies::default();
        let all = names(originals.sources, originals.working_dir);
        let pinned: Vec<Vec<Edit>> = match directory {
            Some(directory) => all.iter().map(|names| copies.pin(names, originals, directory)).collect(),
            None => all.iter().map(|_| Vec::new()).collect(),
        };
        // HAProxy does not start where the directory of `default-path` is gone. Names that stay relative begin in the original one.
        let moved_to = directory.filter(|directory| is_plain(directory) && copies.is_complete());
        let mut default_paths = DefaultPaths { moved_to, default_path: None, directories: BTreeSet::new() };
        for (((_, text), names), mut edits) in originals.sources.iter().zip(&all).zip(pinned) {
            edits.extend(default_paths.edits(names));
            copies.configuration.push(applied(text, edits));
        }
        copies.directories = default_paths.directories;
        copies
    }

    fn is_complete(&self) -> bool {
        self.too_large.is_empty() && self.not_pinned.is_empty()
    }

    /// Adds the files that a text names. Returns what the text needs, to name their copies.
    fn pin(&mut self, names: &Names, originals: &Originals<'_>, directory: &Path) -> Vec<Edit> {
        names.variables.iter().for_each(|name| note(&mut self.not_pinned, format!("{name} (a variable)")));
        names.mentions.iter().filter_map(|mention| self.pin_mention(mention, originals, directory)).collect()
    }

    fn pin_mention(&mut self, mention: &Mention, originals: &Originals<'_>, directory: &Path) -> Option<Edit> {
        let files = mention.files();
        // A device, or a name that HAProxy may do without.
        if files.is_empty() {
            return None;
        }
        let path = mention.path.display();
        let Some(at) = mention.at.filter(|_| can_be_moved(mention, &files, directory)) else {
            note(&mut self.not_pinned, format!("{path} (its name cannot be changed)"));
            return None;
        };
        if files.len() > MAX_FILES {
            note(&mut self.too_large, format!("{path} (it has more than {MAX_FILES} files)"));
            return None;
        }
        let digests = files.iter().map(|file| originals.digests.get(&key_of(file)));
        let Some(digests) = digests.collect::<Option<Vec<&FileDigest>>>() else {
            match originals.digests.len() >= MAX_FILES {
                true => note(&mut self.too_large, format!("{path} (there are too many files)")),
                false => note(&mut self.not_pinned, format!("{path} (it was made after the reload began)")),
            }
            return None;
        };
        let mut unreadable = files.iter().zip(&digests).filter(|(_, digest)| digest.bytes.is_none());
        if let Some((file, _)) = unreadable.find(|(file, _)| !is_long(file)) {
            note(&mut self.not_pinned, format!("{path} ({} could not be read)", file.display()));
            return None;
        }
        if !self.has_room_for(&files, &digests) {
            note(&mut self.too_large, path.to_string());
            return None;
        }
        if mention.kind == Kind::Script {
            note(&mut self.not_pinned, format!("what {path} loads by itself (Lua)"));
        }
        for file in files {
            self.files.entry(file).or_default();
        }
        // A list is followed once, also where it leads back to itself.
        if mention.kind == Kind::CertificateList
            && self.files.get(&mention.path).is_none_or(Option::is_none)
            && let Ok(text) = read_plain(&mention.path, LONGEST_FILE)
        {
            self.files.insert(mention.path.clone(), Some(Vec::new()));
            let edits = self.pin(&mention.listed(&text), originals, directory);
            self.files.insert(mention.path.clone(), Some(applied(&text, edits)));
        }
        let mut prefix = directory.display().to_string();
        if let Some(begins_in) = &mention.directory {
            prefix += &format!("{}/", begins_in.display());
        }
        Some(Edit { range: at..at, text: prefix.into_bytes() })
    }

    /// Counts the files, if they are not too large and not too many. The size of a file that was too long for a digest is not known.
    fn has_room_for(&mut self, files: &[PathBuf], digests: &[&FileDigest]) -> bool {
        let new = files.iter().zip(digests).filter(|(file, _)| !self.files.contains_key(*file));
        let sizes: Vec<u64> = new.map(|(_, digest)| digest.bytes.unwrap_or(u64::MAX)).collect();
        let total = sizes.iter().fold(self.total, |total, size| total.saturating_add(*size));
        let is_small = sizes.iter().all(|size| *size <= LONGEST_FILE);
        let has_room = is_small && total <= MAX_TOTAL && self.files.len() + sizes.len() <= MAX_FILES;
        if has_room {
            self.total = total;
        }
        has_room
    }
}

/// Whether a file without a digest is too long for one.
fn is_long(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|metadata| metadata.len() > LONGEST_FILE)
}

/// Whether the name can be changed, and each file has a place among the copies.
fn can_be_moved(mention: &Mention, files: &[PathBuf], directory: &Path) -> bool {
    let is_plain_word = is_plain(directory) && mention.directory.iter().all(|directory| is_plain(directory));
    is_plain_word && files.iter().all(|file| place_of(file).is_some())
}

fn note(list: &mut Vec<String>, text: String) {
    if list.len() < MAX_LISTED && !list.contains(&text) {
        list.push(text);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::haproxy::named_files::digests;

    const COPIES: &str = "/state/files";

    fn plan(sources: &[Source], directory: Option<&str>) -> Copies {
        let working_dir = Path::new("/");
        let digests =
            digests(sources, working_dir).into_iter().map(|file| (key_of(Path::new(&file.path)), file)).collect();
        Copies::plan(&Originals { sources, working_dir, digests: &digests }, directory.map(Path::new))
    }

    /// A directory with these files, as its path, and what becomes of a text in `h/a.cfg` below it. `ROOT` stands for the directory.
    fn planned(files: &[&str], text: &str) -> (tempfile::TempDir, Copies, String) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display().to_string();
        for name in files {
            fs::create_dir_all(directory.path().join(name).parent().unwrap()).unwrap();
            fs::write(directory.path().join(name), name).unwrap();
        }
        let source = (directory.path().join("h/a.cfg"), text.replace("ROOT", &root).into_bytes());
        let copies = plan(&[source], Some(COPIES));
        let changed = String::from_utf8_lossy(&copies.configuration[0]).replace(&root, "ROOT");
        (directory, copies, changed)
    }

    #[test]
    fn names_lead_to_copies_and_everything_else_stays() {
        let files = ["h/err/503.http", "h/certs/a.pem", "h/certs/a.pem.key", "all/x.pem", "m.map"];
        let text = "global # first\n\tdefault-path config\n crt-base ROOT/h/certs\nfrontend f\n bind :1 ssl crt a.pem crt \"ROOT/all/\" alpn h2\n\
             \x20errorfile 503 err/503.http # note\n errorfile 500 /dev/null\n use_backend %[src,map(ROOT/h/../m.map,b)] if { src -f none }\n";
        let (_directory, copies, changed) = planned(&files, text);
        let expected = text
            .replace("config", "origin \"/state/filesROOT/h\"")
            .replace("crt a.pem", "crt /state/filesROOT/h/certs/a.pem")
            .replace("\"ROOT/all", "\"/state/filesROOT/all")
            .replace(" err/", " /state/filesROOT/h/err/")
            .replace("(ROOT/h/..", "(/state/filesROOT/h/..");
        assert_eq!(changed, expected);
        assert_eq!(copies.files.len(), 5);
        assert_eq!(copies.directories.len(), 1, "{copies:?}");
        assert!(copies.not_pinned.is_empty() && copies.too_large.is_empty(), "{copies:?}");
    }

    #[test]
    fn names_that_stay_relative_begin_where_they_did() {
        let text = "global\n default-path origin ROOT/h\n lua-load a.lua\n";
        let (_directory, copies, changed) = planned(&["h/a.lua"], text);
        assert!(changed.contains("default-path origin \"ROOT/h\"\n lua-load /state/filesROOT/h/a.lua"), "{changed}");
        assert!(copies.directories.is_empty() && !copies.not_pinned.is_empty(), "{copies:?}");
    }

    #[test]
    fn one_file_may_have_two_names() {
        let text = "frontend f\n errorfile 500 ROOT/e\n errorfile 503 ROOT/./e\n";
        let (_directory, copies, changed) = planned(&["e"], text);
        assert_eq!(changed, text.replace("ROOT", "/state/filesROOT"));
        assert!(copies.not_pinned.is_empty(), "{copies:?}");
    }

    #[test]
    fn relative_crt_list_does_not_begin_below_crt_base() {
        let text = "global\n default-path config\n crt-base ROOT/c\nfrontend f\n bind :1 ssl crt-list list\n";
        let (_directory, copies, changed) = planned(&["h/list", "c/a.pem"], text);
        assert!(changed.contains("crt-list /state/filesROOT/h/list"), "{changed}");
        assert!(copies.not_pinned.is_empty(), "{copies:?}");
    }

    #[test]
    fn names_in_a_crt_list_lead_to_copies() {
        let (directory, copies, _) = planned(
            &["c/a.pem", "ca.pem", "list"],
            "global\n crt-base ROOT/c\nfrontend f\n bind :1 ssl crt-list ROOT/list\n",
        );
        let list = directory.path().join("list");
        let root = directory.path().display();
        fs::write(&list, format!("a.pem [ca-file {root}/ca.pem] x\n")).unwrap();
        let text = format!("global\n crt-base {root}/c\nfrontend f\n bind :1 ssl crt-list {root}/list\n");
        let copies_now = plan(&[("/a.cfg".into(), text.into_bytes())], Some(COPIES));
        let expected = format!("{COPIES}{root}/c/a.pem [ca-file {COPIES}{root}/ca.pem] x\n");
        assert_eq!(copies_now.files[&list], Some(expected.into_bytes()));
        assert_eq!((copies_now.files.len(), copies.files.len()), (3, 1));
    }

    #[test]
    fn crt_list_that_names_itself_is_followed_once() {
        let (directory, _, _) = planned(&["a.pem", "list"], "global\n");
        let (list, root) = (directory.path().join("list"), directory.path().display());
        let listed = format!("{root}/a.pem [crt-list {root}/list] crt-list {root}/list\n");
        fs::write(&list, &listed).unwrap();
        let text = format!("frontend f\n bind :1 ssl crt-list {root}/list\n");
        let copies = plan(&[("/a.cfg".into(), text.into_bytes())], Some(COPIES));
        assert_eq!(copies.files[&list], Some(format!("{COPIES}{listed}").into_bytes()));
        assert_eq!(copies.files.len(), 2);
    }

    #[test]
    fn what_is_not_copied_is_listed_and_keeps_its_name() {
        let text =
            "global\n lua-load ROOT/a.lua\nfrontend f\n bind :1 ssl crt \"${C}/a.pem\"\n acl a src -f ROOT/large\n";
        let (directory, _, _) = planned(&["a.lua"], text);
        fs::File::create(directory.path().join("large")).unwrap().set_len(LONGEST_FILE + 1).unwrap();
        let root = directory.path().display().to_string();
        let source = (directory.path().join("a.cfg"), text.replace("ROOT", &root).into_bytes());
        let copies = plan(&[source], Some(COPIES));
        assert_eq!(copies.too_large, [format!("{root}/large")]);
        assert_eq!(
            copies.not_pinned,
            ["${C}/a.pem (a variable)".into(), format!("what {root}/a.lua loads by itself (Lua)")]
        );
        let changed = String::from_utf8_lossy(&copies.configuration[0]).into_owned();
        assert!(
            changed.contains(&format!("-f {root}/large"))
                && changed.contains(&format!("lua-load {COPIES}{root}/a.lua"))
        );
    }

    #[test]
    fn directory_with_too_many_files_keeps_its_name_and_is_listed_as_too_large() {
        let (directory, _, _) = planned(&["a.pem"], "global\n");
        (0..MAX_FILES).for_each(|number| drop(fs::File::create(directory.path().join(number.to_string())).unwrap()));
        let root = directory.path().display();
        let text = format!("frontend f\n bind :1 ssl crt {root}\n");
        let copies = plan(&[("/a.cfg".into(), text.clone().into_bytes())], Some(COPIES));
        assert_eq!(copies.configuration, [text.into_bytes()]);
        assert_eq!(copies.too_large, [format!("{root} (it has more than 4096 files)")]);
        assert!(copies.files.is_empty() && copies.not_pinned.is_empty());
    }

    #[test]
    fn file_that_could_not_be_read_is_not_called_too_large() {
        let (directory, _, _) = planned(&["a.pem"], "global\n");
        let path = directory.path().join("a.pem");
        let text = format!("frontend f\n bind :1 ssl crt {}\n", path.display());
        let sources = [("/a.cfg".into(), text.into_bytes())];
        let digests = HashMap::from([(path.display().to_string(), FileDigest::unreadable(&path))]);
        let originals = Originals { sources: &sources, working_dir: Path::new("/"), digests: &digests };
        let copies = Copies::plan(&originals, Some(Path::new(COPIES)));
        assert_eq!(copies.not_pinned, [format!("{0} ({0} could not be read)", path.display())]);
        assert!(copies.too_large.is_empty() && copies.files.is_empty());
    }

    #[test]
    fn file_without_a_digest_is_not_copied() {
        let (directory, _, _) = planned(&["a.pem"], "global\n");
        let text = format!("frontend f\n bind :1 ssl crt {}/a.pem\n", directory.path().display());
        let sources = [("/a.cfg".into(), text.clone().into_bytes())];
        let originals = Originals { sources: &sources, working_dir: Path::new("/"), digests: &HashMap::new() };
        let copies = Copies::plan(&originals, Some(Path::new(COPIES)));
        assert_eq!((copies.files.len(), copies.not_pinned.len()), (0, 1));
        assert_eq!(copies.configuration, [text.into_bytes()]);
    }

    #[test]
    fn later_files_of_other_directories_keep_their_own_relative_names() {
        let line = "backend b\n errorfile 500 none\n";
        let sources = [
            ("/h/a.cfg".into(), b"global\n default-path config\n".to_vec()),
            ("/h/b.cfg".into(), line.into()),
            ("/h/d/c.cfg".into(), line.into()),
        ];
        let copies = plan(&sources, None);
        let texts: Vec<_> =
            copies.configuration.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        assert_eq!(texts[0], "global\n default-path origin \"/h\"\n");
        assert_eq!(texts[1], line);
        assert_eq!(texts[2], format!("global\n    default-path origin \"/h/d\"\n{line}"));
    }

    #[test]
    fn copies_stay_below_their_directory() {
        assert_eq!(place_of(Path::new("/a/../b/./c")), Some("b/c".into()));
        assert_eq!(place_of(Path::new("/a/../../c")), None);
        assert!(!is_plain(Path::new("/a b")) && !is_plain(Path::new("/a,b)")) && is_plain(Path::new("/var/lib/x-1")));
    }
}
