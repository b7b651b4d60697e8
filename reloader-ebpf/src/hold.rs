//! Holds SYNs on a device: one program parks them, the other turns delivered SYNs back into the device at which they arrived. The programs are
//! a separate object, because kernels before 5.8 have no ring buffer, and loading an object makes all of its maps.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    unsafe_code,
    reason = "a BPF program reads the kernel's structures through pointers; the verifier checks every access at load"
)]

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_INGRESS, BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_ktime_get_ns, bpf_redirect, bpf_ringbuf_output, bpf_skb_load_bytes},
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::TcContext,
};
use reloader_ebpf::{
    ABI_VERSION, HeldKey, MAX_FRAME, MAX_WATCHED, PARK, Record, Syn, any_address, control, count, held_key,
    syn_in_packet,
};

mod load;
mod object;
mod opaque;
mod packet;
mod settle;

use opaque::opaque;
use packet::Packet;
use settle::{Settled, settle};

#[map]
static ABI: Array<u32> = Array::with_max_entries(ABI_VERSION, 0);

/// The held addresses, written by user space when the hold begins.
#[map]
static HELD: HashMap<HeldKey, u32> = HashMap::with_max_entries(MAX_WATCHED, BPF_F_NO_PREALLOC);

/// Settings written by user space, see [`control`].
#[map]
static CONTROL: Array<u64> = Array::with_max_entries(control::ENTRIES, 0);

/// Counters, see [`count`].
#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(count::ENTRIES, 0);

/// The place in which a record is composed: it does not fit on a program's stack.
#[map]
static SCRATCH: PerCpuArray<Record> = PerCpuArray::with_max_entries(1, 0);

/// The parked SYNs. User space sets the size before it loads the object.
#[map]
static RING: RingBuf = RingBuf::with_byte_size(4096, 0);

/// `LOOPBACK_IFINDEX` of the kernel.
const LO: u32 = 1;

/// Parks the SYNs of a hold. After the hold, it settles the handshakes of the delivered SYNs. The next program decides about all other
/// packets.
#[classifier]
fn reloader_hold(ctx: TcContext) -> i32 {
    let packet = Packet { skb: ctx.as_ptr().cast() };
    if packet.is_delivered() {
        // SAFETY: `skb` is the context of this program, which may write its mark.
        unsafe { (*packet.skb).mark = 0 };
        return TC_ACT_UNSPEC;
    }
    if setting(control::SETTLING) != 0 {
        return settling(&packet);
    }
    if !packet.is_held() {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    if now >= setting(control::LEASE) {
        add_one(count::LAPSED);
        return TC_ACT_UNSPEC;
    }
    // A SYN for which there is no room is dropped as well: the port would refuse it, while its client repeats a dropped SYN.
    add_one(if park(&packet, now).is_some() { count::HELD } else { count::DROPPED });
    TC_ACT_SHOT
}

#[inline(always)]
fn settling(packet: &Packet) -> i32 {
    // SAFETY: the helper takes nothing.
    if unsafe { bpf_ktime_get_ns() } >= setting(control::SETTLING) || !packet.is_for_this_device() {
        return TC_ACT_UNSPEC;
    }
    match settle(packet.skb) {
        Settled::Given => add_one(count::SETTLED),
        // SAFETY: `skb` is the context of this program.
        Settled::Unknown if unsafe { (*packet.skb).ifindex } == LO => return TC_ACT_SHOT,
        Settled::Known | Settled::Unknown => {}
    }
    TC_ACT_UNSPEC
}

/// Turns a delivered SYN back. It leaves by the device at which it arrived.
#[classifier]
fn reloader_back(ctx: TcContext) -> i32 {
    let packet = Packet { skb: ctx.as_ptr().cast() };
    if !packet.is_delivered() {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: `skb` is the context of this program.
    unsafe { bpf_redirect((*packet.skb).ifindex, BPF_F_INGRESS.into()) as i32 }
}

impl Packet {
    #[inline(always)]
    fn is_delivered(&self) -> bool {
        // SAFETY: `skb` is the context of this program.
        let mark = unsafe { (*self.skb).mark };
        mark != 0 && u64::from(mark) == setting(control::MARK)
    }

    #[inline(always)]
    fn is_held(&self) -> bool {
        self.is_for_this_device()
            && syn_in_packet(self, 0, self.ethertype())
                .is_some_and(|syn| self.is_to_a_held_port(&syn) && self.is_for_this_host(&syn))
    }

    /// Looks up the destination in the order in which the kernel finds a listener: the exact address first, and a listener that is bound to the
    /// device before a listener that is bound to no device.
    #[inline(always)]
    fn is_to_a_held_port(&self, syn: &Syn) -> bool {
        // SAFETY: `skb` is the context of this program.
        let device = unsafe { (*self.skb).ifindex };
        let any = any_address(syn.ipv4);
        let found = HELD
            .get_ptr(held_key(syn.destination, syn.port, device))
            .or_else(|| HELD.get_ptr(held_key(syn.destination, syn.port, 0)))
            .or_else(|| HELD.get_ptr(held_key(any, syn.port, device)))
            .or_else(|| HELD.get_ptr(held_key(any, syn.port, 0)));
        // SAFETY: the element stays allocated until the RCU read section that surrounds the program ends.
        found.is_some_and(|verdict| unsafe { *verdict } == PARK)
    }
}

/// Copies the frame with its link header to the ring. None if there is no room, or if the frame is too long.
#[inline(always)]
fn park(packet: &Packet, now: u64) -> Option<()> {
    let record = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: `skb` is the context of this program. The record belongs to this CPU, and no other program writes it meanwhile: programs at
    // ingress run with bottom halves off, one at a time.
    unsafe {
        (*record).arrived = now;
        (*record).device = (*packet.skb).ifindex;
        (*record).ethertype = packet.ethertype().into();
        // The register that is used is compared twice, because the verifier learns nothing from a comparison of the difference. The lower bound
        // is 40, because no SYN is shorter. Before Linux 6.8 the verifier learns nothing from a comparison with 0.
        let length = opaque((*packet.skb).len.into());
        if length < 40 {
            return None;
        }
        let length = opaque(length);
        let frame = (&raw mut (*record).frame).cast();
        if length > MAX_FRAME.into() || bpf_skb_load_bytes(packet.skb.cast(), 0, frame, length as u32) != 0 {
            return None;
        }
        let size = length + Record::HEADER;
        (bpf_ringbuf_output((&raw const RING).cast_mut().cast(), record.cast(), size, 0) == 0).then_some(())
    }
}

#[inline(always)]
fn setting(index: u32) -> u64 {
    CONTROL.get(index).copied().unwrap_or_default()
}

#[inline(always)]
fn add_one(counter: u32) {
    if let Some(counter) = COUNTS.get_ptr_mut(counter) {
        // SAFETY: the pointer is to this CPU's value, and programs at ingress run one at a time on it.
        unsafe { *counter += 1 }
    }
}
