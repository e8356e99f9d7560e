//! A plugin whose platform keeps book of what reaches it.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard},
    time::Duration,
};

use metagov_sdk::prelude::*;

/// Does as it is told.
pub(crate) struct Puppet;

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Config {}

impl Plugin for Puppet {
    const NAME: &'static str = "puppet";
    type Config = Config;

    fn register(plugin: &mut Registrar<Self>) {
        plugin
            .action::<PureAct>()
            .action::<IdempotentAct>()
            .action::<KeyedAct>()
            .action::<UnsafeAct>()
            .action::<RefusedAct>()
            .process::<Ballot>();
    }
}

/// Calls by kind of action and key: a platform of keyed actions has one effect for each key, whatever the calls.
static CALLS: LazyLock<Mutex<HashMap<(&'static str, String), usize>>> = LazyLock::new(Mutex::default);

/// The platform's book.
pub(crate) fn calls() -> MutexGuard<'static, HashMap<(&'static str, String), usize>> {
    CALLS.lock().expect("nobody panics over the book")
}

fn call(kind: &'static str, cx: &Cx<Puppet>, fails: bool) -> Result<String> {
    *calls().entry((kind, cx.idempotency_key().to_string())).or_default() += 1;
    if fails { Err(Error::failed("the puppet broke")) } else { Ok(cx.idempotency_key().to_string()) }
}

/// Has no effect outside.
#[action(PureAct, "pure-act", effect = "pure")]
async fn pure_act(cx: &Cx<Puppet>, fails: bool) -> Result<String> {
    call("pure", cx, fails)
}

/// Has the same effect however often it runs.
#[action(IdempotentAct, "idempotent-act", effect = "idempotent")]
async fn idempotent_act(cx: &Cx<Puppet>, fails: bool) -> Result<String> {
    call("idempotent", cx, fails)
}

/// Its platform takes our key.
#[action(KeyedAct, "keyed-act", effect = "keyed")]
async fn keyed_act(cx: &Cx<Puppet>, fails: bool) -> Result<String> {
    call("keyed", cx, fails)
}

/// Must not be repeated.
#[action(UnsafeAct, "unsafe-act", effect = "unsafe")]
async fn unsafe_act(cx: &Cx<Puppet>, fails: bool) -> Result<String> {
    call("unsafe", cx, fails)
}

/// Must not be repeated, and is refused by its platform.
#[action(RefusedAct, "refused-act", effect = "unsafe")]
async fn refused_act(cx: &Cx<Puppet>, fails: bool) -> Result<String> {
    call("refused", cx, fails)?;
    Err(Error::rejected("the platform will not have it"))
}

/// Longer than all that the schedules let pass for other reasons.
pub(crate) const POLLED_EVERY: Duration = Duration::from_hours(24);

/// A vote that one webhook ends.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ballot {
    polls: u64,
    votes: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Question {}

/// How it stands.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Tally {
    polls: u64,
    votes: u64,
}

impl Process<Puppet> for Ballot {
    const NAME: &'static str = "ballot";
    type Parameters = Question;
    type Outcome = Tally;

    async fn start(_: &Cx<Puppet>, _: Question) -> Result<Started<Self>> {
        Ok(Started::new(Self { polls: 0, votes: 0 }))
    }

    async fn poll(&mut self, _: &Cx<Puppet>) -> Result<Progress<Tally>> {
        self.polls += 1;
        Ok(Progress::Updated(Tally { polls: self.polls, votes: self.votes }))
    }

    fn poll_every(&self) -> Option<Duration> {
        Some(POLLED_EVERY)
    }

    async fn receive_webhook(&mut self, _: &Cx<Puppet>, _: &Webhook) -> Result<Progress<Tally>> {
        self.votes += 1;
        Ok(Progress::Completed(Tally { polls: self.polls, votes: self.votes }))
    }
}
