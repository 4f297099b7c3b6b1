//! What `chunks_vectored` gives for buffers put together from others.
#![cfg(feature = "std")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{IoSlice, Write};

use bytes::{Buf, Bytes, BytesMut};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread allocates.
struct Counting;

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        System.alloc(layout)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        System.dealloc(pointer, layout)
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The slices for room of `room`, and what stands behind them.
fn slices<B: Buf + ?Sized>(buf: &B, room: usize) -> Vec<Vec<u8>> {
    const MARK: &[u8] = b"untouched";
    let mut dst = vec![IoSlice::new(MARK); room];
    let n = buf.chunks_vectored(&mut dst);
    assert!(n <= room, "{} slices in room for {}", n, room);
    if n == 0 {
        assert!(dst.iter().all(|slice| slice.as_ptr() == MARK.as_ptr()), "dst was written to");
    }
    dst[..n].iter().map(|slice| slice.to_vec()).collect()
}

fn strings<B: Buf + ?Sized>(buf: &B, room: usize) -> Vec<String> {
    slices(buf, room).into_iter().map(|slice| String::from_utf8(slice).unwrap()).collect()
}

/// Checks every room there can be against the pieces that are expected.
fn check<B: Buf + ?Sized>(buf: &B, pieces: &[&[u8]]) {
    let whole: Vec<u8> = pieces.concat();
    assert_eq!(buf.remaining(), whole.len());
    for room in 0..pieces.len() + 4 {
        let expected = &pieces[..room.min(pieces.len())];
        assert_eq!(slices(buf, room), expected, "room for {}", room);
    }
}

/// Sends everything by vectored writes that take at most `at_once` bytes each.
fn send<B: Buf>(mut buf: B, room: usize, at_once: usize) -> Vec<u8> {
    let mut sent = Vec::new();
    while buf.has_remaining() {
        let mut dst = vec![IoSlice::new(&[]); room];
        let n = buf.chunks_vectored(&mut dst);
        assert!(n > 0, "nothing to send although {} bytes remain", buf.remaining());
        let mut written = Vec::new();
        written.write_vectored(&dst[..n]).unwrap();
        written.truncate(at_once);
        buf.advance(written.len());
        sent.extend(written);
    }
    sent
}

#[test]
fn chains_on_the_left() {
    let buf = (&b"header "[..]).chain(&b"body "[..]).chain(&b"trailer"[..]);
    check(&buf, &[b"header ", b"body ", b"trailer"]);
    let buf = buf.chain(Bytes::from_static(b"!")).chain(&b"?"[..]).chain(&b"."[..]);
    check(&buf, &[b"header ", b"body ", b"trailer", b"!", b"?", b"."]);
}

#[test]
fn chains_on_the_right_and_on_both_sides() {
    let right = (&b"a"[..]).chain((&b"bb"[..]).chain((&b"ccc"[..]).chain(&b"dddd"[..])));
    check(&right, &[b"a", b"bb", b"ccc", b"dddd"]);
    let left = (&b"1"[..]).chain(&b"22"[..]).chain(&b"333"[..]);
    check(&left.chain(right), &[b"1", b"22", b"333", b"a", b"bb", b"ccc", b"dddd"]);
}

#[test]
fn empty_parts_take_no_room() {
    let none = &b""[..];
    check(&none.chain(none).chain(none), &[]);
    check(&none.chain(&b"a"[..]).chain(none).chain(none.chain(&b"b"[..])), &[b"a", b"b"]);
    check(&(&b"a"[..]).chain(none).chain(&b"b"[..]).chain(Bytes::new()).chain(&b"c"[..]), &[b"a", b"b", b"c"]);
    check(&none.take(5).chain((&b"a"[..]).take(0)).chain((&b"b"[..]).take(3)), &[b"b"]);
}

#[test]
fn chains_that_are_partly_read() {
    let mut buf = (&b"abc"[..]).chain(&b"def"[..]).chain(&b"ghi"[..]);
    buf.advance(2);
    check(&buf, &[b"c", b"def", b"ghi"]);
    buf.advance(1);
    check(&buf, &[b"def", b"ghi"]);
    assert_eq!(buf.get_u8(), b'd');
    check(&buf, &[b"ef", b"ghi"]);
    buf.advance(4);
    check(&buf, &[b"i"]);
    buf.advance(1);
    check(&buf, &[]);
}

#[test]
fn take_of_one_slice() {
    let text = &b"hello world"[..];
    check(&text.take(0), &[]);
    check(&text.take(1), &[b"h"]);
    check(&text.take(5), &[b"hello"]);
    check(&text.take(11), &[text]);
    check(&text.take(12), &[text]);
    check(&text.take(usize::MAX), &[text]);
    let mut buf = text.take(7);
    buf.advance(4);
    check(&buf, &[b"o w"]);
    buf.set_limit(1);
    check(&buf, &[b"o"]);
    buf.advance(1);
    check(&buf, &[]);
    buf.set_limit(100);
    check(&buf, &[b" world"]);
}

#[test]
fn take_of_several_slices() {
    let pieces: [&[u8]; 4] = [b"ab", b"cde", b"f", b"ghij"];
    let whole = pieces.concat();
    for limit in 0..=whole.len() + 2 {
        let mut expected: Vec<&[u8]> = Vec::new();
        let mut left = limit;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            let size = piece.len().min(left);
            if size > 0 {
                expected.push(&piece[..size]);
            }
            left -= size;
        }
        let buf = pieces[0].chain(pieces[1]).chain(pieces[2]).chain(pieces[3]).take(limit);
        check(&buf, &expected);
        let buf = pieces[0].chain(pieces[1].chain(pieces[2].chain(pieces[3]))).take(limit);
        check(&buf, &expected);
    }
}

#[test]
fn the_rest_stays_behind_a_take() {
    let mut stream = (&b"frame one|fra"[..]).chain(&b"me two|"[..]).chain(&b"rest"[..]);
    assert_eq!(send((&mut stream).take(10), 4, 3), b"frame one|");
    assert_eq!(strings(&(&mut stream).take(10), 4), ["fra", "me two|"]);
    assert_eq!(send((&mut stream).take(10), 1, 100), b"frame two|".to_vec());
    assert_eq!(strings(&stream, 9), ["rest"]);
}

#[test]
fn takes_in_chains_in_takes() {
    let frame = (&b"abcdef"[..]).take(4).chain((&b"ghijkl"[..]).take(2)).chain(&b"mnopqr"[..]);
    check(&frame, &[b"abcd", b"gh", b"mnopqr"]);
    check(&frame.clone_parts().take(9), &[b"abcd", b"gh", b"mno"]);
    check(&frame.clone_parts().take(6).chain(&b"!"[..]), &[b"abcd", b"gh", b"!"]);
    check(&frame.clone_parts().take(5).take(4).chain(&b"!"[..]).take(5), &[b"abcd", b"!"]);
    check(&frame.clone_parts().take(4).take(9).take(3), &[b"abc"]);
}

/// Makes the frame of the test above once more.
trait CloneParts {
    type Frame: Buf;
    fn clone_parts(&self) -> Self::Frame;
}

type Part = bytes::buf::Take<&'static [u8]>;
type Frame = bytes::buf::Chain<bytes::buf::Chain<Part, Part>, &'static [u8]>;

impl CloneParts for Frame {
    type Frame = Frame;
    fn clone_parts(&self) -> Frame {
        let (first, second) = (self.first_ref().first_ref(), self.first_ref().last_ref());
        let part = |take: &Part| take.get_ref().take(take.limit());
        part(first).chain(part(second)).chain(*self.last_ref())
    }
}

#[test]
fn through_references_and_boxes() {
    let mut inner = (&b"a"[..]).chain(&b"bc"[..]).chain(&b"def"[..]);
    check(&&mut inner, &[b"a", b"bc", b"def"]);
    check(&(&mut inner).take(4), &[b"a", b"bc", b"d"]);
    let boxed: Box<dyn Buf> = Box::new(inner.take(5));
    let buf = Box::new(boxed.chain(&b"x"[..])).chain(Box::new(&b"yz"[..]) as Box<dyn Buf + Send>);
    check(&buf, &[b"a", b"bc", b"de", b"x", b"yz"]);
    check(&Box::new(buf).take(7), &[b"a", b"bc", b"de", b"x", b"y"]);
}

#[test]
fn other_buffers_inside() {
    let buf = BytesMut::from(&b"mut"[..])
        .chain(std::io::Cursor::new(b"cursor".to_vec()))
        .chain(VecDeque::from(b"deque".to_vec()))
        .take(12);
    check(&buf, &[b"mut", b"cursor", b"deq"]);
}

#[test]
fn slices_are_no_copies() {
    let (a, b) = (Bytes::from(b"hello".to_vec()), Bytes::from(b"world".to_vec()));
    let buf = a.clone().chain(b.clone()).take(8);
    let mut dst = [IoSlice::new(&[]); 3];
    assert_eq!(buf.chunks_vectored(&mut dst), 2);
    assert_eq!((dst[0].as_ptr(), dst[1].as_ptr()), (a.as_ptr(), b.as_ptr()));
    assert_eq!((dst[0].len(), dst[1].len()), (5, 3));
    drop(buf);
}

/// The slices outlive every step of the call: they borrow from the buffer.
#[test]
fn slices_can_be_kept_as_long_as_the_buffer() {
    let buf = (&b"keep"[..]).chain(&b" this"[..]).chain(&b" here"[..]).take(11);
    let kept: Vec<&[u8]> = {
        let mut dst = [IoSlice::new(&[]); 8];
        let n = buf.chunks_vectored(&mut dst);
        let lengths: Vec<usize> = dst[..n].iter().map(|slice| slice.len()).collect();
        assert_eq!(lengths, [4, 5, 2]);
        vec![buf.chunk()]
    };
    assert_eq!(kept, [b"keep"]);
}

#[test]
fn nothing_is_allocated() {
    let buf = (&b"a"[..]).chain(&b"bc"[..]).take(2).chain((&b"def"[..]).chain(&b"ghi"[..]).take(5)).take(6);
    let mut dst = [IoSlice::new(&[]); 40];
    let before = ALLOCATIONS.with(Cell::get);
    let n = buf.chunks_vectored(&mut dst);
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
    assert_eq!(n, 4);
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// A buffer put together at random, and its pieces.
fn compose(random: &mut Random, depth: u32) -> (Box<dyn Buf>, Vec<Vec<u8>>) {
    let kind = if depth == 0 { 0 } else { random.below(5) };
    match kind {
        0 => {
            let bytes: Vec<u8> = (0..random.below(6)).map(|_| b'a' + random.below(26) as u8).collect();
            let pieces = if bytes.is_empty() { Vec::new() } else { vec![bytes.clone()] };
            (Box::new(Bytes::from(bytes)), pieces)
        }
        1 | 2 | 3 => {
            let (a, mut pieces) = compose(random, depth - 1);
            let (b, more) = compose(random, depth - 1);
            pieces.extend(more);
            (Box::new(a.chain(b)), pieces)
        }
        _ => {
            let (inner, pieces) = compose(random, depth - 1);
            let limit = random.below(3 + inner.remaining() as u64) as usize;
            let mut left = limit;
            let mut kept = Vec::new();
            for piece in pieces {
                let size = piece.len().min(left);
                if size > 0 {
                    kept.push(piece[..size].to_vec());
                }
                left -= size;
            }
            (Box::new(inner.take(limit)), kept)
        }
    }
}

#[test]
fn composed_at_random() {
    let mut random = Random(1917);
    let mut long = 0;
    for round in 0..4000 {
        let seed = random.below(1 << 31);
        let (mut buf, mut pieces) = compose(&mut Random(seed), 1 + round % 6);
        long += usize::from(pieces.len() > 4);
        while !pieces.is_empty() {
            let expected: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
            check(&buf, &expected);
            let step = 1 + random.below(pieces[0].len() as u64 + 3) as usize;
            let mut left = step.min(buf.remaining());
            buf.advance(left);
            while left > 0 {
                let size = left.min(pieces[0].len());
                pieces[0].drain(..size);
                left -= size;
                if pieces[0].is_empty() {
                    pieces.remove(0);
                }
            }
        }
        check(&buf, &[]);
        let (_, pieces) = compose(&mut Random(seed), 1 + round % 6);
        for (room, at_once) in [(1, 1), (2, 3), (3, 100), (20, 7)].iter().copied() {
            let (buf, _) = compose(&mut Random(seed), 1 + round % 6);
            assert_eq!(send(buf, room, at_once), pieces.concat());
        }
    }
    assert!(long > 300, "only {} long buffers", long);
}
