//! `reloader prove`: it finds what reloads lose, finds nothing where nothing is lost, and says so where it cannot know.

mod answers;
mod found;
mod interrupted;
mod lossless;
mod scene;
