//! Waits for less than a millisecond: the runtime's timer counts whole milliseconds, and rounds up.

use std::io;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::sys;

/// The pause between two looks at what another process is about to do, where no event tells of it.
const BRIEFLY: Duration = Duration::from_micros(250);

/// Waits for a quarter of a millisecond. Where the kernel gives no timer, it waits for a millisecond.
pub async fn pause_briefly() {
    if wait(BRIEFLY).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn wait(time: Duration) -> io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let once = Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos().into() };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: none, it_value: once })?;
    sys::watch(timer)?.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn pause_is_never_shorter_than_asked() {
        let began = Instant::now();
        wait(BRIEFLY).await.unwrap();
        assert!(began.elapsed() >= BRIEFLY);
    }
}
