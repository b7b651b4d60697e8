//! Measures what the hold's eBPF program costs each packet, by BPF_PROG_TEST_RUN: `cargo run --release --example
//! hold_cost` as root.

use std::fs;
use std::net::SocketAddr;

use aya::maps::{Array, HashMap, RingBuf};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use reloader_ebpf::{PARK, control, held_key, v4_mapped};
use reloader_tests::netns;

const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../reloader/src/gate/programs/hold.o");
const RUNS: u32 = 100_000;
/// This many SYNs fit into the ring, which is not emptied while the kernel repeats the program.
const PARKED: u32 = 10_000;

fn main() -> anyhow::Result<()> {
    netns::enter();
    let object = fs::read(OBJECT)?;
    let mut ebpf = EbpfLoader::new().btf(None).map_max_entries("RING", 4 << 20).load(&object)?;
    let held: SocketAddr = "127.0.0.1:8080".parse()?;
    arm(&mut ebpf, held)?;
    let program: &mut SchedClassifier = ebpf.program_mut("reloader_hold").expect("the program").try_into()?;
    program.load()?;
    println!("not a SYN:           {:4} ns", cost(program, &frame(8080, 0x10), RUNS)?);
    println!("SYN to another port: {:4} ns", cost(program, &frame(8081, 0x02), RUNS)?);
    println!("parked SYN:          {:4} ns", cost(program, &frame(8080, 0x02), PARKED)?);
    let mut ring = RingBuf::try_from(ebpf.take_map("RING").expect("the ring"))?;
    let mut parked = 0;
    while ring.next().is_some() {
        parked += 1;
    }
    anyhow::ensure!(parked == PARKED, "{parked} of {PARKED} SYNs were parked: the last line does not measure parking");
    Ok(())
}

fn arm(ebpf: &mut Ebpf, held: SocketAddr) -> anyhow::Result<()> {
    let mut settings = Array::<_, u64>::try_from(ebpf.map_mut("CONTROL").expect("the settings"))?;
    settings.set(control::LEASE, u64::MAX, 0)?;
    settings.set(control::MARK, 1, 0)?;
    let mut keys = HashMap::<_, [u32; 6], u32>::try_from(ebpf.map_mut("HELD").expect("the keys"))?;
    keys.insert(held_key(v4_mapped([127, 0, 0, 1]), held.port(), 0), PARK, 0)?;
    Ok(())
}

/// Average nanoseconds for one run, as the kernel measures them.
fn cost(program: &SchedClassifier, frame: &[u8], repeat: u32) -> anyhow::Result<u128> {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
    Ok(program.test_run(options)?.duration.as_nanos())
}

/// A TCP segment from and to 127.0.0.1. With BPF_PROG_TEST_RUN a packet arrives on `lo`.
fn frame(port: u16, flags: u8) -> Vec<u8> {
    let local = [127, 0, 0, 1];
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0]);
    frame.extend([local, local].concat());
    frame.extend(40_000_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}
