//! What the eBPF programs and user space share, and the pure SYN parser.
#![no_std]
