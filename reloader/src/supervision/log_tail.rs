//! Reads what a generation writes on standard error, for the operator and for the log, and keeps the file small.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The file is truncated once all of it was forwarded and it is larger than this many bytes.
const CUT_AT: u64 = 1 << 20;

/// A reader that remembers its position.
#[derive(Debug)]
pub(crate) struct LogTail {
    path: PathBuf,
    read: u64,
}

impl LogTail {
    /// Reads `path` from its beginning, or from its end if an earlier daemon has forwarded its content.
    pub(crate) fn new(path: &Path, skip_past: bool) -> LogTail {
        let read = if skip_past { std::fs::metadata(path).map_or(0, |metadata| metadata.len()) } else { 0 };
        LogTail { path: path.to_owned(), read }
    }

    /// The lines written since the last call.
    pub(crate) fn new_lines(&mut self) -> Vec<String> {
        self.lines(false)
    }

    /// The lines written since the last call by a process that has ended. The last line may lack its line break.
    pub(crate) fn last_lines(&mut self) -> Vec<String> {
        self.lines(true)
    }

    fn lines(&mut self, to_the_end: bool) -> Vec<String> {
        self.try_lines(to_the_end).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                log::warn!("cannot read {}: {error}", self.path.display());
            }
            Vec::new()
        })
    }

    fn try_lines(&mut self, to_the_end: bool) -> io::Result<Vec<String>> {
        let length = std::fs::metadata(&self.path)?.len();
        if length <= self.read {
            self.read = length;
            return Ok(Vec::new());
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // A line that is still being written is returned once it is complete, or once it is too long.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        if !to_the_end && (whole > 0 || (bytes.len() as u64) < CUT_AT) {
            bytes.truncate(whole);
        }
        self.read += bytes.len() as u64;
        if self.read > CUT_AT && self.read == file.metadata()?.len() {
            file.set_len(0)?;
            self.read = 0;
        }
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_returned_once_and_the_file_stays_small() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let append = |text: &str| {
            let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
            io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        };
        let mut tail = LogTail::new(&path, false);
        assert!(tail.new_lines().is_empty());
        append("one\ntwo\n");
        assert_eq!(tail.new_lines(), ["one", "two"]);
        assert!(tail.new_lines().is_empty());
        append(&"x\n".repeat(600_000));
        assert_eq!(tail.new_lines().len(), 600_000);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        append("after\nhal");
        assert_eq!(tail.new_lines(), ["after"]);
        append("f");
        assert_eq!((tail.new_lines(), tail.last_lines()), (vec![], vec!["half".to_owned()]));
    }
}
