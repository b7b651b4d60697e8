//! Defines the parts of u32 filters: tables, their entries, and what an entry compares and does.

/// The position of filters. All filters with the same preference have the same protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FilterPosition {
    /// The device's number.
    pub(crate) device: u32,
    /// The parent of the filters: a qdisc, or one direction of `clsact` or `ingress`.
    pub(crate) parent: u32,
    /// The protocol of the packets that the filters see.
    pub(crate) protocol: Protocol,
    /// Filters with lower numbers see a packet first.
    pub(crate) preference: u16,
}

/// ETH_P_IP and ETH_P_IPV6 of linux/if_ether.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Ipv4 = 0x0800,
    Ipv6 = 0x86dd,
}

/// Compares one 32-bit word of a packet: `word & mask == value`. The packet's word is big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// Where the word begins, in bytes, a multiple of 4. 0 is the network header, until a [`HeaderSkip`] moves it.
    pub(crate) offset: i32,
    pub(crate) mask: u32,
    pub(crate) value: u32,
}

/// What happens to a packet that matches an entry. `T` names a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum U32Action<T> {
    /// It is put into this class.
    Class(u32),
    /// It goes to the device with this number instead.
    Redirect(u32),
    /// Another table decides. If no entry of that table matches, the next entry of this table is tried.
    Jump(T, Option<HeaderSkip>),
}

/// The length of a header that is skipped. The offsets of the next table count from the end of this header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeaderSkip {
    /// Bytes that every such header has.
    pub(crate) bytes: u16,
    /// The field that has the number of further bytes.
    pub(crate) length_field: Option<LengthField>,
}

/// A number of bytes in a header: `(word & mask) >> shift`. The word has 16 bits and is big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LengthField {
    /// Where the word begins, in bytes from the beginning of the header.
    pub(crate) offset: i16,
    pub(crate) mask: u16,
    pub(crate) shift: u8,
}

/// The table that a preference has from the beginning (TC_U32_ROOT).
pub(crate) const ROOT_TABLE: u32 = 0xfff0_0000;
/// How many entries a table can have: their numbers are 1 to 0xfff.
pub(crate) const MAX_ENTRIES: usize = 0xfff;

/// The handle of the table of an entry. The handle of a table stays as it is.
pub(crate) fn table_handle(handle: u32) -> u32 {
    handle & 0xfff0_0000
}

/// The number of an entry within its table; 0 for a table.
pub(crate) fn entry_number(handle: u32) -> u32 {
    handle & 0xfff
}
