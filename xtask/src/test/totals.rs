//! Stores the figures of a run, for comparison with the next run of the same kind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The figures of a successful run.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Totals {
    pub(super) phases: Vec<(String, Duration)>,
    pub(super) proofs: Vec<String>,
}

impl Totals {
    /// Reads the figures. None if there was no run, or if the file cannot be read.
    pub(super) fn read(path: &Path) -> Option<Totals> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.persist(path)?;
        Ok(())
    }

    /// The time of a phase, in seconds.
    pub(super) fn phase(&self, name: &str) -> Option<u64> {
        self.phases.iter().find(|(phase, _)| phase == name).map(|(_, took)| took.as_secs())
    }

    /// The time of all phases, in seconds.
    pub(super) fn total(&self) -> u64 {
        self.phases.iter().map(|(_, took)| *took).sum::<Duration>().as_secs()
    }
}
