//! Counts SYNs for the length of a reload, where the configuration asks for it.

use crate::gate::syn_counter::{SynCounter, Watched};
use crate::kernel::devices;
use crate::model::listener::{Address, Listener, SocketType};
use crate::reload::attempt::Attempt;

/// The counter, where it is in the packet path.
pub(in crate::reload) struct Counting(Option<SynCounter>);

impl Counting {
    /// Puts the counter into the packet path. What hinders it is noted, and the figure stays `null`.
    pub(in crate::reload) async fn begin(attempt: &mut Attempt<'_>) -> Counting {
        if !attempt.supervisor.config().reload.count_syns {
            return Counting(None);
        }
        let present = attempt.supervisor.present_listeners();
        let watched: Vec<Watched> = present.iter().filter_map(|owned| watched(&owned.listener)).collect();
        let counter = match attempt.supervisor.lend_counter().await {
            Ok(counter) => counter,
            Err(error) => {
                attempt.recorder.note(error.to_string());
                return Counting(None);
            }
        };
        match attach(counter, &watched) {
            (counter, None) => Counting(Some(counter)),
            (counter, Some(why)) => {
                attempt.recorder.note(why);
                attempt.supervisor.give_back_counter(counter);
                Counting(None)
            }
        }
    }

    /// Takes the counter out of the packet path and records what it saw.
    pub(in crate::reload) fn end(self, attempt: &mut Attempt<'_>) {
        let Some(mut counter) = self.0 else { return };
        match counter.detach() {
            Ok(counts) => attempt.recorder.receipt().syns.seen = Some(counts.seen),
            Err(error) => attempt.recorder.note(error.to_string()),
        }
        attempt.supervisor.give_back_counter(counter);
    }
}

/// The counter, and why it could not be attached.
fn attach(mut counter: SynCounter, watched: &[Watched]) -> (SynCounter, Option<String>) {
    let devices = devices::list().map_err(|error| format!("cannot count SYNs: the devices cannot be listed: {error}"));
    let attached = devices.and_then(|devices| counter.attach(&devices, watched).map_err(|error| error.to_string()));
    (counter, attached.err())
}

fn watched(listener: &Listener) -> Option<Watched> {
    let endpoint = &listener.endpoint;
    match endpoint.address {
        Address::Inet(address) if endpoint.socket_type == SocketType::Stream && endpoint.netns.is_none() => {
            Some(Watched { address, v6only: endpoint.v6only })
        }
        _ => None,
    }
}
