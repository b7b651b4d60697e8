//! By the init script, under a really booted sysvinit. In a guest, whose kernel has sch_plug, in kernel-fallback mode.

#[path = "sysv/boot.rs"]
mod boot;
#[path = "sysv/recipe.rs"]
mod recipe;
#[path = "sysv/scene.rs"]
mod scene;
