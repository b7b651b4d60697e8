//! The filters that are there, of any kind and anybody's.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcFilterU32Option, TcMessage, TcOption};

use super::dump;

/// What a filter chain has in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) preference: u16,
    /// ETH_P_… in host byte order.
    pub(crate) protocol: u16,
    /// `u32`, `bpf`, …
    pub(crate) kind: String,
    /// 0 for what stands for the preference itself.
    pub(crate) handle: u32,
    /// The class, of u32 entries that have one.
    pub(crate) class: Option<u32>,
    /// Of `bpf`: the name that its owner gave to the program.
    pub(crate) program: Option<String>,
}

/// The filters of any kind that a parent asks, none where there is no such parent.
///
/// # Errors
/// Where the kernel refuses to list them.
pub(crate) fn list(device: u32, parent: u32) -> io::Result<Vec<Found>> {
    let mut message = TcMessage::with_index(device as i32);
    message.header.parent = parent.into();
    Ok(dump(RouteNetlinkMessage::GetTrafficFilter(message))?
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(filter) => Some(Found::from(filter)),
            _ => None,
        })
        .collect())
}

impl From<&TcMessage> for Found {
    fn from(message: &TcMessage) -> Self {
        let mut found = Self {
            preference: (message.header.info >> 16) as u16,
            protocol: u16::from_be(message.header.info as u16),
            kind: String::new(),
            handle: message.header.handle.into(),
            class: None,
            program: None,
        };
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => found.kind.clone_from(kind),
                TcAttribute::Options(options) => {
                    found.class = options.iter().find_map(class);
                    found.program = options.iter().find_map(program);
                }
                _ => {}
            }
        }
        found
    }
}

fn class(option: &TcOption) -> Option<u32> {
    match option {
        TcOption::U32(TcFilterU32Option::ClassId(class)) => Some((*class).into()),
        _ => None,
    }
}

fn program(option: &TcOption) -> Option<String> {
    match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    }
}
