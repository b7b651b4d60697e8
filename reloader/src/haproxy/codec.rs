//! Encodes and decodes the bytes of a `_getsocks` transfer. The sockets themselves are sent with these bytes as SCM_RIGHTS.
//!
//! Source: `cli_io_handler_getsocks` / `_getsocks` and `get_old_sockets` in HAProxy 1.8 to 3.2 (`cli.c`, `haproxy.c`,
//! `sock.c`). A transfer is one message with the total number of descriptors, then batches of one message each; a
//! batch carries its descriptors as SCM_RIGHTS and one record per descriptor, in the same order:
//! `u8 nslen, ns, u8 iflen, ifname, i32 options`. Integers are in the byte order of the machine.

use crate::model::SocketMetadata;

/// The request, as HAProxy's `get_old_sockets` writes it.
pub const REQUEST: &[u8] = b"_getsocks\n";

/// The number of descriptors in one batch. HAProxy's MAX_SEND_FD is 253 before 2.6 and 252 from 2.6 on. All receivers accept the smaller
/// number.
pub const BATCH: usize = 252;

/// The longest name that every receiver reads correctly: the length is a signed char on x86.
const LONGEST_NAME: usize = 127;

/// The largest count of descriptors that is accepted: the kernel's default maximum of RLIMIT_NOFILE (fs.nr_open).
const MOST_DESCRIPTORS: usize = 1 << 20;

/// Why bytes are not a valid `_getsocks` transfer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A record or the count ended early.
    #[error("the socket transfer ended inside a record ({0} bytes left)")]
    Truncated(usize),
    /// The count cannot be true.
    #[error("the socket transfer announces {0} sockets")]
    Count(i32),
    /// A name is too long for HAProxy to read.
    #[error("the name `{name}` has {length} bytes; HAProxy misreads names over {LONGEST_NAME}")]
    NameTooLong {
        /// The name.
        name: String,
        /// Its length in bytes.
        length: usize,
    },
    /// Fewer or more descriptors than records.
    #[error("the socket transfer has {descriptors} descriptors, but {records} records for them")]
    Mismatch {
        /// Descriptors received.
        descriptors: usize,
        /// Records received.
        records: usize,
    },
}

/// The first message: how many descriptors will come.
pub fn encode_count(count: usize) -> [u8; 4] {
    (count as i32).to_ne_bytes()
}

/// Reads the first message.
///
/// # Errors
/// Where these are not four bytes, or the count cannot be true.
pub fn decode_count(bytes: &[u8]) -> Result<usize, CodecError> {
    let count = i32::from_ne_bytes(bytes.try_into().map_err(|_| CodecError::Truncated(bytes.len()))?);
    match usize::try_from(count) {
        Ok(count) if count <= MOST_DESCRIPTORS => Ok(count),
        _ => Err(CodecError::Count(count)),
    }
}

/// The data part of one batch.
///
/// # Errors
/// Where a name is longer than every receiver reads correctly.
pub fn encode_batch<'a>(records: impl IntoIterator<Item = &'a SocketMetadata>) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    for record in records {
        push_name(&mut bytes, &record.netns)?;
        push_name(&mut bytes, &record.interface)?;
        bytes.extend(record.options.to_ne_bytes());
    }
    Ok(bytes)
}

fn push_name(bytes: &mut Vec<u8>, name: &[u8]) -> Result<(), CodecError> {
    if name.len() > LONGEST_NAME {
        return Err(CodecError::NameTooLong { name: String::from_utf8_lossy(name).into_owned(), length: name.len() });
    }
    bytes.push(name.len() as u8);
    bytes.extend(name);
    Ok(())
}

/// Reads the data part of one batch.
///
/// # Errors
/// Where the bytes end inside a record.
pub fn decode_batch(mut bytes: &[u8]) -> Result<Vec<SocketMetadata>, CodecError> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let netns = take_name(&mut bytes)?;
        let interface = take_name(&mut bytes)?;
        let options = take(&mut bytes, 4)?;
        let options = i32::from_ne_bytes(options.try_into().expect("four bytes were taken"));
        records.push(SocketMetadata { netns, interface, options });
    }
    Ok(records)
}

fn take_name(bytes: &mut &[u8]) -> Result<Vec<u8>, CodecError> {
    let length = take(bytes, 1)?[0];
    Ok(take(bytes, length.into())?.to_vec())
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], CodecError> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(CodecError::Truncated(bytes.len()))?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(netns: &str, interface: &str, options: i32) -> SocketMetadata {
        SocketMetadata { netns: netns.into(), interface: interface.into(), options }
    }

    #[test]
    fn a_batch_has_the_layout_that_haproxy_reads() {
        let bytes = encode_batch(&[record("", "eth0", 7)]).unwrap();
        let mut expected = b"\0\x04eth0".to_vec();
        expected.extend(7i32.to_ne_bytes());
        assert_eq!(bytes, expected);
    }

    #[test]
    fn batches_round_trip() {
        let records =
            vec![record("", "", 0), record("blue", "", -1), record("", "lo", 1), record(&"n".repeat(127), "if", 2)];
        assert_eq!(decode_batch(&encode_batch(&records).unwrap()).unwrap(), records);
        assert_eq!(decode_batch(b"").unwrap(), vec![]);
    }

    #[test]
    fn a_batch_cut_anywhere_is_refused_or_ends_between_records() {
        let records = vec![record("blue", "eth0", 1), record("", "lo", 2)];
        let bytes = encode_batch(&records).unwrap();
        let first = encode_batch(&records[..1]).unwrap().len();
        for cut in 1..bytes.len() {
            assert_eq!(decode_batch(&bytes[..cut]).is_ok(), cut == first, "cut at {cut}");
        }
    }

    #[test]
    fn names_that_haproxy_would_misread_are_refused() {
        assert!(encode_batch(&[record(&"n".repeat(128), "", 0)]).is_err());
    }

    #[test]
    fn impossible_counts_are_refused() {
        assert_eq!(decode_count(&encode_count(3000)), Ok(3000));
        assert_eq!(decode_count(&(-1i32).to_ne_bytes()), Err(CodecError::Count(-1)));
        assert_eq!(decode_count(&i32::MAX.to_ne_bytes()), Err(CodecError::Count(i32::MAX)));
        assert_eq!(decode_count(b"abc"), Err(CodecError::Truncated(3)));
    }
}
