//! The times at which reloads are under way, shared between the thread that reloads and the thread that counts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The time of each reload so far, in order.
#[derive(Clone, Default)]
pub(super) struct ReloadWindows(Arc<Mutex<Vec<Window>>>);

struct Window {
    begin: Instant,
    /// `None`: the reload is under way.
    end: Option<Instant>,
}

impl ReloadWindows {
    /// Notes that a reload begins now, and returns the time.
    pub(super) fn begin(&self) -> Instant {
        self.with(|windows| {
            let now = Instant::now();
            windows.push(Window { begin: now, end: None });
            now
        })
    }

    /// Notes that the last reload ends now.
    pub(super) fn end(&self) {
        self.with(|windows| {
            if let Some(window) = windows.last_mut() {
                window.end = Some(Instant::now());
            }
        });
    }

    /// Whether a reload was under way at this time.
    pub(super) fn contain(&self, time: Instant) -> bool {
        self.with(|windows| {
            let begun = windows.partition_point(|window| window.begin <= time);
            windows[..begun].last().is_some_and(|window| window.end.is_none_or(|end| time <= end))
        })
    }

    fn with<T>(&self, access: impl FnOnce(&mut Vec<Window>) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
