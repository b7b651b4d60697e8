//! Which processes belong to a server.

use super::{family, tree};

/// Which processes of a tree may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessScope {
    /// Those that run the root's program: a HAProxy runs others beside itself.
    SameProgram,
    /// All: the root may be a script.
    All,
}

impl ProcessScope {
    /// They, with the root first.
    pub fn processes(self, root: u32) -> Vec<u32> {
        match self {
            ProcessScope::SameProgram => family(root),
            ProcessScope::All => tree(root),
        }
    }
}
