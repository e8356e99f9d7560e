//! Which plugins this worker runs, and what becomes of a command about one that it does not have.
//!
//! `--plugins a` runs no handler and no hook of `b`. Most commands about `b` never come here, for they have queues of
//! their own; those about communities come from a queue that all workers share, and those whose queue was missing from
//! the queue of what nobody wanted. Such a command is passed on: a copy goes to the delay ladder and comes back to the
//! queue that its routing key says, for a worker that has every plugin which it is about. Of the shared queue the broker
//! serves the workers with the most plugins first. Where no other worker is there to take it, or none has taken it after
//! [`TRIES`], it is answered: nothing was executed.
//!
//! Up: [`super::handle`] and [`super::community`], which ask. Down: [`super::settle`], which passes on.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use metagov_sdk::contract::{Name, Problem, ProblemKind};
use tokio::select;

use super::{
    envelope::Envelope,
    handle::{Detour, Handlers, Step},
    settle::{Next, Settler, next_attempt},
    verdict::{Ending, Verdict},
};
use crate::bus::{DelayStep, Message, Queue};

/// How often the command was passed on, in decimal.
const PASSED_ON_HEADER: &str = "x-metagov-passed-on";
/// How often a command is passed on while other workers take from the same queue: with one of five that has the plugin,
/// one command in a thousand misses it so often.
const TRIES: u32 = 30;
/// How often while there are none: long enough for one that is being restarted.
const TRIES_ALONE: u32 = 4;
/// So many of these come after a second each, the others after five.
const QUICK: u32 = 10;

/// The plugins that a worker runs.
#[derive(Debug)]
pub(super) struct Served(HashSet<Name>);

impl Served {
    /// These plugins and no others.
    pub(super) fn new(plugins: &[Name]) -> Self {
        Self(plugins.iter().cloned().collect())
    }
}

impl Handlers {
    /// Leaves early where one of these plugins is run by other workers. What no worker of this build has is not their
    /// concern: the worker that handles the command says so.
    pub(super) fn must_have<'n>(&self, plugins: impl IntoIterator<Item = &'n Name>) -> Step<()> {
        let is_elsewhere =
            |plugin: &&Name| !self.served.0.contains(*plugin) && self.registry.get(plugin.as_str()).is_some();
        let missing: BTreeSet<Name> = plugins.into_iter().filter(is_elsewhere).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(Detour::Verdict(Verdict::Elsewhere(missing))) }
    }
}

impl Settler {
    /// Passes a command on to a worker that has these plugins, or answers it where that is in vain.
    pub(super) async fn pass_on(&self, envelope: &Envelope, message: &Message, missing: &BTreeSet<Name>) -> Next {
        let headers = &message.properties.headers;
        let passed = headers.get(PASSED_ON_HEADER).and_then(|count| count.parse().ok()).unwrap_or(0_u32);
        let Some(others) = self.others(envelope).await else { return Next::End(Ending::Unfinished) };
        if passed >= if others { TRIES } else { TRIES_ALONE } {
            return self.reject(envelope, Box::new(nobody_has(missing)), message).await;
        }
        let mut copy = next_attempt(envelope, message, false);
        copy.properties.headers.insert(PASSED_ON_HEADER.to_owned(), (passed + 1).to_string());
        let step = if passed < QUICK { Duration::from_secs(1) } else { Duration::from_secs(5) };
        Next::End(self.park(copy, DelayStep::at_least(step), None).await)
    }

    /// Whether other workers take such commands at this time; `None` where this one goes down meanwhile.
    async fn others(&self, envelope: &Envelope) -> Option<bool> {
        // A command of the core is passed on to the workers that share its queue with this one, all else to those of a
        // queue that this worker does not consume.
        let (queue, ours) = match envelope.plugin_queue() {
            Some(plugin) => (Queue::Plugin(plugin.clone()), 0),
            None => (Queue::Core, 1),
        };
        select! {
            () = self.abort.cancelled() => None,
            depth = self.bus.depth(&queue) => depth.ok().map(|depth| depth.consumers > ours),
        }
    }
}

fn nobody_has(missing: &BTreeSet<Name>) -> Problem {
    let names = missing.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let detail = format!(
        "no worker that takes this command runs every plugin that it is about; this one lacks: {names}. Nothing was \
         executed. One worker needs all of them: start it with each of these names in `--plugins`, or without that"
    );
    Problem::new(ProblemKind::UnknownPlugin, detail)
}
