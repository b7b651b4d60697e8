//! Shares in a virtual machine, on a distribution's kernel. Its clock counts its own instructions, so what it measures does not
//! depend on what this machine does meanwhile, and cannot be compared with what this machine measures.

use std::time::Duration;

use anyhow::{Result, ensure};
use reloader_tests::bench::{Figures, Way};
use reloader_tests::kernels;
use reloader_tests::versions::cache_dir;

use super::document::Row;
use super::native::{ISOLATED, figures, slice_words};
use super::plan::Load;
use crate::vm::{self, Host};

const KERNEL: &str = "6.12";
/// Many times what it takes.
const LIMIT: Duration = Duration::from_secs(1800);

/// Its row, whatever becomes of it.
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
    let what = vm::Load {
        commands: shares.iter().copied().map(command).collect(),
        files: vec![host.program("reloader"), host.program("bench-slice")],
        ..vm::Load::default()
    };
    eprintln!("{way} in a virtual machine with Linux {}, {} connections: minutes", kernel.release, load.connections);
    let (mut sum, mut counted, mut said) = (Figures::default(), 0, String::new());
    let verdicts = host.boot("bench", &kernel, &what, LIMIT, |line, _| match figures(line) {
        Some(figures) => {
            sum.add(&figures);
            counted += 1;
        }
        None => said += &format!("{line}\n"),
    })?;
    ensure!(
        verdicts.iter().all(|status| *status == 0) && counted == shares.len(),
        "{counted} of {} shares were run in the guest:\n{said}",
        shares.len()
    );
    Ok((kernel.release, sum))
}
