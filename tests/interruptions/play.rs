//! The play: what a driver sends, when time passes, and what is to be heard of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

/// A command with its key.
#[derive(Clone)]
pub(crate) struct Command {
    pub(crate) id: String,
    pub(crate) key: &'static str,
    pub(crate) body: Value,
}

impl Command {
    pub(crate) fn new(key: &'static str, body: Value) -> Self {
        Self { id: Uuid::new_v4().to_string(), key, body }
    }

    fn act(key: &'static str, fails: bool) -> Self {
        Self::new(key, json!({ "community": "acme", "parameters": { "fails": fails } }))
    }
}

/// What happens next, once the act before is answered.
pub(crate) enum Act {
    /// A driver sends these, all at once.
    Commands(Vec<Command>),
    /// The open process becomes due, and the scheduler looks.
    Poll,
}

/// One play.
pub(crate) struct Play {
    pub(crate) acts: Vec<Act>,
    /// For each `message_id` that is to be answered: the kinds of its events. Each list is one event, whose kind is any
    /// of it.
    pub(crate) expected: BTreeMap<String, Vec<Kinds>>,
    /// The one action that may not be called twice.
    pub(crate) dangerous: Option<String>,
    /// The one that its platform refuses. Its worker may die before that is stored: then it is uncertain.
    pub(crate) refused: Option<String>,
}

/// Kinds of events, of which one is to come.
pub(crate) type Kinds = &'static [&'static str];

impl Play {
    /// The first one: the community that all others are about.
    pub(crate) fn prologue() -> Self {
        let apply = json!({ "slug": "acme", "plugins": [{ "name": "puppet", "config": {} }] });
        let mut play = Self { acts: Vec::new(), expected: BTreeMap::new(), dangerous: None, refused: None };
        play.say(vec![(Command::new("community.apply", apply), &["community.applied"])]);
        play
    }

    /// Each effect, a failure, a process with a poll and a webhook, a repetition, a conflict.
    pub(crate) fn workload() -> Self {
        const COMPLETED: Kinds = &["action.completed"];
        const REJECTED: Kinds = &["command.rejected"];
        const KNOWN_OR_NOT: Kinds = &["action.completed", "action.uncertain"];
        let process_id = Uuid::new_v4();
        let pure = Command::act("action.puppet.pure-act", false);
        let keyed = Command::act("action.puppet.keyed-act", false);
        let dangerous = Command::act("action.puppet.unsafe-act", false);
        let other = Command { id: pure.id.clone(), ..Command::act("action.puppet.pure-act", true) };
        let hook = json!({
            "community": "acme",
            "received_at": "2026-01-01T00:00:00Z",
            "request": { "method": "POST", "path": "/", "query": "", "headers": [], "body_base64": "" },
        });
        let start = json!({ "community": "acme", "parameters": {}, "process_id": process_id });
        let close = json!({ "community": "acme", "process_id": process_id });
        let refused = Command::act("action.puppet.refused-act", false);
        let (danger, refusal) = (Some(dangerous.id.clone()), Some(refused.id.clone()));
        let mut play = Self { acts: Vec::new(), expected: BTreeMap::new(), dangerous: danger, refused: refusal };
        play.say(vec![
            (pure, COMPLETED),
            (Command::act("action.puppet.idempotent-act", false), COMPLETED),
            (keyed.clone(), COMPLETED),
            (dangerous, KNOWN_OR_NOT),
            (refused, &["command.rejected", "action.uncertain"]),
            (Command::act("action.puppet.keyed-act", true), &["action.failed"]),
            (Command::new("process.puppet.ballot.start", start), &["process.started"]),
        ]);
        play.acts.push(Act::Poll);
        play.say(vec![(Command::new("webhook.puppet", hook), &["process.completed"]), (keyed, &[]), (other, REJECTED)]);
        play.say(vec![(Command::new("process.puppet.ballot.close", close), REJECTED)]);
        play
    }

    fn say(&mut self, act: Vec<(Command, Kinds)>) {
        for (command, kinds) in act.iter().filter(|(_, kinds)| !kinds.is_empty()) {
            self.expected.entry(command.id.clone()).or_default().push(*kinds);
        }
        self.acts.push(Act::Commands(act.into_iter().map(|(command, _)| command).collect()));
    }
}
