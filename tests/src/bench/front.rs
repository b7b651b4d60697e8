//! nginx (`stream`) before HAProxy: it owns the port, and connects to HAProxy over a Unix socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reloader::kernel::sock_diag;
use reloader::model::listener::Address;

use super::server::WEB;
use crate::poll::until;
use crate::versions::nginx::default_program;

/// Debian's package libnginx-mod-stream.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

const START: Duration = Duration::from_secs(20);

/// nginx and its directory. It ends with this value.
pub(super) struct Front {
    dir: tempfile::TempDir,
    master: Option<Child>,
}

impl Front {
    /// A directory with nginx's configuration.
    pub(super) fn prepare() -> Front {
        assert!(Path::new(MODULE).exists(), "no nginx with `stream`: install nginx and libnginx-mod-stream");
        let dir = tempfile::Builder::new().prefix("front-").tempdir().expect("a temporary directory");
        let front = Front { dir, master: None };
        fs::write(front.dir.path().join("nginx.conf"), front.configuration()).expect("writing nginx.conf");
        front
    }

    /// Where HAProxy has to listen.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("web.sock")
    }

    /// Starts nginx, and waits until it listens.
    pub(super) fn start(mut self) -> Front {
        let mut command = Command::new(default_program());
        command.arg("-e").arg(self.dir.path().join("error.log")).arg("-c").arg(self.dir.path().join("nginx.conf"));
        command.stdin(Stdio::null());
        self.master = Some(command.spawn().unwrap_or_else(|error| panic!("nginx: {error}")));
        let web = Address::Inet(WEB.parse().expect("an address"));
        let listens = || sock_diag::tcp_listeners().expect("sock_diag").iter().any(|found| found.address == web);
        until(START, "nginx to listen", listens);
        self
    }

    fn configuration(&self) -> String {
        let (dir, path) = (self.dir.path().display(), self.path());
        format!(
            "load_module {MODULE};\ndaemon off; user root; worker_processes 1; pid {dir}/nginx.pid;\n\
             events {{ worker_connections 8000; }}\n\
             stream {{ server {{ listen {WEB} backlog=4096; proxy_pass unix:{}; }} }}\n",
            path.display()
        )
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let Some(master) = &mut self.master else { return };
        // The master ends its workers.
        let _ = kill(Pid::from_raw(master.id() as i32), Signal::SIGTERM);
        let _ = master.wait();
    }
}
