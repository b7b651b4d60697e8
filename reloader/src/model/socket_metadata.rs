//! Describes a listening socket beyond what the socket itself tells.

/// What travels beside a passed listening socket: the words of its bind that the kernel does not keep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketMetadata {
    /// The name behind the `namespace` keyword, empty where there is none.
    pub netns: Vec<u8>,
    /// The name behind the `interface` keyword, empty where there is none.
    pub interface: Vec<u8>,
    /// HAProxy 1.8 to 2.2: the listener's option bits, in the byte order of the machine; 0 from 2.3 on.
    pub options: i32,
}
