//! `bench-cost CHANGE LISTENERS ROUNDS` compares reloads by reloader with HAProxy's own, and prints the times as one line of JSON.
//! `cargo xtask bench cost` starts it.

use anyhow::{Context, Result, bail};
use reloader_tests::bench::{Case, compare};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [change, listeners, rounds] = words.as_slice() else {
        bail!("bench-cost CHANGE LISTENERS ROUNDS");
    };
    let case = Case {
        change: change.parse()?,
        listeners: listeners.parse().context("LISTENERS")?,
        rounds: rounds.parse().context("ROUNDS")?,
    };
    println!("{}", serde_json::to_string(&compare(case)?)?);
    Ok(())
}
