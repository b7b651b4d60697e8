//! Tests the init script under a booted sysvinit. In a guest, whose kernel has sch_plug, the daemon runs in kernel-fallback mode.

mod boot;
mod lifecycle;
mod scene;
