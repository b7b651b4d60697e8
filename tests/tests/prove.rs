//! `reloader prove`: it finds what reloads lose, finds nothing where nothing is lost, and says so where it cannot know.

#[path = "prove/answers.rs"]
mod answers;
#[path = "prove/found.rs"]
mod found;
#[path = "prove/interrupted.rs"]
mod interrupted;
#[path = "prove/lossless.rs"]
mod lossless;
#[path = "prove/scene.rs"]
mod scene;
