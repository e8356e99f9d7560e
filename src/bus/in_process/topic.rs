//! Which routing keys a topic pattern wants: `*` is exactly one word, `#` any number of words, also none.
//!
//! <https://www.rabbitmq.com/tutorials/tutorial-five-python#topic-exchange>. Up: [`super::exchange`]. Down: nothing.

/// Whether the pattern wants the key.
pub(super) fn matches(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = key.split('.').collect();
    // `reached[n]`: the pattern's words so far can cover exactly the first n words of the key. Linear in both, where
    // the obvious recursion explodes on `#.#.#.#`.
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    for word in pattern {
        let mut next = vec![false; key.len() + 1];
        for covered in 0..=key.len() {
            next[covered] = if word == "#" {
                reached[covered] || (covered > 0 && next[covered - 1])
            } else {
                covered > 0 && reached[covered - 1] && (word == "*" || word == key[covered - 1])
            };
        }
        reached = next;
    }
    reached[key.len()]
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn words_and_wildcards_match_as_on_a_topic_exchange() {
        for (pattern, key) in [
            ("a.b", "a.b"),
            ("a.*", "a.b"),
            ("#", "a"),
            ("#", "a.b.c"),
            ("a.#", "a"),
            ("a.#", "a.b.c"),
            ("#.c", "a.b.c"),
            ("a.#.c", "a.c"),
            ("a.#.c", "a.b.b.c"),
            ("*.b.#", "a.b"),
            ("#.#", "a"),
        ] {
            assert!(matches(pattern, key), "{pattern} should want {key}");
        }
        for (pattern, key) in
            [("a.b", "a"), ("a.*", "a"), ("a.*", "a.b.c"), ("*", "a.b"), ("a.#.c", "a.b"), ("A", "a"), ("a.b", "a.b.c")]
        {
            assert!(!matches(pattern, key), "{pattern} should not want {key}");
        }
    }

    #[test]
    fn many_hashes_take_no_longer_than_one() {
        assert!(!matches(&format!("{}b", "#.".repeat(60)), &format!("{}c", "a.".repeat(120))));
    }
}
