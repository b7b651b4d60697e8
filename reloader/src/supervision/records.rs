//! Reads and writes the record of running generations, `runtime-dir/generations.json`. The next daemon needs it if this
//! one is killed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::Stop;
use crate::fs::generation_files::LAST_NUMBER;
use crate::fs::write_whole;
use crate::haproxy::drain_times::DrainTimes;

/// What a generation was doing when it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Started, not proven yet.
    Starting,
    /// Serving.
    Serving,
    /// Retired, with open connections.
    Draining,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct GenerationRecord {
    /// Its number.
    pub(crate) number: u64,
    /// Its root process.
    pub(crate) pid: u32,
    /// The start time of that process in clock ticks since boot.
    pub(crate) start_time: u64,
    /// True if its root process is a master, which has no listeners of its own.
    #[serde(default)]
    pub(crate) has_workers: bool,
    /// What it was doing.
    pub(crate) state: State,
    /// The stats socket it answers on.
    pub(crate) socket: PathBuf,
    /// The configuration or command from which it was started, for people.
    pub(crate) config: String,
    /// When it was started, in seconds since 1970.
    pub(crate) since: u64,
    /// When it was retired, in seconds since 1970.
    #[serde(default)]
    pub(crate) retired: Option<u64>,
    /// Its configuration says `noreuseport`.
    #[serde(default)]
    pub(crate) noreuseport: bool,
    /// The user as which it was to open its sockets, by its configuration.
    #[serde(default)]
    pub(crate) binds_as: Option<u32>,
    /// HAProxy's own `hard-stop-after`, in milliseconds.
    #[serde(default)]
    pub(crate) hard_stop_after_ms: Option<u64>,
    /// HAProxy's `grace`, in milliseconds.
    #[serde(default)]
    pub(crate) grace_ms: Option<u64>,
    /// How it is asked to end, as configured when it was started; `None` for HAProxy.
    #[serde(default)]
    pub(crate) stop: Option<Stop>,
    /// True if a receipt says already what its end cuts.
    #[serde(default)]
    pub(crate) end_is_recorded: bool,
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct GenerationRecords {
    /// The number of the next generation.
    pub(crate) next: u64,
    /// How long the last start took, in milliseconds: custody-max follows from it.
    #[serde(default)]
    pub(crate) last_start_ms: Option<u64>,
    /// True if the generations are workers of a master that the daemon did not start.
    #[serde(default)]
    pub(crate) companion: bool,
    /// The generations that were running.
    pub(crate) generations: Vec<GenerationRecord>,
    /// The sockets in custody that have O_NONBLOCK, by inode.
    #[serde(default)]
    pub(crate) nonblocking: Vec<u64>,
}

impl GenerationRecord {
    /// When it was retired. `None` if it was not, or before this machine was booted, or if the number is impossible.
    pub(crate) fn retired_at(&self) -> Option<Instant> {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.retired?))?;
        Instant::now().checked_sub(at.elapsed().unwrap_or_default())
    }

    /// When it was started. The epoch if the number is impossible.
    pub(crate) fn since(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.since)).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The times by which the generation itself bounds its end.
    pub(crate) fn drain_times(&self) -> DrainTimes {
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        DrainTimes { grace: time(self.grace_ms), hard_stop_after: time(self.hard_stop_after_ms) }
    }
}

impl GenerationRecords {
    /// Reads the file. A missing or damaged file gives an empty record, and a damaged one also a warning.
    pub(crate) fn load(runtime_dir: &Path) -> GenerationRecords {
        let path = file(runtime_dir);
        let Ok(bytes) = std::fs::read(&path) else { return GenerationRecords::default() };
        let records = serde_json::from_slice(&bytes).map(without_impossible_numbers);
        records.unwrap_or_else(|error| {
            log::warn!("{} is damaged ({error}); looking for running generations in /proc", path.display());
            GenerationRecords::default()
        })
    }

    /// Writes the file.
    pub(crate) fn store(&self, runtime_dir: &Path) -> io::Result<()> {
        write_whole(&file(runtime_dir), &serde_json::to_vec_pretty(self)?)
    }
}

/// Corrects or removes impossible numbers. The next number follows from the recorded ones, and an earlier version could
/// be made to record any number.
fn without_impossible_numbers(mut records: GenerationRecords) -> GenerationRecords {
    records.next = records.next.clamp(1, LAST_NUMBER);
    records.generations.retain(|record| {
        let is_possible = record.number <= LAST_NUMBER;
        if !is_possible {
            log::warn!(
                "the recorded generation number {} is impossible: process {} is not followed",
                record.number,
                record.pid
            );
        }
        is_possible
    });
    records
}

fn file(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("generations.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with these entries beside the necessary ones.
    fn record(more: serde_json::Value) -> GenerationRecord {
        let mut all = serde_json::json!({
            "number": 7, "pid": 1, "start-time": 1, "state": "draining", "socket": "", "config": "", "since": 1
        });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn impossible_times_of_a_damaged_file_are_not_followed() {
        let damaged = record(serde_json::json!({ "since": u64::MAX, "retired": u64::MAX }));
        assert_eq!((damaged.retired_at(), damaged.since()), (None, SystemTime::UNIX_EPOCH));
    }
}
