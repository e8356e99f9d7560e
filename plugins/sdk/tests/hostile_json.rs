//! Floods of documents that no reader should trust: thousands of each leave nothing behind in memory.
//!
//! Alone in its file, because it looks at the memory of the whole process.

use metagov_sdk::contract::{Command, ProblemKind};

/// What the process has in memory now, in bytes, as Linux tells it.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("these tests run on Linux");
    let pages: usize =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("its second word is a number");
    pages * 4096
}

#[test]
fn a_flood_of_hostile_documents_leaves_memory_flat() {
    let body = |parameters: &str| format!("{{\"community\":\"acme\",\"parameters\":{parameters}}}").into_bytes();
    let nested = |depth: usize| body(&format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)));
    let documents = [
        nested(100_000),
        nested(127),
        body("{\"a\":1,\"a\":2}"),
        body("{\"a\":1e400}"),
        body("{\"a\":\"\\u0000\"}"),
        body("{\"a\":\"\\ud800\"}"),
        b"{\"community\":\"\xff\"}".to_vec(),
        [b"\xef\xbb\xbf".as_slice(), &body("{}")].concat(),
        [body("{}"), b"{}".to_vec()].concat(),
        Vec::new(),
    ];
    let flood = |times: usize| {
        for document in &documents {
            for _ in 0..times {
                let refused = Command::decode("action.p.a", document).expect_err("it must be refused");
                assert_eq!(refused.problem.kind, ProblemKind::InvalidJson);
            }
        }
    };
    // Compiles schemas and warms the allocator up.
    flood(100);
    let before = resident();
    flood(3_000);
    let grown = resident().saturating_sub(before);
    assert!(grown < 4 * 1024 * 1024, "memory grew by {grown} bytes");

    // A million members are one document, and gone with it.
    let members: Vec<String> = (0..1_000_000).map(|n| format!("\"k{n}\":1")).collect();
    let large = body(&format!("{{{}}}", members.join(",")));
    assert!(Command::decode("action.p.a", &large).is_ok(), "the size is checked before, by the worker");
}
