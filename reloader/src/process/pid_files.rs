//! Finds the pid files of a server: an old generation may remove the one that a new generation has written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use super::procfs::command_line;

/// Where pid files are by custom, and in directories of its own there.
const RUNTIME_DIRECTORY: &str = "/run";

/// More entries are not looked at. A machine has some hundred.
const MOST_ENTRIES: usize = 10_000;

/// The longest pid file that is read, in bytes.
const LONGEST: u64 = 32;

/// The files that name one of these processes by its pid. They are looked for in `/run`, in the directories there, and in the command lines of
/// the processes. It may block in a file system.
pub(crate) fn pid_files_of(pids: &[u32]) -> BTreeSet<PathBuf> {
    let named = pids.iter().flat_map(|pid| command_line(*pid).unwrap_or_default());
    let named = named.filter_map(|word| path_in(&word));
    let names_one = |path: &PathBuf| pid_in(path).is_some_and(|pid| pids.contains(&pid));
    named.chain(customary()).filter(|path| is_pid_file(path)).filter(names_one).collect()
}

/// `/a.pid`, or `--pid=/a.pid`.
fn path_in(word: &str) -> Option<PathBuf> {
    let start = word.find('/')?;
    (start == 0 || word[..start].ends_with('=')).then(|| word[start..].into())
}

fn is_pid_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pid")
}

fn customary() -> impl Iterator<Item = PathBuf> {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let below = move |entry: fs::DirEntry| {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let inner = is_directory.then(|| entries(&entry.path()).map(|inner| inner.path()));
        std::iter::once(entry.path()).chain(inner.into_iter().flatten())
    };
    entries(Path::new(RUNTIME_DIRECTORY)).flat_map(below).take(MOST_ENTRIES)
}

/// The pid in a regular file. A pipe with that name is not waited for.
fn pid_in(path: &Path) -> Option<u32> {
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let kind = FileType::from_raw_mode(fstat(&file).ok()?.st_mode);
    let mut text = String::new();
    (kind == FileType::RegularFile).then(|| File::from(file).take(LONGEST).read_to_string(&mut text))?.ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_file_is_found_in_a_command_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.pid");
        let word = format!("--pid-file={}", path.display());
        let mut server = std::process::Command::new("/bin/sh");
        #[expect(clippy::disallowed_methods, reason = "a test is no daemon")]
        let mut server = server.args(["-c", "read line", &word]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        fs::write(&path, format!("{}\n", server.id())).unwrap();
        let found = |pid: u32| pid_files_of(&[pid]).into_iter().filter(|found| *found == path).count();
        // The child has its own command line once it has become the shell.
        while command_line(server.id()).is_none_or(|words| !words.contains(&word)) {
            std::thread::yield_now();
        }
        assert_eq!(found(server.id()), 1);
        fs::write(&path, "1\n").unwrap();
        assert_eq!(found(server.id()), 0);
        server.kill().unwrap();
        server.wait().unwrap();
    }

    #[test]
    fn only_paths_are_taken_from_a_word() {
        for (word, path) in
            [("/a.pid", Some("/a.pid")), ("--pid=/a.pid", Some("/a.pid")), ("user/a.pid", None), ("a", None)]
        {
            assert_eq!(path_in(word), path.map(PathBuf::from), "{word}");
        }
    }
}
