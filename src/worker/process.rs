//! Governance processes: started, looked at, closed.
//!
//! The plugin's state and the record change together, and only if nobody else changed them meanwhile: the loser runs
//! again on the fresh state. A terminal record never changes again. Up: [`super::handle`]. Down: the plugin, through
//! [`super::guard`].

use std::sync::Arc;

use metagov_sdk::{
    Error, Finished, PluginDefinition, ProcessDefinition, Progress, Snapshot, StartedProcess, SteppedProcess,
    contract::{
        EventBody, Name, Poll, Problem, ProblemKind, ProcessClose, ProcessRecord, ProcessStart, ProcessStatus,
        Timestamp,
    },
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    attempt::{Attempt, without_run},
    envelope::Envelope,
    guard::guarded,
    handle::{Detour, Handlers, Step, platform_events, state_change},
    verdict::Verdict,
    wait::LONGEST,
};
use crate::{
    host::LoadedInstance,
    registry::unknown,
    store::{Change, InstanceVersion, OutboxEvent, Process, Unit},
};

/// A process that somebody wants to move on.
pub(super) struct Open {
    pub(super) process: Process,
    pub(super) plugin: Arc<PluginDefinition>,
    pub(super) instance: Arc<LoadedInstance>,
}

impl Open {
    /// What the plugin does with this kind of process.
    pub(super) fn definition(&self) -> Result<&ProcessDefinition, Problem> {
        find_process(&self.plugin, &self.process.process)
    }
}

fn find_process<'a>(plugin: &'a PluginDefinition, name: &Name) -> Result<&'a ProcessDefinition, Problem> {
    plugin
        .process(name.as_str())
        .ok_or_else(|| unknown(ProblemKind::UnknownProcess, "process", name, plugin.process_names()))
}

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
        let attempt = self.begin(envelope, without_run(envelope, plugin.name()), self.deadline).await?;
        let decided = self.attempt_start(envelope, plugin, definition, body, &attempt).await;
        self.end(&attempt, decided).await
    }

    async fn attempt_start(
        &self,
        envelope: &Envelope,
        plugin: &Arc<PluginDefinition>,
        definition: &ProcessDefinition,
        body: ProcessStart,
        attempt: &Attempt,
    ) -> Step {
        let parameters = definition.check(Value::Object(body.parameters.clone()))?;
        let instance = self.instances.fresh(plugin, &body.community, body.community_platform_id.as_deref()).await?;
        let id = body.process_id.unwrap_or_else(|| envelope.derive("process"));
        if self.store.process(&body.community, id).await?.is_some() {
            let detail = "there is a process with this process_id already; choose another, or leave it out";
            return Err(Problem::new(ProblemKind::Conflict, detail).into());
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
        let mut events = platform_events(envelope, plugin.name(), now, effects.events, "start");
        for (place, body) in bodies.iter().enumerate() {
            let kind = format!("start/{place}");
            // The first event answers the start; that it has already ended is told by the second.
            events.push(if place == 0 {
                envelope.last_event(&scope, &kind, body)
            } else {
                envelope.event(&scope, &kind, body)
            });
        }
        let mut changes: Vec<_> = state_change(&instance, effects.state).into_iter().collect();
        changes.push(Change::InsertProcess(Box::new(Process {
            record,
            plugin: plugin.name().clone(),
            process: definition.name().clone(),
            instance_id: instance.stored.id,
            state: snapshot.state,
            poll_every: snapshot.poll_every,
            webhook_key: snapshot.webhook_key,
        })));
        // The instance must still be there, in whatever version: the platform has been called, and is not called again
        // because a config changed meanwhile.
        let saw = InstanceVersion { id: instance.stored.id, version: None };
        Ok(told(unit(envelope, Some(saw), changes, events), problem))
    }

    pub(super) async fn close_process(
        &self,
        envelope: &Envelope,
        plugin: &Name,
        process: &Name,
        body: &ProcessClose,
    ) -> Step {
        find_process(self.registry.find(plugin)?, process)?;
        // To close again what is closed changes nothing, so only steps have to be on record.
        let new = without_run(envelope, plugin);
        let attempt = self.begin_at_first_step(envelope, new, self.deadline).await?;
        let decided = self.attempt_close(envelope, plugin, process, body, &attempt).await;
        self.end(&attempt, decided).await
    }

    async fn attempt_close(
        &self,
        envelope: &Envelope,
        plugin: &Name,
        process: &Name,
        body: &ProcessClose,
        attempt: &Attempt,
    ) -> Step {
        let found = self.store.process(&body.community, body.process_id).await?;
        let Some(found) = found.filter(|found| found.plugin == *plugin && found.process == *process) else {
            let detail = "no process with this process_id and name is known in this community";
            return Err(Problem::new(ProblemKind::NotFound, detail).into());
        };
        let status = found.record.status;
        if status.is_terminal() {
            let detail = format!("the process has ended before, its status is '{}'", status.as_str());
            return Err(Problem::new(ProblemKind::AlreadyCompleted, detail).into());
        }
        let open = self.open(found).await?;
        let request = Self::request_of(envelope, attempt, open.process.record.initiator.clone());
        let call = self.host.call(&open.instance, request);
        let handling = open.definition()?.close(call, open.process.state.clone());
        let finished = guarded(envelope, handling, self.deadline).await.into_finished();
        match &finished.result {
            Err(Error::Rejected(problem)) => return Ok(Verdict::Reject(problem.clone())),
            Err(Error::Retry { after, problem }) => {
                if let Some(later) = self.again(attempt.number(), *after, problem) {
                    return Ok(later);
                }
            }
            Ok(_) | Err(Error::Failed(_)) => {}
        }
        // A driver that asked is always answered, also where nothing changed.
        Ok(self.step(envelope, &open, finished, Answer::Always).unwrap_or(Verdict::Done))
    }

    pub(super) async fn poll(&self, envelope: &Envelope, plugin: &Name, process: &Name, body: &Poll) -> Step {
        let found = self.store.process(&body.community, body.process_id).await?;
        // A poll that comes late, or for a process that is gone, has nobody who waits for an answer.
        let found = found.filter(|found| found.plugin == *plugin && found.process == *process);
        let Some(found) = found.filter(|found| !found.record.status.is_terminal()) else {
            if envelope.suspect {
                // Its first delivery may have ended the process itself and have died before that was told.
                self.unless_seen(envelope).await?;
            }
            return Ok(Verdict::Done);
        };
        if let Some(closes_at) = found.record.closes_at.filter(|closes_at| *closes_at <= body.due_at) {
            return self.close_by_the_clock(envelope, found, closes_at).await;
        }
        let open = match self.open(found).await {
            Ok(open) => open,
            Err(detour) => return or_the_next(detour),
        };
        let call = self.host.call(&open.instance, Self::request(envelope, open.process.record.initiator.clone()));
        let handling = open.definition()?.poll(call, open.process.state.clone());
        let finished = guarded(envelope, handling, self.deadline).await.into_finished();
        self.look(envelope, &open, finished).await
    }

    /// What a look at an open process changed; where its platform is away, the next look comes.
    pub(super) async fn look(&self, envelope: &Envelope, open: &Open, finished: Finished<SteppedProcess>) -> Step {
        if let Err(Error::Retry { after, problem }) = &finished.result {
            tracing::debug!(%problem, "the platform is away; the next poll comes");
            if let Some(after) = after {
                let record = &open.process.record;
                self.store.put_off_process(&record.community, record.id, (*after).min(LONGEST)).await?;
            }
            return Ok(Verdict::Done);
        }
        Ok(self.step(envelope, open, finished, Answer::IfChanged).unwrap_or(Verdict::Done))
    }

    /// An open process with everything that is needed to move it on.
    pub(super) async fn open(&self, process: Process) -> Step<Open> {
        let plugin = Arc::clone(self.registry.find(&process.plugin)?);
        let stored = self.store.instance(&process.record.community, process.instance_id).await?;
        let stored = stored.ok_or_else(|| {
            let detail = format!("'{}' was disabled while this process was open", process.plugin);
            Problem::new(ProblemKind::PluginNotEnabled, detail)
        })?;
        let instance = Arc::new(self.host.load(&plugin, stored)?);
        Ok(Open { process, plugin, instance })
    }

    /// What a step of a process changed, as a unit; `None` where it changed nothing.
    fn step(
        &self,
        envelope: &Envelope,
        open: &Open,
        finished: Finished<SteppedProcess>,
        answer: Answer,
    ) -> Option<Verdict> {
        let Finished { result, effects } = finished;
        let problem = result.as_ref().err().map(|error| error.problem().clone());
        let now = self.now();
        let mut events = platform_events(envelope, open.plugin.name(), now, effects.events, "step");
        let mut changes: Vec<_> = state_change(&open.instance, effects.state).into_iter().collect();
        if let Some(moved) = advance(&open.process, result, now, answer) {
            if let Some(body) = &moved.event {
                let scope = envelope.scope(Some(open.plugin.name()), now);
                events.push(envelope.last_event(&scope, "step", body));
            }
            changes.push(moved.change);
        }
        (!changes.is_empty() || !events.is_empty()).then(|| told(unit(envelope, None, changes, events), problem))
    }
}

/// What is not handled now but later is done with, where the scheduler sends the next one anyway.
pub(super) fn or_the_next(detour: Detour) -> Step {
    match detour {
        Detour::Verdict(Verdict::Later { .. }) => Ok(Verdict::Done),
        detour => Err(detour),
    }
}

/// Whether a step that changed nothing visible is told all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Always,
    IfChanged,
}

/// A process after a step.
pub(super) struct Moved {
    pub(super) change: Change,
    pub(super) event: Option<EventBody>,
}

/// The record after a step of its plugin; `None` where nothing changed and nobody waits for an answer.
pub(super) fn advance(
    process: &Process,
    result: Result<SteppedProcess, Error>,
    now: Timestamp,
    answer: Answer,
) -> Option<Moved> {
    let before = &process.record;
    let mut after = process.clone();
    match result {
        Ok(SteppedProcess { snapshot, progress }) => {
            after.record.errors.clear();
            let Snapshot { state, closes_at, poll_every, webhook_key } = snapshot;
            (after.state, after.poll_every, after.webhook_key) = (state, poll_every, webhook_key);
            after.record.closes_at = closes_at;
            match progress {
                Progress::Unchanged => {}
                Progress::Updated(outcome) => after.record.outcome = outcome,
                Progress::Completed(outcome) => {
                    after.record.outcome = outcome;
                    end(&mut after.record, ProcessStatus::Completed, now);
                }
            }
        }
        Err(error) => after.record.errors = vec![error.problem().clone()],
    }
    let visible = after.record.status != before.status
        || after.record.outcome != before.outcome
        || after.record.errors != before.errors;
    if !visible && answer == Answer::IfChanged && after == *process {
        return None;
    }
    after.record.version += 1;
    after.record.updated_at = now;
    let event = (visible || answer == Answer::Always).then(|| match after.record.status {
        ProcessStatus::Completed => EventBody::ProcessCompleted(after.record.clone()),
        ProcessStatus::Failed => EventBody::ProcessFailed(after.record.clone()),
        ProcessStatus::Created | ProcessStatus::Pending => EventBody::ProcessUpdated(after.record.clone()),
    });
    Some(Moved { change: Change::UpdateProcess { process: Box::new(after), expected: before.version }, event })
}

/// A process that ends because its plugin goes away.
pub(super) fn abandon(process: &Process, problem: Problem, now: Timestamp) -> Moved {
    let mut after = process.clone();
    after.record.version += 1;
    after.record.problem = Some(problem);
    end(&mut after.record, ProcessStatus::Failed, now);
    let event = Some(EventBody::ProcessFailed(after.record.clone()));
    Moved { change: Change::UpdateProcess { process: Box::new(after), expected: process.record.version }, event }
}

fn end(record: &mut ProcessRecord, status: ProcessStatus, now: Timestamp) {
    record.status = status;
    record.updated_at = now;
    record.closed_at = Some(now);
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

/// A unit without a run.
pub(super) fn unit(
    envelope: &Envelope,
    saw: Option<InstanceVersion>,
    changes: Vec<Change>,
    events: Vec<OutboxEvent>,
) -> Unit {
    Unit { inbox: envelope.inbox(), saw, changes, events, ..Unit::default() }
}

/// Stores a step, with what went wrong in it.
fn told(unit: Unit, problem: Option<Problem>) -> Verdict {
    Verdict::Commit { unit: Box::new(unit), problem: problem.map(Box::new) }
}
