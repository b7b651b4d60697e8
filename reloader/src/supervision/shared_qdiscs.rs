//! Keeps empty qdiscs on the devices where reloads are holds, once for all services that need them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use tokio::sync::Mutex;

use crate::gate::hold::{Backend, HoldRegistry, PersistentQdiscs};
use crate::process::BlockingLane;

/// The qdiscs that all services of a daemon share.
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
    /// The backend whose qdiscs are installed. `None` also while they are being changed.
    installed: Option<Backend>,
}

impl Needs {
    /// The backend to install. The qdiscs of the qdisc gate are also enough for the other gate.
    fn backend(&self) -> Option<Backend> {
        self.by_service.values().copied().max_by_key(|backend| *backend == Backend::Qdisc)
    }
}

impl SharedQdiscs {
    /// Sets what one service needs, and installs, changes or removes the qdiscs accordingly. Another process may hold the
    /// registry's lock for seconds. The wait for it does not block the loop.
    ///
    /// # Errors
    /// If they could not be installed.
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
