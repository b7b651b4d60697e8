//! Describes the properties of a listening socket that the socket itself does not tell.

/// What is sent together with a listening socket: the parameters of its `bind` line that the kernel does not keep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketMetadata {
    /// The value of the `namespace` keyword. Empty without the keyword.
    pub netns: Vec<u8>,
    /// The value of the `interface` keyword. Empty without the keyword.
    pub interface: Vec<u8>,
    /// HAProxy 1.8 to 2.2: the listener's option bits, in the byte order of the machine; 0 from 2.3 on.
    pub options: i32,
}
