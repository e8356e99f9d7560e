//! Every event that a driver heard, whatever caused it: whether two of one id differ, whether the sequence of a process has
//! gaps or two ends, and what is known of a process last.
//!
//! It keeps what takes to judge events and not the events themselves, for an hour of them would not fit. Up:
//! [`crate::book`], which notes down, and [`crate::checker`].

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;
use uuid::Uuid;

/// All that was heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Each id, with what tells its body apart.
    bodies: HashMap<Uuid, u64>,
    /// Ids that came with two bodies.
    pub(crate) differing: HashSet<Uuid>,
    processes: HashMap<Uuid, Heights>,
    /// What a plugin announced under each word of its platform.
    announced: HashMap<String, Sum>,
}

/// The sequence of one process.
#[derive(Debug, Default)]
struct Heights {
    heard: BTreeSet<i64>,
    /// Two events at one place of the sequence.
    twice: bool,
    /// How many events say that it has ended.
    ends: usize,
    /// What the one with the highest place says.
    last: Value,
}

/// Numbers: how many, and their sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) times: u64,
    pub(crate) sum: u64,
}

impl Sum {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { times: self.times + other.times, sum: self.sum + other.sum }
    }
}

impl Heard {
    /// An event has come; `body` tells bodies apart.
    pub(crate) fn note(&mut self, event: &Value, body: u64) {
        let id: Uuid = event["id"].as_str().and_then(|id| id.parse().ok()).expect("an event has an id");
        match self.bodies.insert(id, body) {
            Some(before) => {
                if before != body {
                    self.differing.insert(id);
                }
                return;
            }
            None => self.note_number(event),
        }
        let (Some(sequence), Some(process)) = (event["sequence"].as_i64(), event["subject"].as_str()) else { return };
        let Ok(process) = process.parse() else { return };
        let heights = self.processes.entry(process).or_default();
        if heights.heard.last().is_none_or(|highest| sequence > *highest) {
            heights.last = event["data"].clone();
        }
        heights.twice |= !heights.heard.insert(sequence);
        heights.ends += usize::from(["completed", "failed"].iter().any(|end| event["data"]["status"] == **end));
    }

    /// A platform's event with a word and a number, as the puppet tells them.
    fn note_number(&mut self, event: &Value) {
        let data = &event["data"]["data"];
        if let (Some(word), Some(number)) = (data["key"].as_str(), data["number"].as_u64()) {
            let sum = self.announced.entry(word.to_owned()).or_default();
            sum.times += 1;
            sum.sum += number;
        }
    }

    /// How many of these events never came.
    pub(crate) fn missing(&self, stored: &[Uuid]) -> usize {
        stored.iter().filter(|id| !self.bodies.contains_key(id)).count()
    }

    /// Processes whose sequence does not begin with 1, leaves a place out, has two events at one, or ends twice.
    pub(crate) fn gaps(&self) -> usize {
        let whole = |heights: &&Heights| {
            let count = i64::try_from(heights.heard.len()).unwrap_or(i64::MAX);
            heights.heard.first() == Some(&1)
                && heights.heard.last() == Some(&count)
                && !heights.twice
                && heights.ends <= 1
        };
        self.processes.values().filter(|heights| !whole(heights)).count()
    }

    /// The record of a process that its latest event carried.
    pub(crate) fn record(&self, process: Uuid) -> Option<&Value> {
        self.processes.get(&process).map(|heights| &heights.last)
    }

    /// What was announced under this word.
    pub(crate) fn announced(&self, word: &str) -> Sum {
        self.announced.get(word).copied().unwrap_or_default()
    }
}
