//! Tests `reloader prove`: it finds the connections that a reload loses, reports none where none is lost, and says where it cannot know.

mod answers;
mod held;
mod interrupted;
mod losses;
mod lossless;
mod scene;
