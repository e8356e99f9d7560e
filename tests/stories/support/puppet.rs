//! A plugin that does as it is told: each action carries the script of its own calls.

use std::{
    collections::{HashMap, HashSet},
    sync::{LazyLock, Mutex},
    time::Duration,
};

use metagov_sdk::prelude::*;
use tokio::sync::watch;

/// Does as it is told.
pub(crate) struct Puppet;

/// What the puppet is set up with.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Tells several puppets in one community apart.
    #[serde(default)]
    pub(crate) team: Option<String>,
    /// Signs webhooks.
    #[serde(default)]
    pub(crate) secret: Option<Secret>,
    /// Whether `enabled` refuses.
    #[serde(default)]
    pub(crate) refuse: bool,
    /// A gate: once it is open, to read the config is to panic.
    #[serde(default, deserialize_with = "brittle")]
    pub(crate) brittle: Option<String>,
    /// Whether `disabled` fails.
    #[serde(default)]
    pub(crate) stuck: bool,
}

impl Plugin for Puppet {
    const NAME: &'static str = "puppet";
    type Config = Config;

    fn register(plugin: &mut Registrar<Self>) {
        plugin
            .action::<PureAct>()
            .action::<IdempotentAct>()
            .action::<KeyedAct>()
            .action::<UnsafeAct>()
            .action::<PatientAct>()
            .action::<LongAct>()
            .action::<Announce>()
            .action::<Count>()
            .action::<KeyedCount>()
            .process::<Ballot>()
            .event::<Announced>();
    }

    fn community_platform_id(config: &Config) -> Option<String> {
        config.team.clone()
    }

    async fn enabled(cx: &Cx<Self>) -> Result<()> {
        ensure!(!cx.config().refuse, "the puppet does not want to be enabled");
        Ok(())
    }

    async fn disabled(cx: &Cx<Self>) -> Result<()> {
        if cx.config().stuck { Err(Error::failed("the puppet cannot let go")) } else { Ok(()) }
    }

    fn tick_every() -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    async fn tick(cx: &Cx<Self>) -> Result<()> {
        let ticks: u64 = cx.state()?.unwrap_or(0);
        if ticks == 0 {
            cx.emit(&Announced { text: "first tick".to_owned() })?;
            cx.set_state(&1)?;
        }
        Ok(())
    }

    async fn verify_webhook(cx: &Cx<Self>, hook: &Webhook) -> Result<()> {
        let Some(secret) = &cx.config().secret else { return Ok(()) };
        match hook.header("x-puppet-secret") {
            Some(given) if given == secret.expose() => Ok(()),
            _ => Err(Error::invalid_signature("x-puppet-secret does not fit")),
        }
    }

    fn concerns(hook: &Webhook) -> Concerns {
        assert!(hook.header("x-puppet-panic").is_none(), "the puppet was told to");
        hook.header("x-puppet-ballot").map_or(Concerns::EveryProcess, |key| Concerns::Process(key.to_owned()))
    }
}

/// Somebody said something.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Announced {
    pub(crate) text: String,
}

impl PluginEvent for Announced {
    const TYPE: &'static str = "announced.#loud";
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Deed {
    Answer,
    Reject,
    Retry,
    /// As a platform does that says when it wants to be asked again.
    RetryIn6500Ms,
    Fail,
    Panic,
    Hang,
    /// Until the story opens the gate of this tag.
    Wait,
    /// The same, and keeps its thread meanwhile.
    Block,
}

/// The gates that are open.
static GATES: LazyLock<watch::Sender<HashSet<String>>> = LazyLock::new(|| watch::Sender::new(HashSet::new()));

/// Lets whoever waits at the gate of this tag go on.
pub(crate) fn open_gate(tag: &str) {
    GATES.send_modify(|gates| {
        gates.insert(tag.to_owned());
    });
}

async fn pass_gate(tag: &str) {
    let mut gates = GATES.subscribe();
    gates.wait_for(|gates| gates.contains(tag)).await.expect("the gates are never taken down");
}

fn brittle<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<String>, D::Error> {
    let tag = Option::<String>::deserialize(deserializer)?;
    assert!(!tag.as_ref().is_some_and(|tag| GATES.borrow().contains(tag)), "the puppet was told to");
    Ok(tag)
}

/// How often the script of this tag has been called, in this process.
static CALLS: LazyLock<Mutex<HashMap<String, usize>>> = LazyLock::new(Mutex::default);

/// How often handlers were called for this tag.
pub(crate) fn calls(tag: &str) -> usize {
    CALLS.lock().expect("no puppet panics here").get(tag).copied().unwrap_or(0)
}

/// Which call of this tag this is, from 0.
fn turn(tag: &str) -> usize {
    let mut calls = CALLS.lock().expect("no puppet panics here");
    let turn = calls.entry(tag.to_owned()).or_default();
    *turn += 1;
    *turn - 1
}

async fn act(cx: &Cx<Puppet>, tag: String, script: Vec<Deed>) -> Result<String> {
    let answer = follow(&tag, &script).await?;
    Ok(format!("{answer} {}", cx.idempotency_key()))
}

/// Does what the script of this tag says for this call.
pub(crate) async fn follow(tag: &str, script: &[Deed]) -> Result<String> {
    let turn = turn(tag);
    match script.get(turn).or(script.last()).copied().unwrap_or(Deed::Answer) {
        Deed::Answer => Ok(tag.to_owned()),
        Deed::Reject => Err(Error::rejected("the puppet refuses")),
        Deed::Retry => Err(Error::retry("the puppet is away")),
        Deed::RetryIn6500Ms => Err(Error::retry_after(Duration::from_millis(6500), "the puppet asks for time")),
        Deed::Fail => Err(Error::failed("the puppet broke")),
        Deed::Panic => panic!("the puppet was told to"),
        Deed::Hang => std::future::pending().await,
        Deed::Wait => {
            pass_gate(tag).await;
            Ok(tag.to_owned())
        }
        Deed::Block => {
            while !GATES.borrow().contains(tag) {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(tag.to_owned())
        }
    }
}

/// Has no effect outside.
#[action(PureAct, "pure-act", effect = "pure", deadline = "1s")]
async fn pure_act(cx: &Cx<Puppet>, tag: String, script: Vec<Deed>) -> Result<String> {
    act(cx, tag, script).await
}

/// Has the same effect however often it runs.
#[action(IdempotentAct, "idempotent-act", effect = "idempotent", deadline = "1s")]
async fn idempotent_act(cx: &Cx<Puppet>, tag: String, script: Vec<Deed>) -> Result<String> {
    act(cx, tag, script).await
}

/// Its platform takes our key.
#[action(KeyedAct, "keyed-act", effect = "keyed", deadline = "1s")]
async fn keyed_act(cx: &Cx<Puppet>, tag: String, script: Vec<Deed>) -> Result<String> {
    act(cx, tag, script).await
}

/// Must not be repeated.
#[action(UnsafeAct, "unsafe-act", effect = "unsafe", deadline = "1s")]
async fn unsafe_act(cx: &Cx<Puppet>, tag: String, script: Vec<Deed>) -> Result<String> {
    act(cx, tag, script).await
}

/// Must not be repeated, and takes its time.
#[action(PatientAct, "patient-act", effect = "unsafe", deadline = "50s")]
async fn patient_act(cx: &Cx<Puppet>, tag: String, script: Vec<Deed>) -> Result<String> {
    act(cx, tag, script).await
}

/// Has no effect outside, and takes its time.
#[action(LongAct, "long-act", effect = "pure", deadline = "50s")]
async fn long_act(cx: &Cx<Puppet>, tag: String, script: Vec<Deed>) -> Result<String> {
    act(cx, tag, script).await
}

/// Counts in the plugin's state how often it was called.
#[action(Count, "count", effect = "idempotent")]
async fn count(cx: &Cx<Puppet>) -> Result<u64> {
    count_one(cx)
}

/// The same on a platform that takes our key.
#[action(KeyedCount, "keyed-count", effect = "keyed")]
async fn keyed_count(cx: &Cx<Puppet>) -> Result<u64> {
    count_one(cx)
}

fn count_one(cx: &Cx<Puppet>) -> Result<u64> {
    let count = cx.state::<u64>()?.unwrap_or(0) + 1;
    cx.set_state(&count)?;
    Ok(count)
}

/// Tells drivers something.
#[action(Announce, "announce", effect = "pure")]
async fn announce(cx: &Cx<Puppet>, text: String) -> Result<Empty> {
    cx.emit(&Announced { text })?;
    Ok(Empty {})
}

/// A vote that webhooks are counted in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ballot {
    key: Option<String>,
    votes: u64,
    quorum: u64,
    polls: u64,
    closable: bool,
    tag: String,
    script: Vec<Deed>,
}

/// What a ballot is started with.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Question {
    /// What its webhooks carry.
    #[serde(default)]
    key: Option<String>,
    /// Ends by itself at this many votes; 0 ends at once.
    quorum: u64,
    /// Whether a driver may close it.
    #[serde(default)]
    closable: bool,
    /// What its start does.
    #[serde(default)]
    start: Option<Deed>,
    /// What its polls do, counted by `tag`.
    #[serde(default)]
    script: Vec<Deed>,
    /// Names the script.
    #[serde(default)]
    tag: String,
}

/// How it stands.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Tally {
    votes: u64,
    polls: u64,
}

impl Ballot {
    fn tally(&self) -> Tally {
        Tally { votes: self.votes, polls: self.polls }
    }
}

impl Process<Puppet> for Ballot {
    const NAME: &'static str = "ballot";
    type Parameters = Question;
    type Outcome = Tally;

    async fn start(_: &Cx<Puppet>, question: Question) -> Result<Started<Self>> {
        match question.start {
            Some(Deed::Wait) => {
                turn(&question.tag);
                pass_gate(&question.tag).await;
            }
            Some(Deed::Reject) => return Err(Error::rejected("the puppet does not vote")),
            Some(Deed::Fail) => return Err(Error::failed("the puppet has no ballot box")),
            _ => {}
        }
        let ballot = Self {
            key: question.key,
            votes: 0,
            quorum: question.quorum,
            polls: 0,
            closable: question.closable,
            tag: question.tag,
            script: question.script,
        };
        let started = Started::new(ballot.clone()).url("https://puppet.example/ballot");
        Ok(if ballot.quorum == 0 { started.completed(&ballot.tally()) } else { started })
    }

    async fn poll(&mut self, _: &Cx<Puppet>) -> Result<Progress<Tally>> {
        let Some(deed) = self.script.get(turn(&self.tag)).copied() else { return Ok(Progress::Unchanged) };
        self.polls += 1;
        match deed {
            Deed::Answer => Ok(Progress::Updated(self.tally())),
            Deed::Retry => Err(Error::retry("the puppet is away")),
            Deed::RetryIn6500Ms => Err(Error::retry_after(Duration::from_millis(6500), "the puppet asks for time")),
            _ => Err(Error::failed("the puppet lost a ballot")),
        }
    }

    async fn receive_webhook(&mut self, cx: &Cx<Puppet>, hook: &Webhook) -> Result<Progress<Tally>> {
        if self.key.as_deref() == Some("deaf") {
            return Ok(Progress::Unchanged);
        }
        let hooks: u64 = cx.state()?.unwrap_or(0);
        cx.set_state(&(hooks + 1))?;
        if hook.header("x-puppet-lost").is_some_and(|lost| self.key.as_deref() == Some(lost)) {
            return Err(Error::failed("the puppet lost a ballot"));
        }
        if hook.header("x-puppet-slow").is_some_and(|slow| turn(slow) == 0) {
            std::future::pending::<()>().await;
        }
        let vote: u64 = hook.json::<serde_json::Value>()?["votes"].as_u64().unwrap_or(0);
        self.votes += vote;
        Ok(if self.votes >= self.quorum { Progress::Completed(self.tally()) } else { Progress::Updated(self.tally()) })
    }

    async fn close(&mut self, _: &Cx<Puppet>) -> Result<Progress<Tally>> {
        if self.closable { Ok(Progress::Completed(self.tally())) } else { Err(Error::not_closable()) }
    }

    fn poll_every(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn webhook_key(&self) -> Option<String> {
        self.key.clone()
    }
}
