//! Keeps empty qdiscs on the devices where reloads are holds, once for all services that need them.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use tokio::sync::Mutex;

use crate::gate::hold::{Backend, HoldRegistry, PersistentQdiscs};
use crate::process::run_blocking;

/// Shared by all services of a daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedQdiscs(Rc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    needs: BTreeMap<String, Backend>,
    installed: Option<(Backend, PersistentQdiscs)>,
}

impl SharedQdiscs {
    /// Says what one service needs. The qdiscs are installed, changed or removed accordingly. The registry's lock, which another process may
    /// hold for seconds, is waited for beside the loop.
    ///
    /// # Errors
    /// Where they could not be installed.
    pub(crate) async fn need(&self, service: &str, backend: Option<Backend>, registry: HoldRegistry) -> io::Result<()> {
        let mut state = self.0.lock().await;
        match backend {
            Some(backend) => drop(state.needs.insert(service.to_owned(), backend)),
            None => drop(state.needs.remove(service)),
        }
        // What the qdisc gate needs serves the other too.
        let needed = state.needs.values().copied().max_by_key(|backend| *backend == Backend::Qdisc);
        if needed == state.installed.as_ref().map(|(backend, _)| *backend) {
            return Ok(());
        }
        let before = state.installed.take();
        let install = move || -> io::Result<_> {
            drop(before);
            needed.map(|backend| Ok((backend, PersistentQdiscs::install(&registry, backend)?))).transpose()
        };
        state.installed = run_blocking(install).await?;
        Ok(())
    }
}
