//! Every call of the store names its community, so that no question is answered with another one's rows.
//!
//! Reads the signatures of `pub fn` in `impl Store`: one of the parameters is of a type that holds a community. What is
//! asked for the whole service stands in [`FOR_THE_WHOLE_SERVICE`], with the reason. It sees signatures, not statements:
//! that a statement filters by what it was given is for `tests/store`.

use std::{fs, path::Path, str::FromStr};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The types that name a community.
const NAME_IT: &[&str] = &["CommunitySlug", "InboxEntry", "Unit"];

/// Calls without a community, and why each may be.
const FOR_THE_WHOLE_SERVICE: &[(&str, &str)] = &[
    ("connect", "opens the database"),
    ("ping", "asks for nothing"),
    ("now", "asks the clock"),
    ("migrate", "changes the schema, reads no rows"),
    ("pending_migrations", "reads the schema's version"),
    ("claim_due_processes", "one scan wakes what is due anywhere; each row says whose it is"),
    ("claim_due_ticks", "one scan wakes what is due anywhere; each row says whose it is"),
    ("unpublished", "the relay publishes what a crash left; each row goes out under its own routing key"),
    ("mark_published", "by ids that were handed out with their community; one statement for a batch of many"),
    ("put_off", "by ids that were handed out with their community; one statement for a batch of many"),
    ("overdue", "a count of what is left behind, for a gauge"),
    ("due_plugins", "names of plugins; no community's row is told"),
    ("set_right_due_times", "when the clock has jumped, for everybody; a count is told, and no row"),
    ("every_instance", "`keys rotate` seals all secrets anew, and shows none"),
    ("reseal", "by ids that were handed out with their community"),
    ("begun_and_not_ended", "by a UUID that follows from community and key; the table holds nothing else of them"),
    ("begin_suspect", "by a UUID that follows from community and key; the table holds nothing else of them"),
    ("end_suspect", "by the id of one handling"),
    ("acquit", "by a UUID that follows from community and key; the table holds nothing else of them"),
    ("uncertain_runs", "the operator's list; its filter names a community where one is asked for"),
    ("uncertain_run", "by an id from the operator's list"),
    ("decide", "by an id from the operator's list"),
    ("note_run_again", "by an id from the operator's list"),
    ("instances_by_platform_id", "a platform's webhook for all communities: only the gateway and `*` may send one"),
];

/// The public functions of `impl Store` in a source, each with the words of its parameters.
fn calls(stream: TokenStream) -> Vec<(String, Vec<String>)> {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let is = |at: usize, word: &str| matches!(tokens.get(at), Some(TokenTree::Ident(found)) if found == word);
    let mut calls = Vec::new();
    for at in 0..tokens.len() {
        if is(at, "impl")
            && is(at + 1, "Store")
            && let Some(TokenTree::Group(body)) = tokens.get(at + 2)
        {
            calls.extend(functions(body.stream()));
        }
    }
    calls
}

fn functions(body: TokenStream) -> Vec<(String, Vec<String>)> {
    let tokens: Vec<TokenTree> = body.into_iter().collect();
    let word = |at: usize| match tokens.get(at) {
        Some(TokenTree::Ident(word)) => word.to_string(),
        _ => String::new(),
    };
    let mut found = Vec::new();
    for at in (0..tokens.len()).filter(|at| word(*at) == "pub") {
        let at = (at + 1..tokens.len()).find(|at| !["async", "const"].contains(&word(*at).as_str())).unwrap_or(at);
        if word(at) != "fn" {
            // `pub(super)`: the store's own affair.
            continue;
        }
        let arguments = tokens[at..].iter().find_map(|token| match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => Some(group.stream()),
            _ => None,
        });
        found.push((word(at + 1), arguments.map(words).unwrap_or_default()));
    }
    found
}

fn words(stream: TokenStream) -> Vec<String> {
    stream
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Ident(word) => vec![word.to_string()],
            TokenTree::Group(group) => words(group.stream()),
            TokenTree::Punct(_) | TokenTree::Literal(_) => Vec::new(),
        })
        .collect()
}

fn names_no_community(calls: &[(String, Vec<String>)]) -> Vec<&str> {
    let names = |words: &[String]| words.iter().any(|word| NAME_IT.contains(&word.as_str()));
    calls.iter().filter(|(_, words)| !names(words)).map(|(name, _)| name.as_str()).collect()
}

#[test]
fn every_store_call_names_its_community_or_why_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("the store is there") {
        let path = entry.expect("it can be read").path();
        if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).expect("it can be read");
            all.extend(calls(TokenStream::from_str(&text).expect("it is Rust")));
        }
    }
    assert!(all.len() > 15, "the calls of the store are found: {all:?}");
    let without = names_no_community(&all);
    let unexplained: Vec<_> =
        without.iter().filter(|name| !FOR_THE_WHOLE_SERVICE.iter().any(|(known, _)| known == *name)).collect();
    assert!(unexplained.is_empty(), "calls of the store that name no community: {unexplained:?}");
    let stale: Vec<_> = FOR_THE_WHOLE_SERVICE.iter().filter(|(name, _)| !without.contains(name)).collect();
    assert!(stale.is_empty(), "exceptions that are none any more: {stale:?}");
}

#[test]
fn a_call_without_a_community_is_seen() {
    let text = "impl Store {
        pub(super) fn inner(&self) {}
        pub async fn process(&self, id: Uuid) -> Process {}
        pub async fn seen(&self, community: &CommunitySlug, id: Uuid) {}
        pub fn commit(&self, units: Vec<Unit>) {}
    }
    impl Other { pub fn elsewhere(&self) {} }";
    let found = calls(TokenStream::from_str(text).expect("it is Rust"));
    assert_eq!(names_no_community(&found), ["process"]);
}
