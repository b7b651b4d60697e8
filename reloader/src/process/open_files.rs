//! Finds files that processes write in place, such as the data of a database: two processes that write the same one destroy it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// `O_ACCMODE` and `O_APPEND` of most architectures (proc_pid_fdinfo(5), in octal).
const ACCESS_MODE: u32 = 0o3;
const APPEND: u32 = 0o2000;

/// Files below these directories are no data: devices, the kernel's own files, and what does not outlive a boot.
const NO_DATA: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// A file that a process has open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrittenFile {
    /// The process.
    pub(crate) pid: u32,
    /// Its path.
    pub(crate) path: PathBuf,
}

/// The regular files that these processes have open for writing at any place: a log is opened for appending. Standard input, output and error are
/// left out, and files that have no name any more.
pub(crate) fn written_in_place(pids: &[u32]) -> Vec<WrittenFile> {
    let mut found: Vec<WrittenFile> = Vec::new();
    for &pid in pids {
        for (number, path) in descriptors(pid) {
            let is_data =
                number > 2 && path.is_absolute() && !NO_DATA.iter().any(|directory| path.starts_with(directory));
            if is_data && writes_in_place(pid, number) && has_a_name(pid, number) {
                found.push(WrittenFile { pid, path });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found.dedup_by(|one, other| one.path == other.path);
    found
}

fn descriptors(pid: u32) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?)))
}

fn writes_in_place(pid: u32, number: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(0);
    flags & ACCESS_MODE != 0 && flags & APPEND == 0
}

/// Whether the open file is a regular one with a name. `stat` follows the link to the file itself.
fn has_a_name(pid: u32, number: u32) -> bool {
    let file = fs::metadata(format!("/proc/{pid}/fd/{number}"));
    file.is_ok_and(|file| file.is_file() && file.nlink() > 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};

    use super::*;

    #[test]
    fn only_files_that_are_written_in_place_are_found() {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = |name: &str| directory.path().join(name);
        let _data = File::create(path("data")).unwrap();
        let _log = OpenOptions::new().create(true).append(true).open(path("log")).unwrap();
        File::create(path("read")).unwrap();
        let _read = File::open(path("read")).unwrap();
        let _removed = File::create(path("removed")).unwrap();
        fs::remove_file(path("removed")).unwrap();
        let found = written_in_place(&[std::process::id()]);
        let ours: Vec<_> =
            found.into_iter().map(|file| file.path).filter(|path| path.starts_with(directory.path())).collect();
        assert_eq!(ours, [path("data")]);
    }
}
