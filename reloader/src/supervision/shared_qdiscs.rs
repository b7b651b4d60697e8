//! Keeps empty qdiscs on the devices where reloads are holds, once for all services that need them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use tokio::sync::Mutex;

use crate::gate::hold::{Backend, HoldRegistry, PersistentQdiscs};
use crate::process::BlockingLane;

/// Shared by all services of a daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedQdiscs(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    needs: RefCell<Needs>,
    installed: Mutex<Option<PersistentQdiscs>>,
    lane: BlockingLane,
}

#[derive(Debug, Default)]
struct Needs {
    by_service: BTreeMap<String, Backend>,
    /// What is installed; `None` also while that changes.
    installed: Option<Backend>,
}

impl Needs {
    /// What the qdisc gate needs serves the other too.
    fn backend(&self) -> Option<Backend> {
        self.by_service.values().copied().max_by_key(|backend| *backend == Backend::Qdisc)
    }
}

impl SharedQdiscs {
    /// Says what one service needs. The qdiscs are installed, changed or removed accordingly. The registry's lock, which another process may
    /// hold for seconds, is waited for beside the loop.
    ///
    /// # Errors
    /// Where they could not be installed.
    pub(crate) async fn need(&self, service: &str, backend: Option<Backend>, registry: HoldRegistry) -> io::Result<()> {
        let is_done = || {
            let needs = self.0.needs.borrow();
            needs.backend() == needs.installed
        };
        match backend {
            Some(backend) => drop(self.0.needs.borrow_mut().by_service.insert(service.to_owned(), backend)),
            None => drop(self.0.needs.borrow_mut().by_service.remove(service)),
        }
        if is_done() {
            return Ok(());
        }
        let mut installed = self.0.installed.lock().await;
        if is_done() {
            return Ok(());
        }
        let needed = self.0.needs.borrow().backend();
        self.0.needs.borrow_mut().installed = None;
        let before = installed.take();
        let install = move || {
            drop(before);
            needed.map(|backend| PersistentQdiscs::install(&registry, backend)).transpose()
        };
        *installed = self.0.lane.run("installing qdiscs for holds", install).await?;
        self.0.needs.borrow_mut().installed = needed;
        Ok(())
    }
}
