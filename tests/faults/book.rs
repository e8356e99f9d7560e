//! The book that a driver keeps: what was sent, and what came back. It only notes down; [`crate::checker`] counts, and
//! [`crate::driver`] writes.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry::Vacant},
    hash::{DefaultHasher, Hash, Hasher},
};

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    command::{Command, Properties},
    heard::Heard,
};

/// What a driver knows of one command.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// When it was first sent.
    pub(crate) sent: Instant,
    /// How often it was sent.
    pub(crate) tries: u32,
    /// Whether the broker confirmed one of them.
    pub(crate) acknowledged: bool,
    /// When its first final event arrived.
    pub(crate) answered: Option<Instant>,
    /// Its final events, each once for each id and body.
    pub(crate) finals: Vec<Final>,
    /// How the kinds begin that answer it, beside a rejection.
    answers: &'static [&'static str],
}

/// A final event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Final {
    /// The event's id.
    pub(crate) id: String,
    /// `action.completed`, `command.rejected`, …
    pub(crate) kind: String,
    /// Tells bodies apart.
    pub(crate) body: u64,
    /// What went wrong, where something did.
    pub(crate) problem: Value,
    /// How often it arrived.
    pub(crate) copies: u32,
}

/// Everything that was sent, and everything that arrived.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// By `message_id`.
    pub(crate) entries: HashMap<String, Entry>,
    /// Causes of final events that nobody sent.
    pub(crate) strangers: Vec<String>,
    /// Words that no event may hold, and those of them that one did.
    pub(crate) unspeakable: Vec<String>,
    pub(crate) spoken: HashSet<String>,
    /// Commands whose answers nobody can recognise: whichever comes is taken for that of the next one.
    nameless: VecDeque<String>,
    /// Every event, whatever it answers.
    pub(crate) heard: Heard,
}

/// How the kinds begin that answer a command. A webhook, which the platform was thanked for, has no answer but a refusal.
fn answers(routing_key: &str) -> &'static [&'static str] {
    let words: Vec<_> = routing_key.split('.').collect();
    match words[..] {
        ["action", ..] => &["action."],
        ["community", ..] => &["community."],
        ["plugin", ..] => &["plugin."],
        ["process", .., "start"] => &["process.started", "process.failed"],
        ["process", .., "close"] => &["process.updated", "process.completed", "process.failed"],
        _ => &[],
    }
}

impl Book {
    /// A command goes out, for the first time or once more.
    pub(crate) fn note_sent(&mut self, command: &Command) {
        let Vacant(place) = self.entries.entry(command.id.clone()) else { return };
        place.insert(Entry {
            sent: Instant::now(),
            tries: 0,
            acknowledged: false,
            answered: None,
            finals: Vec::new(),
            answers: answers(&command.key),
        });
        if matches!(command.properties, Properties::Nameless) {
            self.nameless.push_back(command.id.clone());
        }
    }

    /// An event has come.
    pub(crate) fn note(&mut self, event: &Value, data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        self.spoken.extend(self.unspeakable.iter().filter(|word| text.contains(*word)).cloned());
        let mut hasher = DefaultHasher::new();
        data.hash(&mut hasher);
        let body = hasher.finish();
        self.heard.note(event, body);
        let kind = event["type"].as_str().expect("an event has a type").trim_start_matches("org.metagov.").to_owned();
        let (correlation, causation) = (event["correlationid"].as_str(), event["causationid"].as_str());
        // Both are the same, unless a driver says something strange, which is known by the first. But events of a
        // process carry that of its start there, whatever caused them.
        let cause = if kind.starts_with("process.") { causation.or(correlation) } else { correlation.or(causation) };
        let answers_somebody = ["action.", "command.rejected", "community.", "process.started"];
        let answers_somebody = answers_somebody.iter().any(|start| kind.starts_with(start));
        let cause = match cause {
            Some(cause) => cause.to_owned(),
            None if answers_somebody => self.nameless.pop_front().unwrap_or_default(),
            None => return,
        };
        let Some(entry) = self.entries.get_mut(&cause) else {
            if answers_somebody {
                self.strangers.push(cause);
            }
            return;
        };
        if kind != "command.rejected" && !entry.answers.iter().any(|start| kind.starts_with(start)) {
            return;
        }
        entry.answered.get_or_insert_with(Instant::now);
        let id = event["id"].as_str().expect("an event has an id").to_owned();
        let problem = event["data"]["problem"].clone();
        match entry.finals.iter_mut().find(|known| known.id == id && known.body == body) {
            Some(known) => known.copies += 1,
            None => entry.finals.push(Final { id, kind, body, problem, copies: 1 }),
        }
    }
}
