//! Holds the measured figures, from which tables, plots and reports are made. Pure, except for reading a file.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use reloader_tests::bench::{Figures, Way};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::plan::Load;

/// If one connection in a hundred starts later than this, in microseconds, the generator was not an open loop.
const LATE_P99: u64 = 10_000;
/// If any connection starts later than this, in microseconds, the generator was not an open loop.
const LATE_MAX: u64 = 250_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Document {
    pub(super) machine: Machine,
    pub(super) load: Load,
    pub(super) rows: Vec<Row>,
}

/// The result of one way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Row {
    pub(super) way: Way,
    /// The guest's kernel, if the way was not run on this machine's kernel.
    pub(super) guest: Option<String>,
    /// The machine, if the way was measured at another time or on another machine than the other rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) machine: Option<Machine>,
    /// Why the way was not run, or not completed.
    pub(super) not_run: Option<String>,
    /// Whether the reason is an error.
    pub(super) failed: bool,
    /// Why the figures are in doubt.
    pub(super) doubt: Option<String>,
    /// The most important figures.
    pub(super) headline: Option<Headline>,
    /// All figures.
    pub(super) figures: Option<Figures>,
}

/// The figures of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Headline {
    pub(super) connections: u64,
    pub(super) reloads: u64,
    pub(super) lost: u64,
    pub(super) lost_per_million: f64,
    pub(super) late_per_million: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) p999_us: u64,
    pub(super) max_us: u64,
    /// The time of all processors, for a million connections and the reloads among them.
    pub(super) cpu_seconds_per_million: f64,
    /// The median time of a reload.
    pub(super) seconds_per_reload: f64,
    pub(super) seconds_of_the_longest_reload: f64,
}

impl Document {
    pub(super) fn read(file: &Path) -> Result<Document> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{} is no bench.json of this version", file.display()))
    }

    pub(super) fn json(&self) -> Result<String> {
        // A row's figures are long, so each row is one line.
        let rows: Vec<String> = self.rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let (machine, load) = (serde_json::to_string(&self.machine)?, serde_json::to_string(&self.load)?);
        Ok(format!("{{\n\"machine\":{machine},\n\"load\":{load},\n\"rows\":[\n{}\n]}}\n", rows.join(",\n")))
    }

    /// Replaces rows by these, which were measured on `machine`.
    pub(super) fn with(mut self, rows: Vec<Row>, machine: &Machine) -> Document {
        self.rows.retain(|row| rows.iter().all(|new| new.way != row.way));
        let machine = (*machine != self.machine).then_some(machine);
        self.rows.extend(rows.into_iter().map(|row| Row { machine: machine.cloned(), ..row }));
        self.rows.sort_by_key(|row| row.way);
        self
    }

    /// The rows that can be compared: measured without a doubt, on this machine's own kernel. The row with most losses comes first; of two
    /// rows with equal losses, the slower one.
    pub(super) fn ranked(&self) -> Vec<&Row> {
        let can_be = |row: &&Row| row.guest.is_none() && row.doubt.is_none() && row.headline.is_some();
        let mut rows: Vec<&Row> = self.rows.iter().filter(can_be).collect();
        let rank = |row: &Row| {
            let headline = row.headline.as_ref().expect("only rows with a headline were selected");
            // The worse row has the smaller rank.
            (-headline.lost_per_million, -headline.late_per_million, -(headline.p999_us as f64))
        };
        rows.sort_by(|one, other| rank(one).partial_cmp(&rank(other)).unwrap_or(std::cmp::Ordering::Equal));
        rows
    }
}

impl Row {
    pub(super) fn not_run(way: Way, reason: &str) -> Row {
        Row {
            way,
            guest: None,
            machine: None,
            not_run: Some(reason.into()),
            failed: false,
            doubt: None,
            headline: None,
            figures: None,
        }
    }

    pub(super) fn failed(way: Way, reason: &str) -> Row {
        Row { failed: true, ..Row::not_run(way, reason) }
    }

    pub(super) fn measured(way: Way, figures: Figures) -> Row {
        let headline = Some(headline(&figures));
        Row { not_run: None, doubt: doubt(way, &figures), headline, figures: Some(figures), ..Row::not_run(way, "") }
    }
}

fn headline(figures: &Figures) -> Headline {
    let per_million = |count: u64| count as f64 * 1e6 / figures.connections.max(1) as f64;
    let seconds = |micros: u64| micros as f64 / 1e6;
    Headline {
        connections: figures.connections,
        reloads: figures.reloads_us.len() as u64,
        lost: figures.lost(),
        lost_per_million: per_million(figures.lost()),
        late_per_million: per_million(figures.late),
        p50_us: figures.latency_at(0.5),
        p99_us: figures.latency_at(0.99),
        p999_us: figures.latency_at(0.999),
        max_us: figures.latency_at(1.0),
        cpu_seconds_per_million: per_million(figures.cpu_us) / 1e6,
        seconds_per_reload: seconds(figures.reload_at(0.5)),
        seconds_of_the_longest_reload: seconds(figures.reload_at(1.0)),
    }
}

fn doubt(way: Way, figures: &Figures) -> Option<String> {
    let (p99, max) = (figures.lag_at(0.99), figures.lag_at(1.0));
    let reloads = figures.reloads_us.len() as u64;
    if figures.own_failures > 0 {
        let failures = figures.own_failures;
        return Some(format!("{failures} connections failed because the generator ran out of ports or descriptors"));
    }
    if p99 > LATE_P99 || max > LATE_MAX {
        let ms = |micros: u64| micros as f64 / 1e3;
        return Some(format!(
            "the generator fell behind its schedule: one start in a hundred was more than {:.0} ms late, the latest {:.0} ms",
            ms(p99),
            ms(max)
        ));
    }
    if way.rung().is_some() && figures.proven < reloads {
        return Some(format!("{} of {reloads} reloads were proven by the intended rung", figures.proven));
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn figures(way: Way, refused: u64, slowest: u64) -> Figures {
        Figures {
            connections: 10_000,
            lost: [("refused".to_owned(), refused)].into(),
            latency: vec![(200, 9_000 - refused), (3_000, 980), (slowest, 20)],
            lag: vec![(100, 10_000)],
            rate: 4_000,
            reloads_us: vec![30_000, 50_000, 40_000],
            proven: if way.rung().is_some() { 3 } else { 0 },
            cpu_us: 1_500_000,
            around: (0..80)
                .map(|index| reloader_tests::bench::Moment {
                    connections: 60,
                    lost: if index == 12 { refused.min(60) } else { 0 },
                    slowest_us: if index == 12 && refused >= 60 { 0 } else { 300 + index * 10 },
                })
                .collect(),
            ..Figures::default()
        }
    }

    /// A document with each kind of row.
    pub(in crate::bench) fn sample() -> Document {
        let rows = Way::ALL.into_iter().map(|way| match way {
            Way::KillAndStart => Row::measured(way, figures(way, 70, 4_000)),
            Way::SynsDropped => Row::measured(way, Figures { late: 9, ..figures(way, 0, 1_005_000) }),
            Way::MasterWorker => Row::failed(way, "in round 2: waited 20s for <another> worker"),
            Way::HeldQdisc => Row { guest: Some("6.12.1-cloud".into()), ..Row::measured(way, figures(way, 0, 90_000)) },
            Way::Steered => Row::measured(way, Figures { lag: vec![(300_000, 10_000)], ..figures(way, 0, 5_000) }),
            Way::Passed => Row::measured(way, figures(way, 0, 3_500)),
            _ => Row::measured(way, figures(way, 1, 40_000)),
        });
        Document {
            machine: Machine::sample(),
            load: Load { connections: 10_000, reloads: 3, rate: 4_000, rounds: 3, others_rounds: 3 },
            rows: rows.collect(),
        }
    }

    #[test]
    fn ranking_begins_with_most_losses_and_ends_with_the_fastest_lossless_way() {
        let sample = sample();
        let ranked = sample.ranked();
        assert_eq!(ranked.first().unwrap().way, Way::KillAndStart);
        assert_eq!(ranked.last().unwrap().way, Way::Passed);
        let incomparable = [Way::HeldQdisc, Way::MasterWorker, Way::Steered];
        assert!(ranked.iter().all(|row| !incomparable.contains(&row.way)));
    }

    #[test]
    fn row_measured_again_replaces_the_old_one_and_names_its_machine() {
        let again = || vec![Row::measured(Way::MasterWorker, figures(Way::MasterWorker, 0, 4_000))];
        let same = sample().with(again(), &Machine::sample());
        let later = sample().with(again(), &Machine { day: "2026-11-24".into(), ..Machine::sample() });
        assert_eq!(later.rows.iter().map(|row| row.way).collect::<Vec<_>>(), Way::ALL);
        let row = |document: &Document| document.rows.iter().find(|row| row.way == Way::MasterWorker).cloned().unwrap();
        assert!(!row(&same).failed && row(&same).machine.is_none());
        assert_eq!(row(&later).machine.unwrap().day, "2026-11-24");
        assert_eq!(later.rows.iter().filter(|row| row.machine.is_some()).count(), 1);
    }

    #[test]
    fn document_survives_writing_and_reading() {
        let (directory, sample) = (tempfile::tempdir().unwrap(), sample());
        let file = directory.path().join("bench.json");
        fs::write(&file, sample.json().unwrap()).unwrap();
        let again = Document::read(&file).unwrap();
        assert_eq!(again.json().unwrap(), sample.json().unwrap());
        assert_eq!(again.rows[0].headline.as_ref().unwrap().lost_per_million, 7_000.0);
    }

    #[test]
    fn late_generator_and_unproven_reloads_are_doubted() {
        let sample = sample();
        let doubt = |way| sample.rows.iter().find(|row| row.way == way).unwrap().doubt.clone();
        assert!(doubt(Way::Steered).unwrap().contains("fell behind"));
        assert_eq!(doubt(Way::Passed), None);
        let unproven = Figures { proven: 2, ..figures(Way::Passed, 0, 1) };
        assert!(super::doubt(Way::Passed, &unproven).unwrap().starts_with("2 of 3 reloads were proven"));
        assert_eq!(super::doubt(Way::SoftStop, &unproven), None);
    }
}
