//! Keeps which listeners of a service no client reaches, and looks at them beside the loop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::kernel::sock_diag;
use crate::model::listener::Owned;
use crate::process::BlockingLane;
use crate::sockets::custody::Custody;
use crate::sockets::foreign;
use crate::sockets::reachability::{Subject, Unreachable, unreachable};

/// How many times as long as a look the pause after it lasts. A look takes longer with more listeners and more processes.
const REST: u32 = 20;

/// What a look beside the loop finds.
#[derive(Debug)]
struct Found {
    unreachable: HashMap<u64, Unreachable>,
    foreign: Option<String>,
    /// How long the look has taken.
    took: Duration,
}

/// The result of a look, once it is done.
type Outcome = Arc<Mutex<Option<Found>>>;

/// What a look is about: the listeners that serve, and the first processes of the generations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    pub(crate) listeners: Vec<Owned>,
    pub(crate) roots: Vec<u32>,
}

impl Surroundings {
    /// Another server on one of the addresses, as a sentence. It blocks.
    pub(crate) fn foreign_listener(&self) -> Option<String> {
        foreign::find(&self.listeners, &self.roots)
    }
}

/// The listeners that no client reaches, by inode, as of the last look.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    unreachable: HashMap<u64, Unreachable>,
    /// A listener of another server on one of our addresses, as a sentence.
    foreign: Option<String>,
    /// The look that was begun beside the loop.
    under_way: Option<Outcome>,
    /// When the next look may begin.
    not_before: Option<Instant>,
    /// Looks that are waited for. The file system of a path may hang.
    lane: BlockingLane,
}

impl Reach {
    /// Why no client reaches the listener with this inode. `None` if one does, as far as is known.
    pub(crate) fn why_not(&self, inode: u64) -> Option<&Unreachable> {
        self.unreachable.get(&inode)
    }

    /// All of them, with the reason for each.
    pub(super) fn all(&self) -> impl Iterator<Item = (&u64, &Unreachable)> {
        self.unreachable.iter()
    }

    /// The lane for looks that are waited for.
    pub(super) fn lane(&self) -> &BlockingLane {
        &self.lane
    }

    /// Sets what a look has found. True if it is news.
    pub(super) fn set(&mut self, unreachable: HashMap<u64, Unreachable>) -> bool {
        self.under_way = None;
        std::mem::replace(&mut self.unreachable, unreachable) != self.unreachable
    }

    /// Forgets a look that is under way: what it finds may be of a moment at which a generation was being started.
    pub(super) fn forget_look(&mut self) {
        self.under_way = None;
    }

    /// A listener of another server on one of our addresses, as a sentence, as of the last look.
    pub(super) fn foreign(&self) -> Option<&String> {
        self.foreign.as_ref()
    }

    /// Takes the result of the last look beside the loop, if it is done, and begins the next one. True if the result is news.
    pub(super) fn follow(&mut self, surroundings: Surroundings, custody: &Custody) -> bool {
        let result = match &self.under_way {
            None => None,
            Some(place) => match place.lock().expect("no panic under this lock").take() {
                Some(result) => Some(result),
                None => return false,
            },
        };
        let is_news = result.is_some_and(|Found { unreachable, foreign, took }| {
            self.not_before = Some(Instant::now() + took * REST);
            let other = std::mem::replace(&mut self.foreign, foreign) != self.foreign;
            self.set(unreachable) || other
        });
        match self.not_before.is_some_and(|moment| Instant::now() < moment) {
            true => self.under_way = None,
            false => self.begin(surroundings, custody),
        }
        is_news
    }

    fn begin(&mut self, surroundings: Surroundings, custody: &Custody) {
        let subjects = Subject::among(&surroundings.listeners, custody);
        let place = Outcome::default();
        self.under_way = Some(place.clone());
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let (unreachable, foreign) = (look(&subjects), surroundings.foreign_listener());
            let found = Found { unreachable, foreign, took: began.elapsed() };
            *place.lock().expect("no panic under this lock") = Some(found);
        });
    }
}

/// Looks now, in `lane`. `None` if a file system does not answer in time.
pub(super) async fn look_in(lane: &BlockingLane, subjects: Vec<Subject>) -> Option<HashMap<u64, Unreachable>> {
    let looked = lane.run("looking at the paths of listeners", move || Ok(look(&subjects))).await;
    looked.inspect_err(|error| log::warn!("it is not known whether clients reach all listeners: {error}")).ok()
}

/// Looks now. Where the kernel does not list its sockets, nothing is known to be unreachable.
fn look(subjects: &[Subject]) -> HashMap<u64, Unreachable> {
    let machine = if subjects.iter().any(Subject::needs_the_list) { sock_diag::listeners() } else { Ok(Vec::new()) };
    unreachable(subjects, &machine.unwrap_or_default())
}
