//! Tests of the resolver's answers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const FOUND: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);
const TYPES_WITHOUT_ANSWER: [u16; 8] = [2, 10, 15, 16, 28, 33, 65, 255];

/// Gives every name the same address, and remembers what it was asked.
#[derive(Default)]
struct Known {
    asked: Vec<String>,
    is_full: bool,
    reverse: BTreeMap<Ipv4Addr, String>,
}

impl Names for Known {
    fn address_of(&mut self, name: &str) -> Option<Ipv4Addr> {
        self.asked.push(name.to_owned());
        (!self.is_full).then_some(FOUND)
    }

    fn name_of(&mut self, address: Ipv4Addr) -> Option<String> {
        self.reverse.get(&address).cloned()
    }
}

fn query(labels: &[&[u8]], kind: u16, class: u16) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in labels {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label);
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(class.to_be_bytes());
    // An EDNS record, as most resolvers send one.
    message.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    message
}

fn code(message: &[u8]) -> u8 {
    message[3] & 0x0f
}

fn answers(message: &[u8]) -> u8 {
    message[7]
}

#[test]
fn a_name_gets_its_address_and_the_question_comes_back_as_it_was() {
    let mut known = Known::default();
    let asked = query(&[b"WwW", b"Example", b"ORG"], TYPE_A, CLASS_IN);
    let message = answer(&asked, &mut known).unwrap();
    assert_eq!(known.asked, ["www.example.org"]);
    assert_eq!(message[..4], [0xab, 0xcd, 0x81, 0x80]);
    assert_eq!(message[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
    let question = HEADER..HEADER + 17 + 4;
    assert_eq!(message[question.clone()], asked[question.clone()]);
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 64, 0, 1];
    assert_eq!(message[question.end..], record);
}

#[test]
fn everything_but_addresses_of_version_four_is_there_and_empty() {
    for kind in TYPES_WITHOUT_ANSWER {
        let mut known = Known::default();
        let message = answer(&query(&[b"a", b"test"], kind, CLASS_IN), &mut known).unwrap();
        assert_eq!((code(&message), answers(&message)), (0, 0), "{kind}");
        assert!(known.asked.is_empty());
    }
    let message = answer(&query(&[], 2, CLASS_IN), &mut Known::default()).unwrap();
    assert_eq!((code(&message), answers(&message)), (0, 0));
}

#[test]
fn odd_names_do_not_exist() {
    for labels in [
        &[&b"evil\0"[..], b"test"][..],
        &[b"a.b", b"test"],
        &[b"a b", b"test"],
        &[b"\xff", b"test"],
        &[b"-a", b"test"],
        &[b"127", b"0", b"0", b"1"],
    ] {
        let mut known = Known::default();
        let message = answer(&query(labels, TYPE_A, CLASS_IN), &mut known).unwrap();
        assert_eq!((code(&message), answers(&message)), (3, 0), "{labels:?}");
        assert!(known.asked.is_empty());
    }
}

#[test]
fn the_local_host_is_itself() {
    for labels in [&[&b"LOCALHOST"[..]][..], &[b"a", b"localhost"]] {
        let message = answer(&query(labels, TYPE_A, CLASS_IN), &mut Known::default()).unwrap();
        assert!(message.ends_with(&[127, 0, 0, 1]));
    }
    let labels: [&[u8]; 6] = [b"1", b"0", b"0", b"127", b"in-addr", b"ARPA"];
    let message = answer(&query(&labels, TYPE_PTR, CLASS_IN), &mut Known::default()).unwrap();
    assert!(message.ends_with(b"\x09localhost\0"));
}

#[test]
fn an_address_leads_back_to_its_name() {
    let mut known = Known::default();
    known.reverse.insert(FOUND, "www.example.org".to_owned());
    let labels: [&[u8]; 6] = [b"1", b"0", b"64", b"127", b"in-addr", b"arpa"];
    let message = answer(&query(&labels, TYPE_PTR, CLASS_IN), &mut known).unwrap();
    assert!(message.ends_with(b"\x03www\x07example\x03org\0"));
    let labels: [&[u8]; 6] = [b"2", b"0", b"64", b"127", b"in-addr", b"arpa"];
    let message = answer(&query(&labels, TYPE_PTR, CLASS_IN), &mut known).unwrap();
    assert_eq!(code(&message), 3);
}

#[test]
fn what_is_no_proper_query_is_told_or_dropped() {
    let good = query(&[b"a", b"test"], TYPE_A, CLASS_IN);
    let changed = |at: usize, to: u8| {
        let mut message = good.clone();
        message[at] = to;
        answer(&message, &mut Known::default()).map(|message| code(&message))
    };
    assert_eq!(changed(2, 0x81), None, "an answer");
    assert_eq!(changed(2, 0x10), Some(4), "another operation");
    assert_eq!(changed(5, 0), Some(1), "no question");
    assert_eq!(changed(5, 2), Some(1), "two questions");
    assert_eq!(changed(12, 0xc0), Some(1), "a pointer");
    assert_eq!(changed(12, 63), Some(1), "a part longer than the message");
    assert_eq!(answer(&good[..11], &mut Known::default()), None);
    let other = query(&[b"a", b"test"], TYPE_A, 3);
    assert_eq!(code(&answer(&other, &mut Known::default()).unwrap()), 5);
    let long: Vec<&[u8]> = vec![b"aaaaaaaaaaaaaaa"; 17];
    let long = query(&long, TYPE_A, CLASS_IN);
    assert_eq!(code(&answer(&long, &mut Known::default()).unwrap()), 1);
}

#[test]
fn a_table_without_room_is_a_failure_for_now() {
    let mut full = Known {
        is_full: true,
        ..Known::default()
    };
    let message = answer(&query(&[b"a", b"test"], TYPE_A, CLASS_IN), &mut full).unwrap();
    assert_eq!((code(&message), answers(&message)), (2, 0));
}

proptest! {
    #[test]
    fn no_message_leads_to_more_than_a_small_answer(message in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut known = Known::default();
        if let Some(answer) = answer(&message, &mut known) {
            prop_assert!(answer.len() <= 512);
            prop_assert_eq!(&answer[..2], &message[..2]);
            prop_assert!(answer[2] & IS_ANSWER != 0);
        }
    }

    #[test]
    fn every_question_with_a_good_header_is_answered(
        labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..64), 0..6),
        kind in any::<u16>(),
    ) {
        let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
        let mut known = Known::default();
        let message = answer(&query(&labels, kind, CLASS_IN), &mut known).unwrap();
        prop_assert!(message.len() <= 512);
        for name in known.asked {
            prop_assert_eq!(canonical(name.as_bytes()), Some(name));
        }
    }
}
