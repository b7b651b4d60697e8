//! Counts SYNs for the length of a reload, where the configuration asks for it.

use crate::gate::syn_counter::{CounterError, SynCounter, Watched};
use crate::kernel::devices;
use crate::model::listener::{Address, Listener, SocketType};
use crate::receipt::Recorder;
use crate::supervision::Supervisor;

/// Puts the counter into the packet path. What hinders it is noted, and the figure stays `null`.
pub(crate) fn begin(supervisor: &mut Supervisor, recorder: &mut Recorder) {
    if !supervisor.config.reload.count_syns {
        return;
    }
    let present = supervisor.present_listeners();
    let watched: Vec<Watched> = present.iter().filter_map(|owned| watched(&owned.listener)).collect();
    if let Err(error) = attach(supervisor, &watched) {
        recorder.note(error);
    }
}

fn attach(supervisor: &mut Supervisor, watched: &[Watched]) -> Result<(), String> {
    let devices =
        devices::list().map_err(|error| format!("cannot count SYNs: the devices cannot be listed: {error}"))?;
    let counter = match &mut supervisor.counter {
        Some(counter) => counter,
        empty => empty.insert(SynCounter::load().map_err(|error| error.to_string())?),
    };
    counter.attach(&devices, watched).map_err(|error| error.to_string())?;
    supervisor.counts = true;
    Ok(())
}

/// Takes the counter out of the packet path and records what it saw.
pub(crate) fn end(supervisor: &mut Supervisor, recorder: &mut Recorder) {
    if !std::mem::take(&mut supervisor.counts) {
        return;
    }
    let detached: Option<Result<_, CounterError>> = supervisor.counter.as_mut().map(SynCounter::detach);
    match detached {
        Some(Ok(counts)) => recorder.receipt().syns.seen = Some(counts.seen),
        Some(Err(error)) => recorder.note(error.to_string()),
        None => {}
    }
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
