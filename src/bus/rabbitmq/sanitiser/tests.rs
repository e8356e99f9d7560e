use super::*;

const CONTENT_TYPE: u16 = 0x8000;
const HEADERS: u16 = 0x2000;
const MESSAGE_ID: u16 = 0x0080;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1][..], &number(payload.len()), payload, &[0xce]].concat()
}

/// A content header with these flags and properties.
fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    frame(HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..], &flags.to_be_bytes(), properties].concat())
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&number(bytes.len())[..], bytes].concat()
}

fn entry(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&[u8::try_from(name.len()).expect("short")][..], name, &[kind], value].concat()
}

fn cleaned(mut frame: Vec<u8>) -> Vec<u8> {
    Sanitiser::new(131_072).clean(&mut frame).expect("it is whole");
    frame
}

/// Lists in lists, so many levels deep, the last of them as given.
fn nested(levels: usize, last: Vec<u8>) -> Vec<u8> {
    (0..levels).fold(last, |inner, _| [b"A".to_vec(), long(&inner)].concat())
}

#[test]
fn every_short_text_of_a_header_becomes_utf8_and_nothing_else_changes() {
    let properties = |c: &[u8], k: &[u8], inner: &[u8], id: &[u8]| {
        let table = [
            entry(k, b'S', &long(b"\xff\xfe")),
            entry(b"t", b'F', &long(&entry(inner, b't', &[1]))),
            entry(b"l", b'A', &long(b"I\0\0\0\x07")),
        ];
        [&[3], c, &long(&table.concat()), &[4], id].concat()
    };
    let flags = CONTENT_TYPE | HEADERS | MESSAGE_ID;
    let bad = header(flags, &properties(b"a\xffb", b"\xc3\x28", b"k\x80", b"\xf0\x9f\x98\xff"));
    let good = header(flags, &properties(b"a\x1ab", b"\x1a(", b"k\x1a", b"\x1a\x1a\x1a\x1a"));
    assert_eq!(cleaned(bad), good);
    assert_eq!(cleaned(good.clone()), good, "what is UTF-8 stays");
}

#[test]
fn what_nests_too_deeply_or_cannot_be_read_becomes_bytes_of_the_same_length() {
    let deep = |list: Vec<u8>| header(HEADERS, &long(&entry(b"deep", b'A', &list[1..])));
    assert_eq!(cleaned(deep(nested(DEEPEST, Vec::new()))), deep(nested(DEEPEST, Vec::new())), "as deep as is allowed");
    for deeper in [0, 1, 1500, 20_000] {
        let sent = deep(nested(DEEPEST + 1 + deeper, Vec::new()));
        let bytes = [vec![BYTES], long(&nested(deeper, Vec::new()))].concat();
        assert_eq!(cleaned(sent), deep(nested(DEEPEST, bytes)), "{deeper} deeper");
    }
    let unreadable = header(HEADERS, &long(&entry(b"odd", b'F', &long(&entry(b"k", b'?', b"...")))));
    let shown = header(HEADERS, &long(&entry(b"odd", BYTES, &long(&entry(b"k", b'?', b"...")))));
    assert_eq!(cleaned(unreadable), shown);
}

#[test]
fn headers_that_the_agreed_frame_has_no_room_for_are_left_out_and_the_brokers_stay() {
    let count = entry(b"x-delivery-count", b'l', &[0, 0, 0, 0, 0, 0, 0, 3]);
    let text = |name: &str, length: usize| entry(name.as_bytes(), b'S', &long(&vec![b'.'; length]));
    let table = [text("a", 7200), text("x-large", 9000), text("b", 200), count.clone(), text("c", 800)].concat();
    let properties = |table: &[u8]| [&long(table)[..], b"\x02id"].concat();
    let large = header(HEADERS | MESSAGE_ID, &properties(&table));

    let mut small = large.clone();
    let mut sanitiser = Sanitiser::new(131_072);
    // connection.tune: 2047 channels, frames of 8192 bytes
    sanitiser.clean(&mut frame(METHOD, &[0, 10, 0, 30, 7, 255, 0, 0, 32, 0, 0, 10])).expect("it is whole");
    sanitiser.clean(&mut small).expect("it is whole");
    let kept = [text("b", 200), count, text("c", 800)].concat();
    assert_eq!(small, header(HEADERS | MESSAGE_ID, &properties(&kept)));
    assert_eq!(cleaned(large.clone()), large, "where frames may be larger it stays");
}

#[test]
fn a_broker_without_a_limit_leaves_that_of_the_client() {
    let mut sanitiser = Sanitiser::new(8192);
    assert_eq!(sanitiser.clean(&mut frame(METHOD, &[0, 10, 0, 30, 7, 255, 0, 0, 0, 0, 0, 10])), None);
    assert_eq!(sanitiser.frame_max, 8192);
}

#[test]
fn headers_that_end_too_early_are_those_that_come_before() {
    let good = entry(b"a", b't', &[1]);
    let cut = [good.clone(), entry(b"b", b'S', &[0, 0, 0, 9, b'x'])].concat();
    assert_eq!(cleaned(header(HEADERS, &long(&cut))), header(HEADERS, &long(&good)));
}

#[test]
fn what_ends_too_early_otherwise_is_left_alone() {
    let whole = header(CONTENT_TYPE, b"\x10abc");
    for length in 0..whole.len() {
        let mut cut = whole[..length].to_vec();
        assert_eq!(Sanitiser::new(4096).clean(&mut cut), None);
        assert_eq!(cut, whole[..length]);
    }
}
