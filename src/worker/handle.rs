//! From a command to a verdict: one match over what can be asked.
//!
//! Nothing here knows AMQP, and nothing here writes: a verdict says what is to be written and told. Up:
//! [`super::envelope`]. Down: one file for each kind of command, then [`super::settle`].

use std::{sync::Arc, time::Duration};

use chrono::SubsecRound as _;
use metagov_sdk::{
    Steps,
    contract::{Command, EventBody, EventScope, Initiator, PlatformEvent, Problem, ProblemKind, Timestamp},
};
use tracing::error;

use super::{
    attempt::Attempt,
    envelope::{Envelope, Opened},
    instances::{Instances, NoInstance},
    lookups::Lookups,
    patience::Patience,
    serial::Serial,
    served::Served,
    suspects::crashed,
    trouble::Trouble,
    verdict::{Handled, Verdict, backoff},
};
use crate::{
    host::{Host, Request, Unloadable},
    registry::Registry,
    store::{InboxEntry, Keep, OutboxEvent, Seen, Store, StoreError},
    vault::VaultError,
};

/// When to look again whether somebody has the key to a config.
const UNTIL_A_KEY: Duration = Duration::from_secs(5);

/// Everything that handlers work with.
#[derive(Clone)]
pub(super) struct Handlers {
    /// The plugins.
    pub(super) registry: Arc<Registry>,
    /// Which of them are run here.
    pub(super) served: Arc<Served>,
    /// What plugins are given.
    pub(super) host: Host,
    /// The database, for reading.
    pub(super) store: Store,
    /// What commands ask the database together.
    pub(super) lookups: Arc<Lookups>,
    /// Plugin instances at hand.
    pub(super) instances: Arc<Instances>,
    /// The turns of commands that change the same rows.
    pub(super) serial: Arc<Serial>,
    /// Speaks of a database that is away.
    pub(super) trouble: Arc<Trouble>,
    /// How long a handler may take where its plugin does not say.
    pub(super) deadline: Duration,
    /// How often a handler is called for one command at most.
    pub(super) max_attempts: u32,
}

/// A detour on the way to a verdict: either the driver's fault, or the database's trouble.
pub(super) enum Detour {
    Verdict(Verdict),
    Store(StoreError),
}

impl From<StoreError> for Detour {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Problem> for Detour {
    fn from(problem: Problem) -> Self {
        Self::Verdict(Verdict::reject(problem))
    }
}

impl From<Unloadable> for Detour {
    fn from(none: Unloadable) -> Self {
        match none {
            Unloadable::Config(problem) => Self::Verdict(Verdict::Reject(problem)),
            Unloadable::Sealed(error) => error.into(),
        }
    }
}

impl From<VaultError> for Detour {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::NoKey => Self::Verdict(Verdict::reject(no_key())),
            VaultError::UnknownKey { .. } => {
                error!(%error, "waiting until a worker has the key");
                Self::Verdict(Verdict::Later { after: UNTIL_A_KEY, asked: false, problem: None })
            }
            // As a row that cannot be read.
            VaultError::Damaged { .. } => {
                Self::Store(StoreError::Corrupt { what: "plugin_instances.config", reason: error.to_string() })
            }
        }
    }
}

impl From<NoInstance> for Detour {
    fn from(none: NoInstance) -> Self {
        match none {
            NoInstance::Problem(problem) => Self::Verdict(Verdict::Reject(problem)),
            NoInstance::Unloadable(why) => why.into(),
            NoInstance::Store(error) => Self::Store(error),
        }
    }
}

/// A verdict by `?`: whatever leaves early is a verdict too.
pub(super) type Step<T = Verdict> = Result<T, Detour>;

impl Handlers {
    /// Decides what becomes of a command.
    ///
    /// # Errors
    /// The database's trouble; the command is neither handled nor refused then.
    pub(super) async fn handle(&self, opened: &mut Opened) -> Handled {
        let envelope = &mut opened.envelope;
        let command = match &opened.command {
            Ok(command) => command.clone(),
            Err(problem) => return Ok(Verdict::reject(problem.clone())),
        };
        // A plugin is asked more than its handlers for some commands; these are not touched again at all.
        let untouchable = !matches!(
            command,
            Command::Action(..) | Command::ProcessStart(..) | Command::ProcessClose(..) | Command::Poll(..)
        );
        if envelope.convicted && untouchable {
            return Ok(Verdict::reject(crashed()));
        }
        if let Err(Detour::Verdict(elsewhere)) = self.must_have(&envelope.plugin) {
            return Ok(elsewhere);
        }
        let verdict = match command {
            // What a webhook is recognised by is known once its instance is.
            Command::Webhook(plugin, body) => self.webhook(envelope, &plugin, body, opened.expired).await,
            _ if opened.expired && !self.has_begun(envelope).await? => Err(expired().into()),
            Command::CommunityApply(body) => self.apply_community(envelope, body).await,
            Command::CommunityDelete(body) => self.delete_community(envelope, body).await,
            Command::PluginEnable(plugin, body) => self.enable_plugin(envelope, &plugin, body).await,
            Command::PluginDisable(plugin, body) => self.disable_plugin(envelope, &plugin, body).await,
            Command::Action(plugin, action, body) => self.action(envelope, &plugin, &action, body).await,
            Command::ProcessStart(plugin, process, body) => self.start_process(envelope, &plugin, &process, body).await,
            Command::ProcessClose(plugin, process, body) => {
                self.close_process(envelope, &plugin, &process, &body).await
            }
            Command::Poll(plugin, process, body) => self.poll(envelope, &plugin, &process, &body).await,
            Command::Tick(plugin, body) => self.tick(envelope, &plugin, &body).await,
        };
        match verdict {
            Ok(verdict) | Err(Detour::Verdict(verdict)) => Ok(verdict),
            Err(Detour::Store(error)) => Err(error),
        }
    }

    /// What our own clock says, in whole milliseconds so that every database keeps it as it is; never a due time or a
    /// lease, which are the database's.
    pub(super) fn now(&self) -> Timestamp {
        self.host.environment().clock.now().trunc_subsecs(3)
    }

    /// Leaves early where the very same command was handled before, or its key was used for another one. Says whether
    /// an attempt at it has begun.
    pub(super) async fn unless_seen(&self, envelope: &Envelope) -> Step<bool> {
        let Some(entry) = envelope.inbox() else { return Ok(false) };
        match self.lookups.seen(&entry.community, &entry.message_id).await? {
            None => Ok(false),
            Some(Seen::Running) => Ok(true),
            Some(Seen::Finished { fingerprint, events }) if fingerprint == entry.fingerprint => {
                Err(Detour::Verdict(Verdict::Repeat(events)))
            }
            Some(Seen::Finished { .. }) => Err(conflict().into()),
        }
    }

    /// Whether an attempt at this has begun, or ended: what has expired is finished all the same, then.
    pub(super) async fn has_begun(&self, envelope: &Envelope) -> Result<bool, StoreError> {
        let Some(entry) = envelope.inbox() else { return Ok(false) };
        Ok(self.lookups.seen(&entry.community, &entry.message_id).await?.is_some())
    }

    /// The request part of a call on behalf of this command.
    pub(super) fn request(envelope: &Envelope, initiator: Option<Initiator>) -> Request {
        Request {
            initiator,
            idempotency_key: envelope.idempotency_key(),
            attempt: envelope.attempt,
            may_keep_state: true,
            steps: Steps::plain(),
        }
    }

    /// The same for an attempt that may be on record: with its steps, and its number.
    pub(super) fn request_of(envelope: &Envelope, attempt: &Attempt, initiator: Option<Initiator>) -> Request {
        Request { attempt: attempt.number(), steps: attempt.steps(), ..Self::request(envelope, initiator) }
    }

    /// Up the delay ladder, if attempts are left; as long as the platform asked for, where it did.
    pub(super) fn again(&self, attempt: u32, asked: Option<Duration>, problem: &Problem) -> Option<Verdict> {
        (attempt < self.max_attempts).then(|| Verdict::Later {
            after: asked.unwrap_or_else(|| backoff(attempt)),
            asked: asked.is_some(),
            problem: Some(Box::new(problem.clone())),
        })
    }

    /// Gives up an attempt, for as long as it takes while the database is only away: an attempt that is not given up
    /// looks like one whose worker died. `false` where it is not ours any more.
    ///
    /// # Errors
    /// Where the database refuses for good.
    pub(super) async fn release(&self, entry: &InboxEntry, fence: i64, keep: Keep) -> Result<bool, StoreError> {
        Patience::new().insist(|| self.store.release_attempt(entry, fence, keep)).await
    }
}

/// The events that a handler emitted, in their order.
pub(super) fn platform_events(
    envelope: &Envelope,
    scope: &EventScope,
    emitted: Vec<PlatformEvent>,
    label: &str,
) -> Vec<OutboxEvent> {
    emitted
        .into_iter()
        .enumerate()
        .map(|(place, event)| envelope.event(scope, &format!("platform/{label}/{place}"), &EventBody::Platform(event)))
        .collect()
}

/// The problem of a key that was used before for another command.
#[must_use]
pub(super) fn conflict() -> Problem {
    let detail = "this message_id was used before in this community for another command; use a new one";
    Problem::new(ProblemKind::Conflict, detail)
}

/// The problem of a command whose time is over.
pub(super) fn expired() -> Problem {
    let detail = "the expiration of this command was over before a worker began with it; nothing was executed. Publish \
                  it again under a new message_id with more time, or with no expiration";
    Problem::new(ProblemKind::Expired, detail)
}

/// The problem of a config with secrets that cannot be sealed.
#[must_use]
pub(super) fn no_key() -> Problem {
    Problem::new(ProblemKind::InternalError, VaultError::NoKey.to_string())
}
