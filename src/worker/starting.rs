//! Governance processes: how they begin.
//!
//! The platform is called under an attempt's key, so that a start whose worker died goes on where it was. A start that
//! fails leaves a record that says so; one that is refused leaves none. Called by [`super::handle`]. Calls the plugin, through
//! [`super::guard`].

use std::sync::Arc;

use metagov_sdk::{
    Error, Finished, PluginDefinition, ProcessDefinition, Progress, Snapshot, StartedProcess,
    contract::{EventBody, Name, Problem, ProblemKind, ProcessRecord, ProcessStart, ProcessStatus, Timestamp},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    attempt::{Attempt, decide, without_run},
    envelope::Envelope,
    guard::guarded,
    handle::{Handlers, Step, platform_events},
    process::{find_process, unit},
    serial::{Shared, Turn},
    transition::end,
    unkeyed::{process_id, start_event},
    verdict::Verdict,
};
use crate::{
    host::LoadedInstance,
    store::{Change, InstanceVersion, Process},
};

impl Handlers {
    pub(super) async fn start_process(
        &self,
        envelope: &Envelope,
        plugin: &Name,
        process: &Name,
        body: ProcessStart,
    ) -> Step {
        let plugin = self.registry.find(plugin)?;
        let definition = find_process(plugin, process)?;
        let (community, id) = (body.community.clone(), process_id(envelope, &body));
        let started = self.start_on_record(envelope, plugin, definition, body).await;
        self.unless_started_before(envelope, &community, id, started).await
    }

    async fn start_on_record(
        &self,
        envelope: &Envelope,
        plugin: &Arc<PluginDefinition>,
        definition: &ProcessDefinition,
        body: ProcessStart,
    ) -> Step {
        let handler = (plugin.name().clone(), definition.name().to_string());
        let platform_id = body.community_platform_id.as_deref();
        let contended = self.contended_instance(envelope, plugin, &body.community, platform_id, &handler).await;
        // On record first: that takes long, and in the turn others wait.
        let attempt = self.begin(envelope, without_run(envelope, plugin.name()), self.deadline).await?;
        let turn = self.serial.turn_at(contended).await;
        let decided = decide(self.attempt_start(envelope, plugin, definition, body, &attempt, turn.as_ref())).await;
        let ended = self.end(envelope, &attempt, turn.as_ref(), decided).await;
        match turn {
            Some(turn) => turn.end(ended).await,
            None => ended,
        }
    }

    async fn attempt_start(
        &self,
        envelope: &Envelope,
        plugin: &Arc<PluginDefinition>,
        definition: &ProcessDefinition,
        body: ProcessStart,
        attempt: &Attempt,
        turn: Option<&Turn>,
    ) -> Step {
        let parameters = definition.check(Value::Object(body.parameters.clone()))?;
        let (community, platform_id) = (&body.community, body.community_platform_id.as_deref());
        let instance = self.instance_in_turn(plugin, community, platform_id, turn).await?;
        let id = process_id(envelope, &body);
        let envelope = &envelope.as_start_of(id, instance.stored.id);
        if self.store.process(&body.community, id).await?.is_some() {
            let detail = "there is a process with this process_id already; choose another, or leave it out";
            return Err(Problem::new(ProblemKind::AlreadyExists, detail).into());
        }
        let call = self.host.call(&instance, Self::request_of(envelope, attempt, body.initiator.clone()));
        let Finished { result, effects } =
            guarded(envelope, definition.start(call, parameters.clone()), self.deadline).await.into_finished();
        let now = self.now();
        let mut record = new_record(id, plugin.name(), definition.name(), &instance, body, parameters, now);
        let problem = result.as_ref().err().map(|error| error.problem().clone());
        let (snapshot, bodies) = match result {
            Ok(StartedProcess { snapshot, url, progress }) => {
                record.status = ProcessStatus::Pending;
                record.url = url;
                record.closes_at = snapshot.closes_at;
                let outcome = match &progress {
                    Progress::Unchanged => None,
                    Progress::Updated(outcome) | Progress::Completed(outcome) => Some(outcome.clone()),
                };
                record.outcome = outcome.unwrap_or_default();
                let mut bodies = vec![EventBody::ProcessStarted(record.clone())];
                if matches!(progress, Progress::Completed(_)) {
                    record.version += 1;
                    end(&mut record, ProcessStatus::Completed, now);
                    bodies.push(EventBody::ProcessCompleted(record.clone()));
                }
                (snapshot, bodies)
            }
            Err(Error::Rejected(problem)) => return Ok(Verdict::Reject(problem)),
            Err(Error::Retry { after, problem }) => match self.again(attempt.number(), after, &problem) {
                Some(later) => return Ok(later),
                None => fail_start(&mut record, *problem, now),
            },
            Err(Error::Failed(problem)) => fail_start(&mut record, *problem, now),
        };
        let scope = envelope.scope(Some(plugin.name()), now);
        let mut events = platform_events(envelope, &scope, effects.events, "start");
        for (place, body) in bodies.iter().enumerate() {
            let kind = start_event(place);
            // The first event answers the start; the second says that it has already ended.
            events.push(if place == 0 {
                envelope.last_event(&scope, &kind, body)
            } else {
                envelope.event(&scope, &kind, body)
            });
        }
        let process = Change::InsertProcess(Box::new(Process {
            record,
            plugin: plugin.name().clone(),
            process: definition.name().clone(),
            instance_id: instance.stored.id,
            state: snapshot.state,
            poll_every: snapshot.poll_every,
            webhook_key: snapshot.webhook_key,
            correlation_id: envelope.correlation_id.clone(),
        }));
        // The instance must still be there, in whatever version: the platform has been called, and is not called again
        // because a config changed meanwhile.
        let saw = InstanceVersion { id: instance.stored.id, version: None };
        let (mut unit, mut shared) = (unit(envelope, Some(saw), vec![process], events), Shared::new());
        if let Some(state) = effects.state {
            let handler = (plugin.name().clone(), definition.name().to_string());
            self.keep_state(&handler, &instance, state, turn.is_some(), &mut unit, &mut shared);
        }
        let shared = turn.map(|_| Box::new(shared));
        Ok(Verdict::Commit { unit: Box::new(unit), shared, problem: problem.map(Box::new) })
    }
}

fn fail_start(record: &mut ProcessRecord, problem: Problem, now: Timestamp) -> (Snapshot, Vec<EventBody>) {
    record.problem = Some(problem);
    end(record, ProcessStatus::Failed, now);
    let nothing = Snapshot { state: Value::Null, closes_at: None, poll_every: None, webhook_key: None };
    (nothing, vec![EventBody::ProcessFailed(record.clone())])
}

fn new_record(
    id: Uuid,
    plugin: &Name,
    process: &Name,
    instance: &LoadedInstance,
    body: ProcessStart,
    parameters: Value,
    now: Timestamp,
) -> ProcessRecord {
    ProcessRecord {
        id,
        name: format!("{plugin}.{process}"),
        community: body.community,
        community_platform_id: instance.stored.platform_id.clone(),
        status: ProcessStatus::Created,
        url: None,
        parameters,
        outcome: Value::Null,
        errors: Vec::new(),
        problem: None,
        initiator: body.initiator,
        callback_url: body.callback_url,
        version: 1,
        created_at: now,
        updated_at: now,
        closes_at: None,
        closed_at: None,
    }
}
