//! Looks for what speaks against two generations at once: data that both would write, and other servers on the shared ports.

use std::path::{Path, PathBuf};

use crate::model::listener::Endpoint;
use crate::process::{ProcessScope, Writing, WrittenFile, pid_files_of, run_blocking, written_files};
use crate::receipt::{Failure, ReasonCode};
use crate::reload::attempt::Attempt;
use crate::sockets::foreign;
use crate::supervision::Generation;

/// Names that files of data have which are only appended to: redis (`appendonly.aof.1.incr.aof`), logs of transactions.
const DATA: [&str; 4] = ["aof", "db", "journal", "wal"];

/// The names of what is appended to are listed up to this number.
const LONGEST_LIST: usize = 3;

/// What the serving generation does to files.
#[derive(Default)]
struct Traces {
    written: Vec<WrittenFile>,
    pid_files: Vec<PathBuf>,
}

impl Attempt<'_> {
    /// Whether the ports may be shared. False where another server has one and nothing serves: the new generation then binds, or fails, as it
    /// would without.
    ///
    /// # Errors
    /// Another server has one of the ports; or two generations would write the same file, or it is not known whether they would.
    pub(super) async fn may_share(&mut self, is_served: bool) -> Result<bool, Failure> {
        if let Some(sentence) = self.listener_in_the_way(is_served).await {
            if !self.must_serve() {
                return Err(Failure::new(ReasonCode::ForeignListener, format!("{sentence}; stop it, then try again")));
            }
            self.recorder.note(format!("{sentence}: its ports are not shared with the next generation"));
            return Ok(false);
        }
        if is_served {
            self.refuse_shared_data().await?;
        }
        Ok(true)
    }

    async fn listener_in_the_way(&self, is_served: bool) -> Option<String> {
        let present = self.supervisor.present_listeners();
        let known = present.iter().map(|owned| owned.listener.inode);
        let known = known.chain(self.supervisor.custody().kept().iter().map(|kept| kept.listener.inode)).collect();
        let present = present.iter().map(|owned| owned.listener.endpoint.clone());
        let endpoints: Vec<Endpoint> =
            present.chain(self.supervisor.endpoints()).filter(Endpoint::is_tcp_here).collect();
        let generations = self.supervisor.generations();
        let own = generations.serving().into_iter().chain(generations.draining());
        let roots: Vec<u32> = own.map(|generation: &Generation| generation.process.pid()).collect();
        let look = run_blocking(move || foreign::in_the_way(&endpoints, &known, &roots, !is_served));
        self.supervisor.heartbeat().during(look).await
    }

    /// Two generations of a database must not write the same files.
    async fn refuse_shared_data(&mut self) -> Result<(), Failure> {
        let Some(serving) = self.supervisor.serving() else { return Ok(()) };
        let Some(allowed) = self.supervisor.server().shared_files() else { return Ok(()) };
        let (root, allowed) = (serving.process.pid(), allowed.to_vec());
        if allowed.iter().any(|allowed| allowed == Path::new("/")) {
            return Ok(());
        }
        let own_pid_file = self.supervisor.config().pid_file(self.supervisor.name()).map(Path::to_owned);
        let look = move || {
            let processes = ProcessScope::All.processes(root);
            let is_allowed = |path: &Path| allowed.iter().any(|allowed| path.starts_with(allowed));
            let mut written = written_files(&processes)?;
            written.retain(|file| !is_allowed(&file.path));
            let pid_files = pid_files_of(&processes).into_iter();
            let is_own = |path: &PathBuf| is_allowed(path) || own_pid_file.as_ref() == Some(path);
            Ok(Traces { written, pid_files: pid_files.filter(|path| !is_own(path)).collect() })
        };
        let looked = self.supervisor.looks().run("looking at the open files of the serving generation", look);
        let traces = self.supervisor.heartbeat().during(looked).await.map_err(|error| unseen(&error))?;
        if let Some(reason) = traces.written.iter().find_map(why_at_risk) {
            return Err(Failure::new(ReasonCode::DataAtRisk, reason));
        }
        notes(&traces).into_iter().for_each(|note| self.recorder.note(note));
        Ok(())
    }
}

fn unseen(error: &std::io::Error) -> Failure {
    let reason = format!(
        "it is not known whether two generations would write the same data: {error}; use sockets = \"replace\", or set shared-files = [\"/\"] \
         for the service if the server writes no data"
    );
    Failure::new(ReasonCode::DataAtRisk, reason)
}

/// Why a second generation would be a danger to this file, as a sentence. Pure.
fn why_at_risk(file: &WrittenFile) -> Option<String> {
    let WrittenFile { path, how, pid } = file;
    let has = match how {
        Writing::InPlace => "open for writing",
        Writing::Locked => "locked against other writers",
        Writing::Appending if is_data(path) => "open for appending, and its name is that of data",
        Writing::Appending => return None,
    };
    Some(format!(
        "process {pid} of the serving generation has {} {has}; two generations would write it at once: use sockets = \"replace\", or name it in \
         `shared-files` of the service if the server expects that",
        path.display()
    ))
}

/// What is no reason to refuse, and may be one for the operator. Pure.
fn notes(traces: &Traces) -> Vec<String> {
    let appended = traces.written.iter().filter(|file| file.how == Writing::Appending);
    let appended = appended.map(|file| file.path.as_path()).filter(|path| !is_log(path));
    let pid_files = traces.pid_files.iter().map(PathBuf::as_path);
    let appended = list(appended).map(|list| {
        format!(
            "two generations append to {list} until the old one has ended: if that is data, use sockets = \"replace\", otherwise name it in \
             `shared-files`"
        )
    });
    let pid_files = list(pid_files).map(|list| {
        format!(
            "{list} names a process of the old generation, which may remove what the new one writes there: let `pid-file` of the service name \
             another file"
        )
    });
    appended.into_iter().chain(pid_files).collect()
}

fn list<'a>(paths: impl Iterator<Item = &'a Path>) -> Option<String> {
    let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    let more = paths.len().saturating_sub(LONGEST_LIST);
    let named = paths[..paths.len() - more].join(", ");
    match (paths.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(named),
        (false, more) => Some(format!("{named} and {more} more files")),
    }
}

/// `appendonly.aof`, `state.db.1`: a part of the name behind a dot says so.
fn is_data(path: &Path) -> bool {
    name_of(path).split('.').skip(1).any(|part| DATA.contains(&part))
}

/// `web.log`, `access_log.1`, or anything below a directory `log` or `logs`.
fn is_log(path: &Path) -> bool {
    let is_log_directory = |part: &std::ffi::OsStr| part == "log" || part == "logs";
    let below = path.parent().is_some_and(|parent| parent.iter().any(is_log_directory));
    below || name_of(path).split('.').any(|part| part.ends_with("log") || matches!(part, "out" | "err"))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &str, how: Writing) -> WrittenFile {
        WrittenFile { path: path.into(), how, pid: 7 }
    }

    #[test]
    fn what_is_appended_to_is_data_or_a_log_by_its_name() {
        let refused = |path, how| why_at_risk(&written(path, how)).is_some();
        for path in ["/var/lib/redis/appendonlydir/appendonly.aof.1.incr.aof", "/srv/app.wal", "/srv/APP.DB"] {
            assert!(refused(path, Writing::Appending), "{path}");
        }
        for (path, is_noted) in [
            ("/var/log/app/messages", false),
            ("/srv/logs/a", false),
            ("/srv/error_log", false),
            ("/srv/app.log.1", false),
            ("/srv/server.out", false),
            ("/srv/events", true),
            ("/srv/catalog/events", true),
        ] {
            assert!(!refused(path, Writing::Appending) && refused(path, Writing::InPlace), "{path}");
            assert!(refused(path, Writing::Locked), "{path}");
            let traces = Traces { written: vec![written(path, Writing::Appending)], ..Traces::default() };
            let noted = notes(&traces);
            assert_eq!(noted.len(), usize::from(is_noted), "{path}");
            assert!(noted.iter().all(|note| note.contains(path)), "{noted:?}");
        }
    }

    #[test]
    fn many_files_are_counted() {
        let names = ["/a", "/b", "/c", "/d", "/e"].map(Path::new);
        assert_eq!(list(names.into_iter()).unwrap(), "/a, /b, /c and 2 more files");
        assert_eq!(list(names[..3].iter().copied()).unwrap(), "/a, /b, /c");
        assert_eq!(list(std::iter::empty()), None);
    }
}
