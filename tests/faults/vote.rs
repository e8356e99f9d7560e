//! A vote of the puppet's platform: counted by webhooks, looked at by polls, closed by a driver or by the clock. And what
//! a webhook and an action leave in the plugin's state.
//!
//! Where a webhook asks for it, its number is announced as an event when it is counted, so that what was
//! counted can be compared with what was stored. Up: commands of [`crate::mix`] and [`crate::crowd`]. Down: the SDK.

use std::time::Duration;

use metagov_sdk::prelude::*;

use crate::puppet::{self, Puppet};

/// Names the vote that a webhook is for.
pub(crate) const KEY: &str = "x-puppet-vote";
/// What the platform signs with; whatever else stands there is forged.
pub(crate) const SIGNATURE: (&str, &str) = ("x-puppet-signature", "genuine");

/// The body of a webhook.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cast {
    /// What is counted; no two webhooks have the same.
    pub(crate) number: u64,
    /// Whether it is announced as an event.
    #[serde(default)]
    pub(crate) tells: bool,
}

/// What the plugin remembers between all calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Memory {
    /// How many were added.
    pub(crate) times: u64,
    /// Their sum.
    pub(crate) sum: u64,
}

impl Memory {
    fn add(self, number: u64) -> Self {
        Self { times: self.times + 1, sum: self.sum + number }
    }
}

/// Something was counted.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Counted {
    key: String,
    number: u64,
}

impl PluginEvent for Counted {
    const TYPE: &'static str = "counted";
}

/// Adds a number to what the plugin remembers, and answers what it remembers now.
#[action(Count, "count", effect = "idempotent")]
async fn count(cx: &Cx<Puppet>, number: u64) -> Result<Memory> {
    let memory = cx.state::<Memory>()?.unwrap_or_default().add(number);
    cx.set_state(&memory)?;
    Ok(memory)
}

/// Whether a webhook is the platform's.
pub(crate) fn verify(hook: &Webhook) -> Result<()> {
    match hook.header(SIGNATURE.0) {
        Some(signature) if signature == SIGNATURE.1 => Ok(()),
        _ => Err(Error::invalid_signature("the signature does not fit")),
    }
}

/// A webhook for no vote is remembered by the plugin itself.
pub(crate) fn receive(cx: &Cx<Puppet>, hook: &Webhook) -> Result<()> {
    if hook.header(KEY).is_none() {
        let cast: Cast = hook.json()?;
        cx.set_state(&cx.state::<Memory>()?.unwrap_or_default().add(cast.number))?;
    }
    Ok(())
}

/// Which vote a webhook is for.
pub(crate) fn concerns(hook: &Webhook) -> Concerns {
    hook.header(KEY).map_or(Concerns::NoProcess, |key| Concerns::Process(key.to_owned()))
}

/// A vote that is open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Vote {
    key: String,
    counted: Memory,
    polls: u64,
    every_ms: Option<u64>,
    closes_at: Option<Timestamp>,
    calls: bool,
}

/// What a vote is started with.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Call {
    /// What its webhooks name it by.
    key: String,
    /// Looked at after so many milliseconds, again and again.
    #[serde(default)]
    every_ms: Option<u64>,
    /// Closed by the clock after so many milliseconds.
    #[serde(default)]
    closes_in_ms: Option<u64>,
    /// Whether the platform is called when it begins, and when it is closed.
    #[serde(default)]
    calls: bool,
}

/// How a vote stands.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Standing {
    /// How many votes.
    times: u64,
    /// The sum of their numbers.
    sum: u64,
    /// How often it was looked at.
    polls: u64,
}

impl Vote {
    fn standing(&self) -> Standing {
        Standing { times: self.counted.times, sum: self.counted.sum, polls: self.polls }
    }
}

/// Says so at the platform, once for each command.
async fn announce(cx: &Cx<Puppet>, calls: bool) -> Result<()> {
    if calls { cx.step("announce", puppet::call(cx)).await } else { Ok(()) }
}

impl Process<Puppet> for Vote {
    const NAME: &'static str = "vote";
    type Parameters = Call;
    type Outcome = Standing;

    async fn start(cx: &Cx<Puppet>, call: Call) -> Result<Started<Self>> {
        announce(cx, call.calls).await?;
        let after = |millis| cx.now() + Duration::from_millis(millis);
        let closes_at = call.closes_in_ms.map(after);
        Ok(Started::new(Self {
            key: call.key,
            counted: Memory::default(),
            polls: 0,
            every_ms: call.every_ms,
            closes_at,
            calls: call.calls,
        }))
    }

    async fn poll(&mut self, _: &Cx<Puppet>) -> Result<Progress<Standing>> {
        self.polls += 1;
        Ok(Progress::Updated(self.standing()))
    }

    async fn receive_webhook(&mut self, cx: &Cx<Puppet>, hook: &Webhook) -> Result<Progress<Standing>> {
        let cast: Cast = hook.json()?;
        self.counted = self.counted.add(cast.number);
        if cast.tells {
            cx.emit(&Counted { key: self.key.clone(), number: cast.number })?;
        }
        Ok(Progress::Updated(self.standing()))
    }

    async fn close(&mut self, cx: &Cx<Puppet>) -> Result<Progress<Standing>> {
        announce(cx, self.calls).await?;
        Ok(Progress::Completed(self.standing()))
    }

    fn closes_at(&self) -> Option<Timestamp> {
        self.closes_at
    }

    fn poll_every(&self) -> Option<Duration> {
        // Where nobody asks for polls it is looked at once in a day.
        Some(self.every_ms.map_or(Duration::from_hours(24), Duration::from_millis))
    }

    fn webhook_key(&self) -> Option<String> {
        Some(self.key.clone())
    }
}
