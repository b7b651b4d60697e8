//! Describes the file as it is written: its tables, keys and defaults. Unknown keys are refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::service::Service;
use super::settings::{Config, Haproxy, Hold, Reload, UnitCommand};
use super::size::Size;
use super::span::{Limit, OrAuto, OrOff, Span, SpreadTime};
use super::values::{AtMaxDraining, LastKnownGood, Mode, OnStop, Overlap, Require, Strategy};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct File {
    control_socket: PathBuf,
    control_group: String,
    runtime_dir: PathBuf,
    state_dir: PathBuf,
    on_stop: OnStop,
    haproxy: Option<HaproxyTable>,
    service: BTreeMap<String, Service>,
    reload: ReloadTable,
    hold: HoldTable,
}

impl Default for File {
    fn default() -> File {
        File {
            control_socket: "/run/reloader/control.sock".into(),
            control_group: "root".into(),
            runtime_dir: "/run/reloader".into(),
            state_dir: "/var/lib/reloader".into(),
            // When PID 1 of a container ends, the kernel kills everything else. So it drains first.
            on_stop: if crate::process::is_init() { OnStop::Retire } else { OnStop::Leave },
            haproxy: None,
            service: BTreeMap::new(),
            reload: ReloadTable::default(),
            hold: HoldTable::default(),
        }
    }
}

/// A path, or `"none"`.
#[derive(Debug, Clone)]
struct PathOrNone(Option<PathBuf>);

impl<'de> Deserialize<'de> for PathOrNone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PathOrNone, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(PathOrNone((text != "none").then(|| text.into())))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct HaproxyTable {
    binary: PathBuf,
    config: Vec<PathBuf>,
    args: Vec<String>,
    mode: Mode,
    master_cli: PathOrNone,
    pid_file: PathOrNone,
    last_known_good: LastKnownGood,
    overlap: Overlap,
    command_line: String,
    environment_files: Vec<String>,
    default_environment: BTreeMap<String, String>,
    after: Vec<String>,
}

impl Default for HaproxyTable {
    fn default() -> HaproxyTable {
        HaproxyTable {
            binary: "/usr/sbin/haproxy".into(),
            config: vec!["/etc/haproxy/haproxy.cfg".into()],
            args: Vec::new(),
            mode: Mode::Supervised,
            master_cli: PathOrNone(None),
            pid_file: PathOrNone(None),
            last_known_good: LastKnownGood::WithFiles,
            overlap: Overlap::Auto,
            command_line: "none".into(),
            environment_files: Vec::new(),
            default_environment: BTreeMap::new(),
            after: Vec::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct ReloadTable {
    strategy: Strategy,
    require: Require,
    start_timeout: Span,
    first_start_timeout: Span,
    drain_timeout: Span,
    min_interval: Span,
    hard_stop_after: Limit,
    max_draining: usize,
    at_max_draining: AtMaxDraining,
    custody_max: OrAuto,
    close_spread_time: SpreadTime,
    count_syns: bool,
    probe_connect: OrOff,
}

impl Default for ReloadTable {
    fn default() -> ReloadTable {
        ReloadTable {
            strategy: Strategy::Auto,
            require: Require::BestEffort,
            start_timeout: Span(Duration::from_secs(30)),
            first_start_timeout: Span(Duration::from_secs(90)),
            drain_timeout: Span(Duration::from_secs(2)),
            min_interval: Span(Duration::ZERO),
            hard_stop_after: Limit::Never,
            max_draining: 0,
            at_max_draining: AtMaxDraining::Wait,
            custody_max: OrAuto(None),
            close_spread_time: SpreadTime::Given("2s".into()),
            count_syns: false,
            probe_connect: OrOff(None),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct HoldTable {
    max: Span,
    capacity: Size,
}

impl Default for HoldTable {
    fn default() -> HoldTable {
        HoldTable { max: Span(Duration::from_secs(5)), capacity: Size(16 << 20) }
    }
}

impl From<HaproxyTable> for Haproxy {
    fn from(table: HaproxyTable) -> Haproxy {
        let HaproxyTable { binary, config, args, mode, master_cli, pid_file, last_known_good, command_line, .. } =
            table;
        let (environment_files, default_environment) = (table.environment_files, table.default_environment);
        let unit_command = (command_line != "none").then_some(UnitCommand {
            line: command_line,
            environment_files,
            default_environment,
        });
        let (PathOrNone(master_cli), PathOrNone(pid_file)) = (master_cli, pid_file);
        Haproxy {
            binary,
            config,
            args,
            mode,
            master_cli,
            pid_file,
            last_known_good,
            overlap: table.overlap,
            unit_command,
            environment: BTreeMap::new(),
            after: table.after,
        }
    }
}

impl Default for Haproxy {
    fn default() -> Haproxy {
        HaproxyTable::default().into()
    }
}

impl From<File> for Config {
    fn from(file: File) -> Config {
        let haproxy = file.haproxy.or_else(|| file.service.is_empty().then(HaproxyTable::default));
        let reload = file.reload;
        Config {
            control_socket: file.control_socket,
            control_group: file.control_group,
            runtime_dir: file.runtime_dir,
            state_dir: file.state_dir,
            on_stop: file.on_stop,
            haproxy: haproxy.map(Haproxy::from),
            services: file.service,
            reload: Reload {
                strategy: reload.strategy,
                require: reload.require,
                start_timeout: reload.start_timeout.0,
                first_start_timeout: reload.first_start_timeout.0,
                drain_timeout: reload.drain_timeout.0,
                min_interval: reload.min_interval.0,
                hard_stop_after: reload.hard_stop_after,
                max_draining: reload.max_draining,
                at_max_draining: reload.at_max_draining,
                custody_max: reload.custody_max.0,
                close_spread_time: reload.close_spread_time,
                count_syns: reload.count_syns,
                probe_connect: reload.probe_connect.0,
            },
            hold: Hold { max: file.hold.max.0, capacity: file.hold.capacity.0 },
        }
    }
}
