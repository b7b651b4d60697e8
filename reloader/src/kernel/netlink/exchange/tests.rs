use rtnetlink::packet_core::NLM_F_DUMP;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::*;

/// A kernel that gives these datagrams for each request, one after the other, with the request's sequence number in every
/// message that has the number 0.
struct Planted {
    answers: Vec<Vec<Vec<u8>>>,
    requests: usize,
    waiting: Vec<Vec<u8>>,
}

impl Channel for Planted {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.waiting = self.answers.get(self.requests).cloned().unwrap_or_default();
        self.waiting.iter_mut().for_each(|datagram| number(datagram, &request[SEQUENCE]));
        self.waiting.reverse();
        self.requests += 1;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        self.waiting.pop().ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

fn number(mut datagram: &mut [u8], sequence: &[u8]) {
    while let Some(length) = datagram.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        let (message, rest) = datagram.split_at_mut(length);
        if message[SEQUENCE] == [0; 4] {
            message[SEQUENCE].copy_from_slice(sequence);
        }
        datagram = rest;
    }
}

fn link(index: u32, flags: u16) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    encode(RouteNetlinkMessage::NewLink(link), flags)
}

/// NLMSG_DONE, with the code of the dump behind its header.
fn done(flags: u16) -> Vec<u8> {
    let mut message = [20_u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4], [0; 4]].concat();
    message[4] = 3;
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message
}

/// The devices' numbers that are listed, and how often the list was asked for.
fn listed(answers: Vec<Vec<Vec<u8>>>, repeat_within: Duration) -> io::Result<(Vec<u32>, usize)> {
    let mut kernel = Planted { answers, requests: 0, waiting: Vec::new() };
    let request = encode(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP);
    let messages: Vec<RouteNetlinkMessage> = exchange(&mut kernel, request, repeat_within)?;
    let index = |message| match message {
        RouteNetlinkMessage::NewLink(link) => link.header.index,
        other => panic!("{other:?}"),
    };
    Ok((messages.into_iter().map(index).collect(), kernel.requests))
}

#[test]
fn consistent_list_is_read_once() {
    let answers = vec![vec![[link(1, 0), link(2, 0)].concat(), done(0)]];
    assert_eq!(listed(answers, Duration::MAX).unwrap(), (vec![1, 2], 1));
}

#[test]
fn list_that_changed_is_read_again() {
    let whole = vec![[link(1, 0), link(2, 0), done(0)].concat()];
    let changed_at_a_device = vec![[link(1, NLM_F_DUMP_INTR), link(3, 0)].concat(), done(0)];
    assert_eq!(listed(vec![changed_at_a_device, whole.clone()], Duration::MAX).unwrap(), (vec![1, 2], 2));
    let changed_at_the_end = vec![link(1, 0), done(NLM_F_DUMP_INTR)];
    assert_eq!(listed(vec![changed_at_the_end, whole], Duration::MAX).unwrap(), (vec![1, 2], 2));
}

#[test]
fn list_that_changes_each_time_is_repeated_three_times_at_most() {
    let changed = |index| vec![link(index, NLM_F_DUMP_INTR), done(0)];
    assert_eq!(listed((1..=9).map(changed).collect(), Duration::MAX).unwrap(), (vec![4], 4));
    assert_eq!(listed((1..=9).map(changed).collect(), Duration::ZERO).unwrap(), (vec![1], 1));
}

#[test]
fn answer_to_another_request_is_skipped() {
    let mut of_another = [link(7, 0), done(0)].concat();
    number(&mut of_another, &77_u32.to_ne_bytes());
    assert_eq!(listed(vec![vec![of_another, link(1, 0), done(0)]], Duration::MAX).unwrap(), (vec![1], 1));
}

#[test]
fn list_that_fails_half_way_is_an_error() {
    let mut failed = done(0);
    failed[16..].copy_from_slice(&(-16_i32).to_ne_bytes());
    let error = listed(vec![vec![link(1, 0), failed]], Duration::MAX).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(16));
}

#[test]
fn device_with_an_unreadable_alias_stays_in_the_list() {
    let mut aliased = LinkMessage::default();
    aliased.header.index = 2;
    aliased.attributes.push(LinkAttribute::IfAlias("Zurich".into()));
    let mut aliased = encode(RouteNetlinkMessage::NewLink(aliased), 0);
    let alias = aliased.windows(6).position(|bytes| bytes == b"Zurich").unwrap();
    // In Latin-1.
    aliased[alias + 1] = 0xfc;
    let answers = vec![vec![[link(1, 0), aliased, link(3, 0)].concat(), done(0)]];
    assert_eq!(listed(answers, Duration::MAX).unwrap(), (vec![1, 2, 3], 1));
}
