//! Keeps the compiler from what the verifier does not understand.

use core::arch::asm;

/// The same number, of which the compiler no longer knows what it is.
#[inline(always)]
pub(crate) fn opaque(mut number: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) number, options(pure, nomem, nostack)) };
    number
}
