//! By the init script, under a really booted sysvinit. In a guest, whose kernel has sch_plug, in kernel-fallback mode.

mod boot;
mod recipe;
mod scene;
