//! What arrives around a command: its key, its answer address, its trace, its attempt.
//!
//! Everything that AMQP says about a command is read and checked here, once; from here on the worker knows no message
//! properties. Up: a [`Delivery`](crate::bus::Delivery). Down: [`super::handle`], which acts on command and envelope.

use chrono::Utc;
use metagov_sdk::contract::{
    Command, CommandKey, CommunitySlug, Event, EventBody, EventId, EventScope, MessageId, Name, Problem, ProblemKind,
    Timestamp, TraceParent, event::derive_uuid,
};
use rand::Rng;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    delivery::flaw,
    properties::{check_reply_to, unusable},
    tenancy::Tenancy,
    wait::{self, DUE_HEADER},
};
use crate::{
    bus::{ATTEMPT_HEADER, EXPIRES_HEADER, Message},
    store::{InboxEntry, OutboxEvent, Process},
};

/// The header that keeps a command without `message_id` recognisable to us on its way up the delay ladder.
pub(super) const NONCE_HEADER: &str = "x-metagov-nonce";

/// How a command came, and where its answer goes.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    /// The routing key it was published under.
    pub(super) routing_key: String,
    /// The community it is about.
    pub(super) community: Option<CommunitySlug>,
    /// The plugin it is about; `None` for commands of the core.
    pub(super) plugin: Option<Name>,
    /// Its idempotency key: its `message_id`, or what it is recognised by in place of that.
    pub(super) message_id: Option<MessageId>,
    /// SHA-256 of routing key and body, or its size where that is too large: the same key with another fingerprint is a
    /// conflict.
    pub(super) fingerprint: [u8; 32],
    /// What its events name as their cause: the `message_id` that it came with, usable or not, as far as it can be shown.
    pub(super) causation_id: Option<String>,
    /// What the driver recognises its answer by: its `correlation_id`, else its `message_id`, usable or not.
    pub(super) correlation_id: Option<String>,
    /// The queue that wants the answer besides the events exchange.
    pub(super) reply_to: Option<String>,
    /// The trace that the command belongs to, seen from this worker.
    pub(super) trace: TraceParent,
    /// How often its handler has been called, this time included.
    pub(super) attempt: u32,
    /// Before this time, by the database's clock, it is not to be handled: a platform asked for that.
    pub(super) due: Option<Timestamp>,
    /// Whether it was in hand before, so that it may be what a worker died of.
    pub(super) suspect: bool,
    /// Whether the broker gives it up if it comes back once more or twice.
    pub(super) last_chance: bool,
    /// Whether it has killed its workers, so that no plugin is called for it.
    pub(super) convicted: bool,
    /// Which of its runs this is.
    pub(super) run: Run,
    /// What it is recognised by.
    known_by: KnownBy,
    /// What the command is known by while it is suspect.
    suspicion: Uuid,
    /// Stands in for the `message_id` where there is none: the same for this delivery and the copies of it that we make.
    nonce: Uuid,
}

/// Which run of a command this is: one that loses a race runs again, and no attempt is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// The first.
    First,
    /// It lost a race and runs on fresh state.
    Again,
    /// The database refused it together with others, so that it is now written by itself.
    Alone,
}

/// What a command is recognised by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownBy {
    /// Its `message_id`, or what we put in place of that.
    Key,
    /// The delivery that it brings: a well-formed webhook.
    Delivery,
}

/// A command with its envelope, or why it cannot be acted on.
#[derive(Debug)]
pub(super) struct Opened {
    /// How it came.
    pub(super) envelope: Envelope,
    /// What it asks for.
    pub(super) command: Result<Command, Problem>,
    /// Whether its time was over before it was handled.
    pub(super) expired: bool,
}

impl Opened {
    /// The platform's id of a community that the command does not name.
    pub(super) fn platform_id(&self) -> Option<&str> {
        match &self.command {
            Ok(Command::Webhook(_, hook)) => hook.community_platform_id.as_deref(),
            _ => None,
        }
    }
}

/// Where the size of bodies and the names of our own queues are checked against.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// The largest body that is read, in bytes.
    pub(super) max_body_bytes: usize,
    /// What our own queues start with; no answer goes there.
    pub(super) prefix: String,
    /// Who may command what.
    pub(super) tenancy: Tenancy,
}

/// Reads a message: properties first, then size, then the body.
#[must_use]
pub(super) fn open(message: &Message, limits: &Limits) -> Opened {
    let properties = &message.properties;
    let mut random = rand::rng();
    let trace = properties
        .headers
        .get("traceparent")
        .and_then(|text| TraceParent::parse(text))
        .unwrap_or_else(|| TraceParent::from_random(random.random(), random.random()));
    let mut problem = None;
    let message_id = match properties.message_id.as_deref() {
        None => None,
        Some(given) => MessageId::new(given)
            .inspect_err(|_| problem = Some(Problem::new(ProblemKind::InvalidProperty, unusable(given))))
            .ok(),
    };
    let is_shown = |id: &String| !id.is_empty() && !id.contains(char::is_control);
    let causation_id = properties.message_id.clone().filter(is_shown);
    let reply_to = properties.reply_to.clone().filter(|queue| !queue.is_empty());
    let user = properties.user_id.as_deref().filter(|user| !user.is_empty());
    let reply_to = match reply_to.map(|queue| check_reply_to(queue, &limits.prefix, &limits.tenancy, user)) {
        None => None,
        Some(Ok(queue)) => Some(queue),
        Some(Err(refused)) => {
            problem.get_or_insert(refused);
            None
        }
    };
    if properties.correlation_id.as_ref().is_some_and(|id| id.contains('\0')) {
        let detail = "correlation_id holds the character NUL; a UUID is best";
        problem.get_or_insert_with(|| Problem::new(ProblemKind::InvalidProperty, detail));
    }
    let (command, community, plugin) = read(message, limits, problem);
    // Without its community: nothing of it is told in the events of one that it is not about, nor looked for in its inbox.
    let (command, community) = match limits.tenancy.refusal(user, community.as_ref(), command.is_ok()) {
        Some(forbidden) => (Err(forbidden), None),
        None => (command, community),
    };
    let fingerprint = if message.body.len() > limits.max_body_bytes {
        // Nobody reads through what is refused for its size, not even for this: two of one size get the same answer.
        fingerprint(&message.routing_key, &message.body.len().to_be_bytes())
    } else {
        fingerprint(&message.routing_key, &message.body)
    };
    let known_by = if matches!(command, Ok(Command::Webhook(..))) { KnownBy::Delivery } else { KnownBy::Key };
    let message_id = message_id.filter(|_| known_by == KnownBy::Key);
    let envelope = Envelope {
        routing_key: message.routing_key.clone(),
        fingerprint,
        suspicion: suspicion(&fingerprint, message_id.as_ref()),
        correlation_id: properties.correlation_id.clone().or_else(|| causation_id.clone()),
        known_by,
        message_id,
        causation_id,
        reply_to,
        trace: trace.child(random.random()),
        attempt: properties.headers.get(ATTEMPT_HEADER).and_then(|count| count.parse().ok()).unwrap_or(1).max(1),
        due: properties.headers.get(DUE_HEADER).and_then(|due| wait::read(due)),
        suspect: false,
        last_chance: false,
        convicted: false,
        run: Run::First,
        nonce: properties
            .headers
            .get(NONCE_HEADER)
            .and_then(|nonce| Uuid::parse_str(nonce).ok())
            .unwrap_or_else(Uuid::now_v7),
        community,
        plugin,
    };
    let expires = properties.headers.get(EXPIRES_HEADER).and_then(|at| wait::read(at));
    Opened { envelope, command, expired: expires.is_some_and(|at| at <= Utc::now()) }
}

/// The idempotency key that a worker reads in a message; for tests, which ask for no more.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn key_of(message: &Message) -> Option<String> {
    let limits = Limits { max_body_bytes: 1 << 20, prefix: "metagov".to_owned(), tenancy: Tenancy::default() };
    open(message, &limits).envelope.message_id.map(|id| id.as_str().to_owned())
}

/// Notes in a copy when it expires: in a delay queue the broker forgets how long a message may wait. An upper bound, for
/// nobody says how long it has waited before.
pub(super) fn keep_expiry(message: &mut Message) {
    if let Some(left) = message.properties.expiration {
        let at = (Utc::now() + left).timestamp_millis().to_string();
        message.properties.headers.entry(EXPIRES_HEADER.to_owned()).or_insert(at);
    }
}

type Read = (Result<Command, Problem>, Option<CommunitySlug>, Option<Name>);

fn read(message: &Message, limits: &Limits, problem: Option<Problem>) -> Read {
    let plugin_of_key = || CommandKey::parse(&message.routing_key).and_then(|key| key.plugin().cloned());
    if message.body.len() > limits.max_body_bytes {
        let detail = format!(
            "the body has {} bytes, the limit is {}; send less, or raise worker.max_body_bytes",
            message.body.len(),
            limits.max_body_bytes
        );
        return (Err(Problem::new(ProblemKind::TooLarge, detail)), None, plugin_of_key());
    }
    match Command::decode(&message.routing_key, &message.body) {
        Ok(command) => {
            let (community, plugin) = (command.community().cloned(), command.key().plugin().cloned());
            (problem.or_else(|| flaw(&command)).map_or(Ok(command), Err), community, plugin)
        }
        Err(refused) => (Err(problem.unwrap_or(refused.problem)), refused.community, refused.plugin),
    }
}

/// The same for every delivery of a message; without a `message_id` that is what it says, for whoever says the same is as
/// poisonous.
fn suspicion(fingerprint: &[u8; 32], message_id: Option<&MessageId>) -> Uuid {
    let key = message_id.map_or("", MessageId::as_str);
    Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_OID, fingerprint), key.as_bytes())
}

fn fingerprint(routing_key: &str, body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(routing_key).chain_update(b"\n").chain_update(body).finalize().into()
}

impl Envelope {
    /// The inbox row of the command; `None` where it has no key or no community, and so is not recognised again.
    #[must_use]
    pub(super) fn inbox(&self) -> Option<InboxEntry> {
        Some(InboxEntry {
            community: self.community.clone()?,
            message_id: self.message_id.clone()?,
            fingerprint: self.fingerprint,
            routing_key: self.routing_key.replace('\0', ""),
        })
    }

    /// The key that platforms are given: the same however often the command is delivered.
    #[must_use]
    pub(super) fn idempotency_key(&self) -> Uuid {
        self.derive("idempotency-key")
    }

    /// An id that is the same for every delivery of this command.
    #[must_use]
    pub(super) fn derive(&self, what: &str) -> Uuid {
        match (&self.community, &self.message_id) {
            (Some(community), Some(id)) => derive_uuid(&[what, community.as_str(), id.as_str()]),
            _ => Uuid::new_v5(&self.nonce, what.as_bytes()),
        }
    }

    /// The same command, known by a piece of work that others may ask for, too: whoever does it, it has one key. It stays
    /// the cause of what comes of that.
    #[must_use]
    pub(super) fn on_behalf_of(&self, work: Uuid) -> Self {
        let mut envelope = self.clone();
        envelope.know_by(MessageId::new(&work.to_string()).expect("a UUID is a key"));
        envelope
    }

    /// Whether it is a well-formed webhook.
    pub(super) fn is_webhook(&self) -> bool {
        self.known_by == KnownBy::Delivery
    }

    /// Recognises the command by this key, whatever else it says.
    pub(super) fn know_by(&mut self, key: MessageId) {
        self.fingerprint = fingerprint(&self.routing_key, key.as_str().as_bytes());
        self.message_id = Some(key);
    }

    /// What the command is known by while it is suspect.
    #[must_use]
    pub(super) fn suspicion(&self) -> Uuid {
        self.suspicion
    }

    /// The same command with this in place of the `message_id`, where there is none.
    #[must_use]
    pub(super) fn with_nonce(&self, nonce: Uuid) -> Self {
        Self { nonce, ..self.clone() }
    }

    /// What is in place of the `message_id` where there is none.
    #[must_use]
    pub(super) fn nonce(&self) -> Uuid {
        self.nonce
    }

    /// The plugin whose queue such commands have; `None` where the core's have it.
    pub(super) fn plugin_queue(&self) -> Option<&Name> {
        self.plugin.as_ref().filter(|_| !self.routing_key.starts_with("plugin."))
    }

    /// Whether anybody could recognise an answer to this command.
    #[must_use]
    pub(super) fn is_answerable(&self) -> bool {
        self.message_id.is_some()
            || self.causation_id.is_some()
            || self.correlation_id.is_some()
            || self.reply_to.is_some()
    }

    /// Where events of this command happen, seen from this plugin.
    #[must_use]
    pub(super) fn scope(&self, plugin: Option<&Name>, time: Timestamp) -> EventScope {
        EventScope {
            community: self.community.clone(),
            plugin: plugin.cloned(),
            correlation_id: self.correlation_id.clone(),
            causation_id: self.causation_id.clone(),
            traceparent: Some(self.trace.to_string()),
            time,
        }
    }

    /// Where events of a process happen: they belong to the command that started it, whatever has caused them.
    #[must_use]
    pub(super) fn scope_of(&self, process: &Process, time: Timestamp) -> EventScope {
        let scope = self.scope(Some(&process.plugin), time);
        EventScope { correlation_id: process.correlation_id.clone().or(scope.correlation_id), ..scope }
    }

    /// An event of this command, ready to be stored. `kind` tells it from the command's other events.
    ///
    /// # Panics
    /// Never: only what is rejected may be about no community, and then it is not stored.
    #[must_use]
    pub(super) fn event(&self, scope: &EventScope, kind: &str, body: &EventBody) -> OutboxEvent {
        let event = Event::new(self.event_id(scope, kind), scope, body);
        OutboxEvent {
            id: event.id,
            community: scope.community.clone().expect("whatever is stored belongs to a community"),
            plugin: event.plugin.clone(),
            routing_key: body.routing_key(scope),
            event_type: event.event_type.clone(),
            body: event.to_json().into(),
            // The database has no room for a NUL, and the body has the whole.
            correlation_id: event.correlationid.filter(|id| !id.contains('\0')),
            traceparent: event.traceparent,
            causation_id: event.causationid,
            process_id: body.process().map(|record| record.id),
            sequence: event.sequence,
            last: false,
        }
    }

    /// The event that a driver takes for the command's answer, and that goes to `reply_to`.
    #[must_use]
    pub(super) fn last_event(&self, scope: &EventScope, kind: &str, body: &EventBody) -> OutboxEvent {
        OutboxEvent { last: true, ..self.event(scope, kind, body) }
    }

    /// The id of this kind of event.
    pub(super) fn event_id(&self, scope: &EventScope, kind: &str) -> EventId {
        match &self.message_id {
            Some(message_id) => EventId::derive(scope.community.as_ref(), message_id, kind),
            None => EventId(Uuid::new_v5(&self.nonce, kind.as_bytes())),
        }
    }
}
