//! Reads packets.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{bindings::bpf_hdr_start_off::BPF_HDR_START_NET, helpers::generated::bpf_skb_load_bytes_relative};

/// The `N` bytes at `offset` from the network header of the packet of this context. The link header does not matter. None if the packet ends
/// before.
#[inline(always)]
pub(crate) fn bytes<const N: usize>(context: *mut c_void, offset: usize) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the context is that of this program, and the buffer has room for N bytes.
    let result = unsafe {
        bpf_skb_load_bytes_relative(context, offset as u32, bytes.as_mut_ptr().cast(), N as u32, BPF_HDR_START_NET)
    };
    // SAFETY: a helper that succeeds has written all N bytes.
    (result == 0).then(|| unsafe { bytes.assume_init() })
}
