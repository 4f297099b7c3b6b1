//! Hellos of any kind.

use forge_egress::client_hello::{MOST_BYTES, Progress, length, parse};
use proptest::prelude::*;

fn vector(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    [&length.to_be_bytes(), content].concat()
}

/// A hello in records of the given size, with a name and extensions that mean nothing here.
fn stream(name: &str, others: &[Vec<u8>], record: usize) -> Vec<u8> {
    let list = [&[0][..], &vector(name.as_bytes())].concat();
    let mut extensions = [&[0, 0][..], &vector(&vector(&list))].concat();
    for (kind, content) in (0x1000_u16..).zip(others) {
        extensions.extend([&kind.to_be_bytes()[..], &vector(content)].concat());
    }
    let body = [
        &[3, 3][..],
        &[5; 32],
        &[0],
        &vector(&[0x13, 1]),
        &[1, 0],
        &vector(&extensions),
    ]
    .concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    message
        .chunks(record)
        .flat_map(|fragment| [vec![22, 3, 1], vector(fragment)].concat())
        .collect()
}

fn hello() -> impl Strategy<Value = (String, Vec<u8>)> {
    let others = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6);
    ("[a-z]{1,20}\\.example", others, 1..400_usize)
        .prop_map(|(name, others, record)| (name.clone(), stream(&name, &others, record)))
}

/// What feeding one byte more at a time comes to, and after how many.
fn fed(bytes: &[u8]) -> (usize, Progress) {
    for end in 0..bytes.len() {
        let progress = parse(&bytes[..end]);
        if progress != Progress::NeedMore {
            return (end, progress);
        }
    }
    (bytes.len(), parse(bytes))
}

proptest! {
    #[test]
    fn any_bytes_are_judged_alike_in_one_piece_and_byte_by_byte(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        as_record in any::<bool>(),
    ) {
        let start: &[u8] = if as_record { &[22, 3, 1, 0] } else { &[] };
        let bytes = [start, &bytes].concat();
        prop_assert_eq!(fed(&bytes).1, parse(&bytes));
    }

    #[test]
    fn a_hello_gives_its_name_once_it_is_whole((name, bytes) in hello(), tail in prop::collection::vec(any::<u8>(), 0..50)) {
        let (taken, progress) = fed(&bytes);
        prop_assert_eq!(taken, bytes.len());
        let Progress::Hello(found) = progress else { panic!("{progress:?}") };
        prop_assert_eq!(found.sni.as_ref(), Some(&name));
        prop_assert!(!found.has_ech);
        let longer = [bytes, tail].concat();
        prop_assert_eq!(length(&longer), Some(taken));
        prop_assert_eq!(parse(&longer), Progress::Hello(found));
    }

    #[test]
    fn a_spoilt_hello_is_judged_alike_however_it_comes(
        (name, mut bytes) in hello(),
        spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (index, byte) in spoils {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        let whole = parse(&bytes);
        prop_assert_eq!(&fed(&bytes).1, &whole);
        // Whatever name is found is one that could be compared.
        if let Progress::Hello(found) = whole {
            let sni = found.sni.unwrap_or(name);
            prop_assert!(!sni.is_empty() && sni.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }

    #[test]
    fn a_hello_is_never_awaited_beyond_the_bound(kind in prop_oneof![Just(1_u8), any::<u8>()], size in 0..3000_u16) {
        let mut bytes = Vec::new();
        while bytes.len() < MOST_BYTES {
            let first = bytes.is_empty();
            bytes.extend([22, 3, 3]);
            let mut fragment = vec![0; usize::from(size) + 4];
            if first {
                fragment[..4].copy_from_slice(&[kind, 0, 0x3f, 0]);
            }
            bytes.extend(vector(&fragment));
        }
        prop_assert_eq!(parse(&bytes), Progress::Malformed);
    }
}
