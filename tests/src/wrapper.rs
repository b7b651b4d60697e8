//! Puts a script in HAProxy's place. A test changes the script's behaviour while the daemon runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::haproxy::default_program;
use crate::process::{Process, with_arguments};
use crate::script::write_script;

/// What the script does when it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Become HAProxy.
    Normal,
    /// Print a reason, and exit with an error.
    FailAtOnce,
    /// Accept a configuration when asked to check it, but exit with an error at every start.
    FailAfterCheck,
    /// Do nothing for as long as it lives.
    Hang,
    /// When asked to check a configuration, do nothing for as long as it lives. Otherwise become HAProxy.
    HangInCheck,
    /// When asked for its version, do nothing until the behaviour changes. Otherwise become HAProxy.
    HangAtVersion,
    /// Accept a configuration when asked to check it. Become HAProxy once the behaviour changes.
    WaitForChange,
    /// Become a HAProxy that serves, but lacks the stats socket that the daemon waits for.
    NoStatsSocket,
    /// Become a HAProxy that takes over no socket.
    IgnorePassedSockets,
    /// Report readiness to the daemon, and exit.
    ReadyThenExit,
    /// Send the broker a malformed request, break off a transfer half way, then become HAProxy.
    MalformedRequests,
    /// Leave a transfer unfinished for as long as HAProxy lives, and become HAProxy.
    UnfinishedTransfer,
}

/// The script. It is removed when this is dropped.
pub struct Wrapper {
    dir: tempfile::TempDir,
}

impl Wrapper {
    /// Creates a script that becomes the distribution's HAProxy.
    pub fn new() -> Wrapper {
        let wrapper = Wrapper { dir: tempfile::tempdir().expect("a temporary directory") };
        wrapper.set(Behaviour::Normal);
        let script = SCRIPT.replace("HERE", &wrapper.dir.path().display().to_string());
        let script = script.replace("HAPROXY", &default_program().display().to_string());
        write_script(&wrapper.path(), &script);
        wrapper
    }

    /// The script's path, for `Setup::haproxy_at`.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("haproxy")
    }

    /// Sets how the script behaves from now on.
    pub fn set(&self, behaviour: Behaviour) {
        let new = self.dir.path().join("new");
        fs::write(&new, format!("{behaviour:?}\n")).expect("writing");
        fs::rename(&new, self.behaviour()).expect("renaming");
    }

    fn behaviour(&self) -> PathBuf {
        self.dir.path().join("behaviour")
    }

    /// What the last start inherited, before HAProxy changed it: the soft limit of open files, and the targets of its
    /// descriptors.
    pub fn inherited(&self) -> (String, Vec<String>) {
        let text = fs::read_to_string(self.dir.path().join("inherited")).expect("a start");
        let mut lines = text.lines().map(str::to_owned);
        (lines.next().unwrap_or_default(), lines.collect())
    }

    /// Makes the script another file of the same name, as an upgrade of HAProxy does.
    pub fn upgrade(&self) {
        let new = self.dir.path().join("upgraded");
        fs::copy(self.path(), &new).expect("copying");
        fs::rename(new, self.path()).expect("renaming");
    }

    /// Whether the script was asked for its version after it was set to [`Behaviour::HangAtVersion`].
    pub fn hangs_at_version(&self) -> bool {
        self.dir.path().join("asked-version").exists()
    }

    /// Renames the script, so that no program is at its path.
    pub fn remove(&self) {
        fs::rename(self.path(), self.removed_path()).expect("renaming");
    }

    /// Gives the script its path again, after [`Wrapper::remove`].
    pub fn restore(&self) {
        fs::rename(self.removed_path(), self.path()).expect("renaming");
    }

    fn removed_path(&self) -> PathBuf {
        Path::new(self.dir.path()).join("haproxy.removed")
    }
}

/// The process of a wrapper with [`Behaviour::Hang`] or [`Behaviour::HangInCheck`] that was started with this configuration of HAProxy.
pub fn hanging_process(config: &Path) -> Option<Process> {
    with_arguments(&["hanging", &config.display().to_string()]).first().copied()
}

/// Every process that stands in for HAProxy keeps its arguments, by which a rig finds all processes that it must end.
const SCRIPT: &str = r#"#!/bin/sh
while [ "$1" = -v ] && [ "$(cat HERE/behaviour)" = HangAtVersion ]; do touch HERE/asked-version; sleep 0.02; done
[ "$1" = -v ] && exec HAPROXY -v
ask='use IO::Socket::UNIX; $s = IO::Socket::UNIX->new(Peer => $ARGV[0]); print $s "$ARGV[1]\n"; $s->flush; sysread $s, $x, 4;'
broker() {
    while [ "$1" != -x ]; do shift; done
    socket=$2
}
case " $* " in
*" -c "*) ;;
*) { ulimit -Sn; for fd in /proc/$$/fd/*; do readlink "$fd"; done; } >HERE/inherited ;;
esac
case $(cat HERE/behaviour) in
FailAtOnce)
    echo "[ALERT] the wrapper was told to die" >&2
    exit 1 ;;
FailAfterCheck)
    case " $* " in *" -c "*) exec HAPROXY "$@" ;; esac
    echo "[ALERT] the wrapper was told to die after the check" >&2
    exit 1 ;;
HangInCheck)
    case " $* " in *" -c "*) exec sh -c 'while :; do sleep 1; done' hanging "$@" ;; esac ;;
Hang)
    exec sh -c 'while :; do sleep 1; done' hanging "$@" ;;
WaitForChange)
    case " $* " in *" -c "*) exec HAPROXY "$@" ;; esac
    while [ "$(cat HERE/behaviour)" = WaitForChange ]; do sleep 0.02; done ;;
NoStatsSocket)
    for word; do
        case $word in */generation-*.cfg) sed -i '/stats socket/d' "$word" ;; esac
    done ;;
IgnorePassedSockets)
    for word; do
        shift
        case $previous:$word in -x:* | *:-x) ;; *) set -- "$@" "$word" ;; esac
        previous=$word
    done ;;
ReadyThenExit)
    for word; do
        case $word in */generation-*.cfg) own=${word%.cfg}.sock ;; esac
    done
    exec perl -e 'use IO::Socket::UNIX;
        $l = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 9); $c = $l->accept; sysread $c, $x, 99;
        print $c "Version: 2.6\nPid: $$\n";' "$own" "$@" ;;
MalformedRequests)
    broker "$@"
    perl -e "$ask" "$socket" nonsense00
    perl -e "$ask" "$socket" _getsocks ;;
UnfinishedTransfer)
    broker "$@"
    mkfifo HERE/asked$$
    perl -e "$ask"' open A, ">$ARGV[2]"; close A; sleep 1 while getppid != 1' "$socket" _getsocks HERE/asked$$ "$@" &
    read -r _ <HERE/asked$$ ;;
esac
exec HAPROXY "$@"
"#;
