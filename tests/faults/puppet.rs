//! The plugin that does as it is told: each command carries the deeds of its own attempts.
//!
//! Before it does anything else it calls the fake platform under the command's idempotency key, as an action of a real
//! plugin would. The SDK's HTTP client refuses loopback, so it speaks to the platform by itself.

use std::{process, time::Duration};

use metagov_sdk::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    platform::RETRY_AFTER,
    vote::{self, Count, Counted, Vote},
};

/// Names the platform's address to the processes of the service.
pub(crate) const PLATFORM: &str = "FAULTS_PLATFORM";

/// Makes the puppet of a process a later version: its keyed action is declared `pure` there.
pub(crate) const LATER: &str = "FAULTS_LATER";

/// Does as it is told.
pub(crate) struct Puppet;

/// What the puppet is set up with.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// What it must not let anybody see.
    #[serde(default)]
    pub(crate) secrets: Vec<Secret>,
    /// Tells several puppets in one community apart.
    #[serde(default)]
    pub(crate) team: Option<String>,
    /// Changes now and then, and means nothing.
    #[serde(default)]
    pub(crate) edition: u64,
}

impl Plugin for Puppet {
    const NAME: &'static str = "puppet";
    type Config = Config;

    fn register(plugin: &mut Registrar<Self>) {
        plugin
            .action::<Pure>()
            .action::<Idempotent>()
            .action::<Unsafe>()
            .action::<Count>()
            .process::<Ballot>()
            .process::<Vote>()
            .event::<Counted>();
        if std::env::var_os(LATER).is_some() {
            plugin.action::<KeyedLater>();
        } else {
            plugin.action::<Keyed>();
        }
    }

    fn community_platform_id(config: &Config) -> Option<String> {
        config.team.clone()
    }

    async fn verify_webhook(_: &Cx<Self>, hook: &Webhook) -> Result<()> {
        vote::verify(hook)
    }

    async fn receive_webhook(cx: &Cx<Self>, hook: &Webhook) -> Result<()> {
        vote::receive(cx, hook)
    }

    fn concerns(hook: &Webhook) -> Concerns {
        vote::concerns(hook)
    }
}

/// What one attempt of a call does, after the platform was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Deed {
    /// Answers.
    Succeed,
    /// The caller's fault.
    Reject,
    /// Passing trouble.
    Retry,
    /// A panic.
    Panic,
    /// Never comes back.
    Hang,
    /// Comes back after this many milliseconds.
    Wait(u64),
    /// Blocks its thread for this many milliseconds.
    Block(u64),
    /// Takes this many MiB of memory, one after the other, and holds them for as long as the process lives.
    Allocate(usize),
    /// Ends the whole process, as a crash would.
    Kill,
    /// Fails in the words of a platform that repeats what it was sent: with all secrets.
    Blab,
    /// Refuses in the same words.
    BlabRejected,
}

/// What every call is told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Script {
    /// One deed for each attempt; the last one for all that follow.
    #[serde(default)]
    pub(crate) deeds: Vec<Deed>,
    /// Whether the platform is called first.
    #[serde(default)]
    pub(crate) calls: bool,
}

/// How a call ended.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Acted {
    /// The key that the platform was given.
    key: String,
}

/// What an action of a plugin does that does as it is told.
pub(crate) async fn act<P: Plugin<Config = Config>>(cx: &Cx<P>, script: &Script) -> Result<Acted> {
    tracing::trace!(config = ?cx.config(), ?script, "acting");
    if script.calls {
        call(cx).await?;
    }
    let turn = usize::try_from(cx.attempt().saturating_sub(1)).unwrap_or(usize::MAX);
    match script.deeds.get(turn).or(script.deeds.last()).copied().unwrap_or(Deed::Succeed) {
        Deed::Succeed => {}
        Deed::Reject => return Err(Error::rejected("the puppet refuses")),
        Deed::Retry => return Err(Error::retry_after(Duration::from_secs(1), "the puppet is away")),
        Deed::Panic => panic!("the puppet was told to"),
        Deed::Hang => std::future::pending().await,
        Deed::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        Deed::Block(millis) => std::thread::sleep(Duration::from_millis(millis)),
        Deed::Allocate(mib) => {
            for _ in 0..mib {
                // An optimiser would leave out memory that nobody looks at.
                std::mem::forget(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        Deed::Kill => process::abort(),
        Deed::Blab => return Err(Error::failed(blab(cx))),
        Deed::BlabRejected => return Err(Error::rejected(blab(cx))),
    }
    Ok(Acted { key: cx.idempotency_key().to_string() })
}

fn blab<P: Plugin<Config = Config>>(cx: &Cx<P>) -> String {
    let secrets: Vec<_> = cx.config().secrets.iter().map(Secret::expose).collect();
    format!("GET https://x.example/bot{}/me: bad keys {secrets:?}", secrets.first().unwrap_or(&""))
}

/// One HTTP call without a client: a request, and the status of the answer.
pub(crate) async fn call<P: Plugin>(cx: &Cx<P>) -> Result<()> {
    let address = std::env::var(PLATFORM).map_err(|_| Error::failed("nobody named the platform"))?;
    let away = |error: std::io::Error| Error::retry(format!("the platform is away: {error}"));
    let mut stream = TcpStream::connect(&address).await.map_err(away)?;
    let request = format!(
        "POST /act HTTP/1.1\r\nHost: {address}\r\nIdempotency-Key: {}\r\nX-Community: {}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n",
        cx.idempotency_key(),
        cx.community()
    );
    stream.write_all(request.as_bytes()).await.map_err(away)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(away)?;
    match answer.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some("429") => Err(Error::retry_after(RETRY_AFTER, "the platform is busy")),
        Some(status) => Err(Error::retry(format!("the platform says {status}"))),
        None => Err(Error::retry("the platform said nothing")),
    }
}

/// Has no effect outside.
#[action(Pure, "pure", effect = "pure")]
async fn pure(cx: &Cx<Puppet>, deeds: Vec<Deed>, calls: bool) -> Result<Acted> {
    act(cx, &Script { deeds, calls }).await
}

/// Has the same effect however often it runs.
#[action(Idempotent, "idempotent", effect = "idempotent")]
async fn idempotent(cx: &Cx<Puppet>, deeds: Vec<Deed>, calls: bool) -> Result<Acted> {
    act(cx, &Script { deeds, calls }).await
}

/// Its platform takes our key.
#[action(Keyed, "keyed", effect = "keyed")]
async fn keyed(cx: &Cx<Puppet>, deeds: Vec<Deed>, calls: bool) -> Result<Acted> {
    act(cx, &Script { deeds, calls }).await
}

/// The same, as a later version declares it.
#[action(KeyedLater, "keyed", effect = "pure")]
async fn keyed_later(cx: &Cx<Puppet>, deeds: Vec<Deed>, calls: bool) -> Result<Acted> {
    act(cx, &Script { deeds, calls }).await
}

/// Must not be repeated.
#[action(Unsafe, "unsafe", effect = "unsafe")]
async fn unsafe_(cx: &Cx<Puppet>, deeds: Vec<Deed>, calls: bool) -> Result<Acted> {
    act(cx, &Script { deeds, calls }).await
}

/// A process that is polled until it has been polled often enough.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ballot {
    polls: u64,
    until: u64,
    every_ms: u64,
    script: Script,
}

/// What a ballot is started with.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Question {
    /// Ends at this many polls.
    until: u64,
    /// Polled after this many milliseconds, again and again.
    every_ms: u64,
    /// What each poll does, by its number and not by its attempt.
    #[serde(default)]
    deeds: Vec<Deed>,
    /// Whether each poll calls the platform.
    #[serde(default)]
    calls: bool,
}

/// How often it was polled.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Tally {
    /// So often.
    polls: u64,
}

impl Process<Puppet> for Ballot {
    const NAME: &'static str = "ballot";
    type Parameters = Question;
    type Outcome = Tally;

    async fn start(_: &Cx<Puppet>, question: Question) -> Result<Started<Self>> {
        let script = Script { deeds: question.deeds, calls: question.calls };
        Ok(Started::new(Self { polls: 0, until: question.until, every_ms: question.every_ms, script }))
    }

    async fn poll(&mut self, cx: &Cx<Puppet>) -> Result<Progress<Tally>> {
        let turn = usize::try_from(self.polls).unwrap_or(usize::MAX);
        let deed = self.script.deeds.get(turn).or(self.script.deeds.last()).copied();
        let script = Script { deeds: deed.into_iter().collect(), calls: self.script.calls };
        act(cx, &script).await?;
        self.polls += 1;
        let tally = Tally { polls: self.polls };
        Ok(if self.polls >= self.until { Progress::Completed(tally) } else { Progress::Updated(tally) })
    }

    fn poll_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.every_ms))
    }
}
