//! The ports of a hold, in the form in which the guard gets them.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::gate::contract::{Exception, Target};

/// The longest text of [`Ports`], in bytes. The maps of a gate have room for fewer ports.
const MAX_TEXT: u64 = 16 << 20;

/// What is held, and what listened there before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::gate::hold) struct Ports {
    /// The listeners whose SYNs are held.
    pub(in crate::gate::hold) targets: Vec<Target>,
    /// Listeners of other servers, which never count.
    pub(in crate::gate::hold) exceptions: Vec<Exception>,
    /// The old server's listeners by inode, which count until it leaves.
    pub(in crate::gate::hold) old: HashSet<u64>,
}

impl Ports {
    /// Writes the ports to a file in memory: they are too many for one message.
    pub(in crate::gate::hold) fn to_file(&self) -> io::Result<File> {
        let mut file: File = memfd_create("reloader-ports", MemfdFlags::CLOEXEC)?.into();
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file)
    }

    /// Reads the ports from the file.
    pub(super) fn from_file(mut file: File) -> io::Result<Ports> {
        // The position is shared with the holder, and with an earlier guard.
        file.rewind()?;
        let mut text = Vec::new();
        file.take(MAX_TEXT).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_reads_any_number_of_ports_more_than_once() {
        let target = |port| Target {
            address: format!("[2001:db8:1111:2222:3333:4444:5555:6666]:{port}").parse().unwrap(),
            v6only: false,
            interface: 0,
        };
        let targets = (1..=60_000).map(target).collect();
        let ports = Ports { targets, exceptions: Vec::new(), old: HashSet::from([7]) };
        let file = ports.to_file().unwrap();
        for _ in 0..2 {
            let read = Ports::from_file(file.try_clone().unwrap()).unwrap();
            assert_eq!((read.targets.len(), read.old), (60_000, ports.old.clone()));
        }
    }
}
