//! Routing keys: community, plugin, and what happened, one on each line.
//!
//! Whatever the words are, a key that is built has at most 255 bytes, the words that it is to have, and no character
//! that means something to a broker; and a key that is read is written the same.

use metagov_sdk::contract::{
    CommandKey, CommandRejected, CommunitySlug, EventBody, EventScope, Name, PlatformEvent, Problem, ProblemKind,
    Timestamp, routing::safe_word,
};
use serde_json::Value;

/// Panics where the property does not hold.
pub(crate) fn holds(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.splitn(3, '\n');
    let (community, plugin) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let happened = lines.next().unwrap_or_default();

    let word = safe_word(happened);
    assert!((1..=64).contains(&word.len()) && word.bytes().all(is_safe), "{word:?}");
    assert_eq!(safe_word(&word), word, "what is safe stays as it is");

    if let Some(key) = CommandKey::parse(&text) {
        assert_eq!(key.to_string(), text, "another key than was read");
        assert!(text.len() <= 255 && text.split('.').all(|word| word.bytes().all(is_safe)), "{text:?}");
    }

    let scope = EventScope {
        community: CommunitySlug::new(community).ok(),
        plugin: Name::new(plugin).ok(),
        correlation_id: None,
        causation_id: None,
        traceparent: None,
        time: Timestamp::UNIX_EPOCH,
    };
    let event = PlatformEvent { event_type: happened.to_owned(), data: Value::Null, initiator: None };
    built(&EventBody::Platform(event).routing_key(&scope), 4);
    let problem = Problem::new(ProblemKind::UnknownCommand, "no command has this routing key");
    let rejected = CommandRejected { routing_key: text.into_owned(), problem };
    built(&EventBody::CommandRejected(rejected).routing_key(&scope), 4);
}

fn built(key: &str, words: usize) {
    assert!(key.len() <= 255, "{} bytes", key.len());
    assert_eq!(key.split('.').count(), words, "{key:?}");
    assert!(key.split('.').all(|word| !word.is_empty() && word.bytes().all(is_safe)), "{key:?}");
}

fn is_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}
