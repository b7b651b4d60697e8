//! Writes the messages that add and remove u32 filters. Formats: linux/pkt_cls.h.

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32Option, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector,
    TcU32SelectorFlags,
};

use super::table::{FilterPosition, HeaderSkip, Key, ROOT_TABLE, U32Action};
use crate::kernel::tc::message::message_at;

pub(super) fn table(position: &FilterPosition) -> TcMessage {
    filter(position, 0, vec![TcFilterU32Option::Divisor(1)])
}

pub(super) fn entry(
    position: &FilterPosition,
    table: u32,
    number: u16,
    keys: &[Key],
    action: &U32Action<u32>,
) -> TcMessage {
    let mut selector = selector(keys);
    let mut options = match action {
        U32Action::Class(class) => {
            selector.flags = TcU32SelectorFlags::Terminal;
            vec![TcFilterU32Option::ClassId((*class).into())]
        }
        U32Action::Redirect(device) => {
            selector.flags = TcU32SelectorFlags::Terminal;
            vec![TcFilterU32Option::Action(vec![redirect(*device)])]
        }
        U32Action::Jump(table, skip) => {
            if let Some(skip) = skip {
                skip.write_to(&mut selector);
            }
            vec![TcFilterU32Option::Link(*table)]
        }
    };
    if table != ROOT_TABLE {
        options.push(TcFilterU32Option::Hash(table));
    }
    options.push(TcFilterU32Option::Selector(selector));
    filter(position, number.into(), options)
}

pub(super) fn marker(position: &FilterPosition, number: u16, class: u32) -> TcMessage {
    // The version of an IP packet is never 0.
    const NO_PACKET: Key = Key { offset: 0, mask: 0xff00_0000, value: 0 };
    entry(position, ROOT_TABLE, number, &[NO_PACKET], &U32Action::Class(class))
}

fn selector(keys: &[Key]) -> TcU32Selector {
    let mut selector = TcU32Selector::default();
    selector.nkeys = keys.len() as u8;
    selector.keys = keys
        .iter()
        .map(|key| {
            let mut word = TcU32Key::default();
            (word.mask, word.val, word.off) = (key.mask, key.value, key.offset);
            word
        })
        .collect();
    selector
}

impl HeaderSkip {
    fn write_to(&self, selector: &mut TcU32Selector) {
        selector.flags = TcU32SelectorFlags::Eat;
        selector.off = self.bytes;
        if self.bytes > 0 {
            selector.flags |= TcU32SelectorFlags::Offset;
        }
        if let Some(field) = self.length_field {
            selector.flags |= TcU32SelectorFlags::VarOffset;
            (selector.offoff, selector.offmask, selector.offshift) = (field.offset, field.mask, field.shift);
        }
    }
}

fn redirect(device: u32) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = device;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}

fn filter(position: &FilterPosition, handle: u32, options: Vec<TcFilterU32Option>) -> TcMessage {
    let mut message = message(position, handle);
    message.attributes.push(TcAttribute::Kind("u32".into()));
    message.attributes.push(TcAttribute::Options(options.into_iter().map(TcOption::U32).collect()));
    message
}

pub(super) fn removal(position: &FilterPosition, handle: u32) -> RouteNetlinkMessage {
    let mut message = message(position, handle);
    if handle != 0 {
        message.attributes.push(TcAttribute::Kind("u32".into()));
    }
    RouteNetlinkMessage::DelTrafficFilter(message)
}

fn message(position: &FilterPosition, handle: u32) -> TcMessage {
    let mut message = message_at(position.device, position.parent, handle);
    message.header.info = u32::from(position.preference) << 16 | u32::from((position.protocol as u16).to_be());
    message
}

#[cfg(test)]
mod tests;
