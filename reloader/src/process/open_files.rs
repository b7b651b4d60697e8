//! Finds the files that processes may write, such as the data of a database: two processes that write the same one destroy it.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, open, openat, readlinkat, statx};
use rustix::io::Errno;

use super::sockets::tables_of;

/// `O_ACCMODE` and `O_APPEND` of most architectures (proc_pid_fdinfo(5), in octal).
const ACCESS_MODE: u32 = 0o3;
const APPEND: u32 = 0o2000;

/// Files below these directories are the kernel's own.
const KERNEL_FILES: [&str; 2] = ["/proc", "/sys"];

/// More descriptors than these are not read. It is what one process may have by default (`fs.nr_open`).
const MOST_DESCRIPTORS: usize = 1 << 20;

/// How a process may write a file that it has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Writing {
    /// At any place.
    InPlace,
    /// It holds a lock against other writers, however it has opened the file.
    Locked,
    /// At its end only, without a lock.
    Appending,
}

/// A file that a process may write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WrittenFile {
    /// Its path.
    pub(crate) path: PathBuf,
    /// How it is written.
    pub(crate) how: Writing,
    /// The process.
    pub(crate) pid: u32,
}

/// The files that these processes may write, and directories that they have locked, in the order of their paths. Standard input, output and error are left out, and files that
/// have no name any more. It may block in the file system of an open file.
///
/// # Errors
/// Where `/proc` hides what a process has open, or where there are too many descriptors. The text is a sentence.
pub(crate) fn written_files(pids: &[u32]) -> io::Result<Vec<WrittenFile>> {
    files_within(pids, MOST_DESCRIPTORS)
}

fn files_within(pids: &[u32], most: usize) -> io::Result<Vec<WrittenFile>> {
    let (mut found, mut left) = (Vec::new(), most);
    for &pid in pids {
        for thread in tables_of(pid) {
            match Table::open(pid, thread).and_then(|table| table.add_files(&mut left, &mut found)) {
                Ok(()) => {}
                Err(Stop::At(Errno::NOENT | Errno::SRCH)) => {} // It has ended.
                Err(Stop::At(Errno::ACCESS | Errno::PERM)) => {
                    return Err(io::Error::other(format!(
                        "the daemon may not see which files process {pid} has open (CAP_SYS_PTRACE)"
                    )));
                }
                Err(Stop::At(errno)) => {
                    return Err(io::Error::other(format!("the open files of process {pid} cannot be read: {errno}")));
                }
                Err(Stop::TooMany) => {
                    return Err(io::Error::other(format!("its processes have more than {most} descriptors")));
                }
            }
        }
    }
    found.sort();
    found.dedup_by(|one, other| one.path == other.path);
    Ok(found)
}

/// Why a table was not read to its end.
enum Stop {
    At(Errno),
    TooMany,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::At(errno)
    }
}

/// The descriptor table of a thread. Entries are read relative to its directories: to resolve a path from `/` for each takes longer.
struct Table {
    pid: u32,
    links: OwnedFd,
    details: OwnedFd,
}

impl Table {
    fn open(pid: u32, thread: u32) -> Result<Table, Stop> {
        let directory = |name: &str| {
            let path = format!("/proc/{pid}/task/{thread}/{name}");
            open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        };
        Ok(Table { pid, links: directory("fd")?, details: directory("fdinfo")? })
    }

    fn add_files(&self, left: &mut usize, found: &mut Vec<WrittenFile>) -> Result<(), Stop> {
        let mut buffer = Vec::new();
        for entry in Dir::read_from(&self.links)? {
            let entry = entry?;
            let number = entry.file_name();
            let value = number.to_str().ok().and_then(|number| number.parse::<u32>().ok());
            if value.is_none_or(|value| value <= 2) {
                continue;
            }
            *left = left.checked_sub(1).ok_or(Stop::TooMany)?;
            let target = match readlinkat(&self.links, number, std::mem::take(&mut buffer)) {
                // It was closed meanwhile.
                Err(Errno::NOENT) => continue,
                target => target?,
            };
            if let Some(path) = path_in(&target)
                && let Some(how) = self.writing(number)
                && self.has_a_name(number)
            {
                found.push(WrittenFile { path, how, pid: self.pid });
            }
            buffer = target.into_bytes();
        }
        Ok(())
    }

    /// `None` where the process can only read. The locks are those of this open file: unlike /proc/locks, which names files by a device that
    /// stat(2) does not know on overlayfs and btrfs.
    fn writing(&self, number: &CStr) -> Option<Writing> {
        let mut text = String::new();
        let details = openat(&self.details, number, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        File::from(details).read_to_string(&mut text).ok()?;
        writing_of(&text)
    }

    /// Whether the open file is a regular one, or a directory, and has a name. The link leads to the file itself. The kernel does not ask a remote
    /// file system where it can help it. A file that cannot be looked at counts.
    fn has_a_name(&self, number: &CStr) -> bool {
        match statx(&self.links, number, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::NLINK) {
            Ok(file) => {
                let kind = FileType::from_raw_mode(file.stx_mode.into());
                matches!(kind, FileType::RegularFile | FileType::Directory) && file.stx_nlink > 0
            }
            Err(errno) => errno != Errno::NOENT,
        }
    }
}

/// The path of a file; `None` for a socket, a pipe, and files of the kernel.
fn path_in(target: &CStr) -> Option<PathBuf> {
    let path = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
    (path.is_absolute() && !KERNEL_FILES.iter().any(|directory| path.starts_with(directory))).then_some(path)
}

/// Reads proc_pid_fdinfo(5). Pure.
fn writing_of(fdinfo: &str) -> Option<Writing> {
    let mut flags = 0;
    for line in fdinfo.lines() {
        match line.split_once(':') {
            Some(("flags", value)) => flags = u32::from_str_radix(value.trim(), 8).unwrap_or(0),
            // `1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF`; leases look the same.
            Some(("lock", lock)) if lock.split_whitespace().any(|word| word == "WRITE") => {
                return Some(Writing::Locked);
            }
            _ => {}
        }
    }
    match (flags & ACCESS_MODE != 0, flags & APPEND != 0) {
        (false, _) => None,
        (true, false) => Some(Writing::InPlace),
        (true, true) => Some(Writing::Appending),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn files_that_are_only_read_or_have_no_name_are_left_out() {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = |name: &str| directory.path().join(name);
        let locked = |name: &str, kind: FlockOperation| {
            let file = File::open(path(name)).unwrap();
            flock(&file, kind).unwrap();
            file
        };
        let _data = File::create(path("data")).unwrap();
        let _log = OpenOptions::new().create(true).append(true).open(path("log")).unwrap();
        for name in ["locked", "read", "shared"] {
            File::create(path(name)).unwrap();
        }
        fs::create_dir(path("directory")).unwrap();
        let _read = File::open(path("read")).unwrap();
        let (_shared, _locked) =
            (locked("shared", FlockOperation::LockShared), locked("locked", FlockOperation::LockExclusive));
        let _directory = locked("directory", FlockOperation::LockExclusive);
        let _removed = File::create(path("removed")).unwrap();
        fs::remove_file(path("removed")).unwrap();
        let found = written_files(&[std::process::id()]).unwrap().into_iter();
        let ours = found.filter(|file| file.path.starts_with(directory.path()));
        let ours: Vec<_> = ours.map(|file| (file.path, file.how)).collect();
        let expected = [
            ("data", Writing::InPlace),
            ("directory", Writing::Locked),
            ("locked", Writing::Locked),
            ("log", Writing::Appending),
        ];
        assert_eq!(ours, expected.map(|(name, how)| (path(name), how)));
    }

    #[test]
    fn more_descriptors_than_may_be_read_are_an_error() {
        let _one = File::open("/dev/null").unwrap();
        let error = files_within(&[std::process::id()], 0).unwrap_err().to_string();
        assert!(error.contains("more than 0 descriptors"), "{error}");
    }

    #[test]
    fn locks_against_writers_are_found_whatever_their_kind() {
        let writing = |lock: &str| writing_of(&format!("pos:\t0\nflags:\t0100000\nmnt_id:\t9\n{lock}"));
        for kind in ["POSIX  ADVISORY ", "OFDLCK ADVISORY ", "FLOCK  ADVISORY ", "LEASE  ACTIVE   "] {
            assert_eq!(writing(&format!("lock:\t1: {kind} WRITE 359 00:13:11 0 EOF\n")), Some(Writing::Locked));
            assert_eq!(writing(&format!("lock:\t1: {kind} READ 359 00:13:11 0 EOF\n")), None);
        }
        assert_eq!(writing(""), None);
    }
}
