//! What stands on the devices where reloads are holds: put up once for all services that need it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::gate::hold::{Backend, HoldRegistry, PersistentQdiscs};

/// Shared by all supervisors of a daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedQdiscs(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    needs: BTreeMap<String, Backend>,
    standing: Option<(Backend, PersistentQdiscs)>,
}

impl SharedQdiscs {
    /// Says what one service needs. What stands is put up, changed or taken away accordingly.
    pub(crate) fn need(&self, service: &str, backend: Option<Backend>, records: &HoldRegistry) {
        let mut state = self.0.borrow_mut();
        match backend {
            Some(backend) => drop(state.needs.insert(service.to_owned(), backend)),
            None => drop(state.needs.remove(service)),
        }
        // What the qdisc gate needs serves the other too.
        let needed = state.needs.values().copied().max_by_key(|backend| *backend == Backend::Qdisc);
        if needed == state.standing.as_ref().map(|(backend, _)| *backend) {
            return;
        }
        state.standing = None;
        let Some(backend) = needed else { return };
        match PersistentQdiscs::install(records, backend) {
            Ok(standing) => state.standing = Some((backend, standing)),
            Err(error) => log::warn!("each hold may cost clients a packet, for want of a place to stand: {error}"),
        }
    }
}
