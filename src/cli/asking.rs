//! Publishing a command and waiting for what becomes of it, with each step told as it happens.
//!
//! The subscription stands before the command is published, so that no answer is missed. An answer is recognised by its
//! `causationid`. Up: the commands that write. Down: the bus; and the database, for the attempts only.

use std::time::{Duration, Instant};

use anyhow::Context;
use metagov_sdk::contract::{Command, CommunitySlug, Event, MessageId, Name, Problem};
use serde_json::Value;

use super::{
    connection,
    exit::{Exit, Stop},
    output::{Output, line, problem_object, tell_problem},
};
use crate::{
    bus::{Bus, Destination, Message, Outgoing, Properties, Subscription},
    config::Config,
    store::{AttemptStatus, AttemptView, Store},
};

/// How often the database is asked which attempt runs.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A command with the key that makes it one and the same, however often it is sent.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) command: Command,
    pub(super) message_id: MessageId,
    /// What its driver recognises the outcome by, besides.
    pub(super) correlation_id: Option<String>,
}

impl Ask {
    /// A command under this key, or under a fresh one.
    ///
    /// # Panics
    /// Never: a UUID is a message id.
    pub(super) fn new(command: Command, message_id: Option<MessageId>) -> Self {
        let fresh = || MessageId::new(&uuid::Uuid::now_v7().to_string()).expect("a UUID is a message id");
        Self { command, message_id: message_id.unwrap_or_else(fresh), correlation_id: None }
    }

    /// Publishes it and returns once the broker has it.
    pub(super) async fn publish(&self, bus: &Bus) -> anyhow::Result<()> {
        connection::publish(bus, vec![self.outgoing()]).await.map(drop)
    }

    fn outgoing(&self) -> Outgoing {
        let message = Message {
            routing_key: self.command.key().to_string(),
            body: self.command.body().into(),
            properties: Properties {
                content_type: Some("application/json".to_owned()),
                message_id: Some(self.message_id.to_string()),
                correlation_id: self.correlation_id.clone(),
                timestamp: u64::try_from(chrono::Utc::now().timestamp()).ok(),
                ..Properties::default()
            },
        };
        Outgoing { to: Destination::Commands, message }
    }

    /// Publishes it and waits for its final event.
    pub(super) async fn wait(&self, config: &Config, out: Output, timeout: Duration) -> anyhow::Result<Event> {
        let begun = Instant::now();
        let late = |_| Stop::TimedOut(format!("no service was reached within {timeout:?}; nothing was sent"));
        let connecting = async {
            let bus = connection::bus(config).await?;
            // Only for telling attempts; without it there is still the outcome.
            anyhow::Ok((bus, connection::store(config).await.ok()))
        };
        let (bus, store) = tokio::time::timeout(timeout, connecting).await.map_err(late)??;
        let left = timeout.saturating_sub(begun.elapsed());
        let result = self.wait_on(&bus, store.as_ref(), out, left).await;
        bus.close().await;
        result
    }

    async fn wait_on(&self, bus: &Bus, store: Option<&Store>, out: Output, timeout: Duration) -> anyhow::Result<Event> {
        let waiting = async {
            let events = bus.subscribe(&self.patterns()).await?;
            // As long as the caller waits for the outcome, however long the broker takes no messages.
            bus.publish(vec![self.outgoing()]).await.context("cannot publish")?;
            out.towards_outcome(&format!("accepted as {}", self.message_id));
            self.follow(events, store, out).await
        };
        tokio::time::timeout(timeout, waiting)
            .await
            .unwrap_or_else(|_| Err(Stop::TimedOut(self.too_late(timeout)).into()))
    }

    fn too_late(&self, timeout: Duration) -> String {
        format!(
            "no outcome within {timeout:?}; it may still come: is a worker running? The same command with --message-id {} \
             has no second effect and gets the outcome",
            self.message_id
        )
    }

    async fn follow(&self, mut events: Subscription, store: Option<&Store>, out: Output) -> anyhow::Result<Event> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut told = None;
        loop {
            tokio::select! {
                message = events.recv() => {
                    let Some(message) = message else {
                        return Err(Stop::Unreachable("the connection ended before the outcome came".to_owned()).into());
                    };
                    let Ok(event) = serde_json::from_slice::<Event>(&message.body) else { continue };
                    if event.causationid.as_deref() != Some(self.message_id.as_str()) {
                        continue;
                    }
                    if self.is_final(&event) {
                        tell_last_attempt(told, &event, out);
                        out.towards_outcome(&format!("outcome: {}", kind(&event)));
                        return Ok(event);
                    }
                    out.towards_outcome(kind(&event));
                }
                _ = look.tick(), if store.is_some() => {
                    if let Some(seen) = self.attempts(store).await
                        && told != Some(seen)
                        && let Some(words) = about_attempt(seen)
                    {
                        out.towards_outcome(&words);
                        told = Some(seen);
                    }
                }
            }
        }
    }

    async fn attempts(&self, store: Option<&Store>) -> Option<AttemptView> {
        // A database that is busy now is asked again a moment later.
        store?.attempts(self.command.community()?, &self.message_id).await.ok()?
    }

    /// Where the answers to this command can come from.
    fn patterns(&self) -> Vec<String> {
        let community = self.command.community().map_or("_", CommunitySlug::as_str);
        let key = self.command.key();
        // Applying a community also enables and disables plugins; those events are steps on the way.
        let plugin = key.plugin().map_or("*", Name::as_str);
        vec![
            format!("{community}.{plugin}.#"),
            format!("{community}.core.#"),
            format!("{community}.*.command.rejected"),
            "_.*.command.rejected".to_owned(),
        ]
    }

    /// Whether this is the last word on the command: an outcome or a rejection, not an event on the way.
    fn is_final(&self, event: &Event) -> bool {
        let expected: &[&str] = match &self.command {
            Command::CommunityApply(_) => &["community.applied"],
            Command::CommunityDelete(_) => &["community.deleted"],
            Command::PluginEnable(..) => &["plugin.enabled", "plugin.updated"],
            Command::PluginDisable(..) => &["plugin.disabled"],
            Command::Action(..) => &["action.completed", "action.failed", "action.uncertain"],
            Command::ProcessStart(..) => &["process.started", "process.failed"],
            Command::ProcessClose(..) | Command::Poll(..) => {
                &["process.updated", "process.completed", "process.failed"]
            }
            // Nothing answers these but a rejection; the command line does not send them.
            Command::Webhook(..) | Command::Tick(..) => &[],
        };
        kind(event) == "command.rejected" || expected.contains(&kind(event))
    }
}

/// The type without what all types begin with.
pub(super) fn kind(event: &Event) -> &str {
    event.event_type.strip_prefix("org.metagov.").unwrap_or(&event.event_type)
}

/// What went wrong, where this event says that something did.
pub(super) fn problem_of(event: &Event) -> Option<Problem> {
    let told = matches!(kind(event), "command.rejected" | "action.failed" | "action.uncertain" | "process.failed");
    told.then(|| event.data.get("problem").cloned()).flatten().and_then(|problem| serde_json::from_value(problem).ok())
}

/// Prints an outcome: its data on stdout, a problem on stderr; the exit code is the outcome.
pub(super) fn conclude(out: Output, event: &Event, human: impl FnOnce(&Value) -> String) -> anyhow::Result<Exit> {
    let problem = problem_of(event);
    let Some(problem) = problem else {
        out.data(&event.data, || human(&event.data))?;
        return Ok(Exit::Success);
    };
    tell_problem(&problem);
    let exit = Exit::of_problem(&problem);
    if out.is_json() {
        let mut object = problem_object(&problem, exit);
        object["error"]["data"] = event.data.clone();
        line(&object.to_string())?;
    }
    Ok(exit)
}

/// JSON with line breaks.
pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

/// What to say of an attempt that has not ended; once it has, the event says it in a moment.
fn about_attempt(seen: AttemptView) -> Option<String> {
    let n = seen.attempts;
    match seen.status {
        // The first attempt is shown with the outcome: a rejection has none, and may come before the look at the database.
        AttemptStatus::Running => (n > 1).then(|| format!("attempt {n}")),
        AttemptStatus::Retrying => Some(format!("attempt {n} met passing trouble; it will be repeated")),
        AttemptStatus::Completed | AttemptStatus::Failed | AttemptStatus::Uncertain => None,
    }
}

/// Most outcomes come faster than the database is asked; the event itself says how many attempts it took.
fn tell_last_attempt(told: Option<AttemptView>, event: &Event, out: Output) {
    let attempts = event.data.get("attempts").and_then(Value::as_u64);
    if let Some(attempts) = attempts
        && told.is_none_or(|told| u64::from(told.attempts) < attempts)
    {
        out.towards_outcome(&format!("attempt {attempts}"));
    }
}

#[cfg(test)]
mod tests {
    use metagov_sdk::contract::{
        ActionCommand, CommunityApply, EventBody, EventId, EventScope, PlatformEvent, ProblemKind,
    };
    use serde_json::{Map, json};

    use super::*;
    use crate::bus::Queue;

    fn name(name: &str) -> Name {
        Name::new(name).expect("valid")
    }

    fn slug() -> CommunitySlug {
        CommunitySlug::new("acme").expect("valid")
    }

    fn action() -> Ask {
        let command =
            ActionCommand { community: slug(), community_platform_id: None, parameters: Map::new(), initiator: None };
        Ask::new(Command::Action(name("randomness"), name("random-int"), command), None)
    }

    #[test]
    fn an_answer_is_looked_for_wherever_it_can_come_from() {
        let patterns = action().patterns();
        for pattern in ["acme.randomness.#", "acme.*.command.rejected", "_.*.command.rejected"] {
            assert!(patterns.iter().any(|found| found == pattern), "{patterns:?}");
        }
        let apply = CommunityApply { slug: slug(), readable_name: None, plugins: None };
        let patterns = Ask::new(Command::CommunityApply(apply), None).patterns();
        assert!(patterns.iter().any(|found| found == "acme.core.#"), "{patterns:?}");
    }

    #[test]
    fn each_ask_has_a_key_of_its_own_unless_it_is_given_one() {
        assert_ne!(action().message_id, action().message_id);
        let key = MessageId::new("mine").expect("valid");
        assert_eq!(Ask::new(action().command, Some(key.clone())).message_id, key);
    }

    /// What a service would answer to the command with this key.
    fn answer(key: &str, kind: &str, data: &Value) -> Outgoing {
        let scope = EventScope {
            community: Some(slug()),
            plugin: Some(name("randomness")),
            correlation_id: None,
            causation_id: Some(key.to_owned()),
            traceparent: None,
            time: chrono::Utc::now(),
        };
        let told = PlatformEvent { event_type: "x".to_owned(), data: Value::Null, initiator: None };
        let mut event = Event::new(EventId(uuid::Uuid::now_v7()), &scope, &EventBody::Platform(told));
        event.event_type = format!("org.metagov.{kind}");
        event.data = data.clone();
        let routing_key = "acme.randomness.whatever".to_owned();
        let message = Message { routing_key, body: event.to_json().into(), properties: Properties::default() };
        Outgoing { to: Destination::Events, message }
    }

    /// A service that answers the first command with these events: whose key, kind, data.
    async fn service(bus: &Bus, answers: &'static [(Option<&'static str>, &'static str)]) {
        bus.apply_topology(&[name("randomness")]).await.expect("the bus is ours");
        let mut commands = bus.consume(Queue::Plugin(name("randomness")), 1);
        let bus = bus.clone();
        tokio::spawn(async move {
            let command = commands.recv().await.expect("a command comes");
            let key = command.message.properties.message_id.expect("it has a key");
            let answer = |(other, kind): &(Option<&str>, &str)| {
                let data =
                    json!({ "attempts": 3, "output": other, "problem": Problem::new(ProblemKind::Timeout, "late") });
                answer(other.unwrap_or(&key), kind, &data)
            };
            bus.publish(answers.iter().map(answer).collect()).await.expect("the bus is ours");
            command.receipt.ack();
        });
    }

    const QUIET: Output = Output::new(true, true);

    #[tokio::test]
    async fn the_outcome_is_the_one_of_our_own_command() {
        let bus = Bus::in_process("t");
        service(
            &bus,
            &[(Some("not ours"), "action.failed"), (None, "platform.randomness.x"), (None, "action.completed")],
        )
        .await;
        let event = action().wait_on(&bus, None, QUIET, Duration::from_mins(1)).await.expect("an outcome");
        assert_eq!(kind(&event), "action.completed");
        assert_eq!(conclude(QUIET, &event, pretty).expect("it prints"), Exit::Success);
    }

    #[tokio::test]
    async fn a_failure_and_a_rejection_are_outcomes_too() {
        for expected in ["action.failed", "action.uncertain", "command.rejected"] {
            let bus = Bus::in_process("t");
            let answers: &[_] = match expected {
                "action.failed" => &[(None, "action.failed")],
                "action.uncertain" => &[(None, "action.uncertain")],
                _ => &[(None, "command.rejected")],
            };
            service(&bus, answers).await;
            let event = action().wait_on(&bus, None, QUIET, Duration::from_mins(1)).await.expect("an outcome");
            assert_eq!(kind(&event), expected);
            assert_eq!(conclude(QUIET, &event, pretty).expect("it prints"), Exit::Failure);
        }
    }

    #[test]
    fn a_rejection_for_a_reason_that_only_a_newer_service_knows_is_no_success() {
        let problem = json!({
            "type": "https://metagov.org/problems/invented-later", "title": "T", "status": 400, "detail": "what to do"
        });
        let rejected = answer("key", "command.rejected", &json!({ "routing_key": "k", "problem": problem }));
        let event = serde_json::from_slice(&rejected.message.body).expect("it is an event");
        assert_eq!(conclude(QUIET, &event, pretty).expect("it prints"), Exit::Failure);
    }

    #[tokio::test]
    async fn an_outcome_that_does_not_come_is_no_failure_but_a_time_out_that_says_how_to_ask_again() {
        let bus = Bus::in_process("t");
        bus.apply_topology(&[name("randomness")]).await.expect("the bus is ours");
        let ask = action();
        let error = ask.wait_on(&bus, None, QUIET, Duration::from_millis(1)).await.expect_err("nobody answers");
        assert_eq!(Exit::of(&error), Exit::TimedOut);
        assert!(error.to_string().contains(ask.message_id.as_str()), "{error}");
    }
}
