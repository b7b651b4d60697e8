//! The network namespace of the calling thread.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The network namespace of the calling thread, by the inode of its file in /proc.
pub(in crate::gate::hold) fn current_netns() -> io::Result<u64> {
    // /proc/thread-self came with Linux 3.17.
    let path = PathBuf::from(format!("/proc/self/task/{}/ns/net", rustix::thread::gettid()));
    Ok(std::fs::metadata(path)?.ino())
}
