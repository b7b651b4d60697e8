//! `bench-slice WAY CONNECTIONS RATE RELOADS` runs one way of reloading under a share of the load and prints the
//! figures as one line of JSON. `cargo xtask bench` starts it, on this machine and in guests.

use anyhow::{Context, Result, bail};
use reloader_tests::bench::{self, Share, Way};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [way, connections, rate, reloads] = words.as_slice() else {
        bail!("bench-slice WAY CONNECTIONS RATE RELOADS");
    };
    let way: Way = way.parse().map_err(anyhow::Error::msg)?;
    let share = Share {
        connections: connections.parse().context("CONNECTIONS")?,
        rate: rate.parse().context("RATE")?,
        reloads: reloads.parse().context("RELOADS")?,
    };
    println!("{}", serde_json::to_string(&bench::run(way, share)?)?);
    Ok(())
}
