//! Measures ways in a virtual machine with a distribution's kernel. The guest's clock counts its own instructions, so its figures do not
//! depend on the load of this machine, and cannot be compared with figures of this machine.

use std::time::Duration;

use anyhow::{Result, ensure};
use reloader_tests::bench::{Figures, Way};
use reloader_tests::kernels;
use reloader_tests::tier;
use reloader_tests::versions::cache_dir;

use super::document::Row;
use super::native::{ISOLATED, figures, slice_words};
use super::plan::Load;
use crate::vm::{self, Host};

const KERNEL: &str = "6.12";
/// The limit of the guest: many times what it takes.
const LIMIT: Duration = Duration::from_secs(1800);

/// Measures a way, and gives its row, whether it succeeded or failed.
pub(super) fn measure(way: Way, load: &Load) -> Row {
    match in_guest(way, &load.for_guest()) {
        Ok((kernel, figures)) => Row { guest: Some(kernel), ..Row::measured(way, figures) },
        Err(error) => Row::failed(way, &format!("{error:#}")),
    }
}

fn in_guest(way: Way, load: &Load) -> Result<(String, Figures)> {
    let host = Host::prepare()?;
    let kernel = kernels::by_line(KERNEL)?.fetch(&cache_dir())?;
    let shares = load.shares();
    let command = |share| {
        let words = ISOLATED.map(str::to_owned).into_iter().chain(["--".to_owned(), "bench-slice".to_owned()]);
        vm::GuestCommand { words: words.chain(slice_words(way, share)).collect(), limit: LIMIT }
    };
    let guest_load = vm::Load {
        commands: shares.iter().copied().map(command).collect(),
        files: vec![host.program("reloader"), host.program("bench-slice")],
        // Half the rate that the guest carries, instead of an eighth.
        environment: vec![(tier::VARIABLE.into(), tier::ALL.into())],
        ..vm::Load::default()
    };
    eprintln!(
        "{way} in a virtual machine with Linux {}, {} connections: this takes minutes",
        kernel.release, load.connections
    );
    let (mut sum, mut counted, mut output) = (Figures::default(), 0, String::new());
    let guest = vm::GuestSpec { name: "bench", kernel: &kernel, load: &guest_load, limit: LIMIT };
    let verdicts = host.boot(&guest, |line, _| match figures(line) {
        Some(figures) => {
            sum.add(&figures);
            counted += 1;
        }
        None => output += &format!("{line}\n"),
    })?;
    ensure!(
        verdicts.iter().all(|status| *status == 0) && counted == shares.len(),
        "{counted} of {} shares were run in the guest:\n{output}",
        shares.len()
    );
    Ok((kernel.release, sum))
}
