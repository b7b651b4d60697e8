use super::*;
use crate::kernel::devices::LO;
use crate::kernel::tc::golden::hex;

fn added(message: TcMessage) -> String {
    hex(&RouteNetlinkMessage::NewQueueDiscipline(message), CREATE)
}

fn removed(message: TcMessage) -> String {
    hex(&RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_ACK)
}

#[test]
fn prio_is_added_with_the_bytes_of_tc() {
    // tc qdisc add dev lo root handle fe1d: prio bands 16 priomap 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
    let expected = "4c0000002400050600000000000000000000000001000000\
        00001dfeffffffff00000000090001007072696f000000001c000200100000000000000000000000000000000000000004000200";
    assert_eq!(added(prio(LO, 0xfe1d_0000)), expected);
}

#[test]
fn plug_is_added_released_and_removed_with_the_bytes_of_tc() {
    // tc qdisc add dev lo parent fe1d:2 handle 7: plug limit 1048576
    let expected = "3c0000002400050600000000000000000000000001000000\
        0000070002001dfe0000000009000100706c7567000000000c0002000300000000001000";
    assert_eq!(added(plug(LO, 0xfe1d_0002, 0x7_0000, TCQ_PLUG_LIMIT, 1_048_576)), expected);

    // tc qdisc change dev lo parent fe1d:2 handle 7: plug release_indefinite
    let expected = "3c0000002400050000000000000000000000000001000000\
        0000070002001dfe0000000009000100706c7567000000000c0002000200000000000000";
    let release = plug(LO, 0xfe1d_0002, 0x7_0000, TCQ_PLUG_RELEASE_INDEFINITE, 0);
    assert_eq!(hex(&RouteNetlinkMessage::NewQueueDiscipline(release), NLM_F_ACK), expected);

    // tc qdisc del dev lo parent fe1d:2 handle 7:
    let expected = "240000002500050000000000000000000000000001000000\
        0000070002001dfe00000000";
    assert_eq!(removed(message_at(LO, 0xfe1d_0002, 0x7_0000)), expected);

    // tc qdisc del dev lo root handle fe1d:
    let expected = "240000002500050000000000000000000000000001000000\
        00001dfeffffffff00000000";
    assert_eq!(removed(message_at(LO, ROOT, 0xfe1d_0000)), expected);
}
