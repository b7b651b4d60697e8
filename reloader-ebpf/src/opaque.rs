//! Prevents optimisations of the compiler that the verifier does not understand.

use core::arch::asm;

/// The same number, but its value is unknown to the compiler.
#[inline(always)]
pub(crate) fn opaque(mut number: u64) -> u64 {
    // SAFETY: the assembly contains no instruction.
    unsafe { asm!("/* {0} */", inout(reg) number, options(pure, nomem, nostack)) };
    number
}
