//! Selects the processes that belong to a server.

use super::{family, tree};

/// The processes of a tree that may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessScope {
    /// Those that run the root's program, because HAProxy can run other programs beside itself.
    SameProgram,
    /// All of them, because the root may be a script.
    All,
}

impl ProcessScope {
    /// Lists the processes of the tree below `root` that may serve, with `root` first.
    pub fn processes(self, root: u32) -> Vec<u32> {
        match self {
            ProcessScope::SameProgram => family(root),
            ProcessScope::All => tree(root),
        }
    }
}
