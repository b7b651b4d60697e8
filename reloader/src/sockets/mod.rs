//! Looks at listening sockets and keeps duplicates of them: inspection of what a server owns, and custody.

pub mod custody;
mod description;
pub mod foreign;
pub mod inspection;
pub mod reachability;
pub mod test_connection;
