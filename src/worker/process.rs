//! Governance processes that are open: looked at and closed.
//!
//! The plugin's state and the record change together. Commands that move one process on take turns ([`super::serial`]), and
//! what another worker changed meanwhile is found out when it is stored. Called by [`super::handle`]. Calls the plugin,
//! through [`super::guard`].

use std::sync::Arc;

use metagov_sdk::{
    Error, Finished, PluginDefinition, ProcessDefinition, SteppedProcess,
    contract::{CommunitySlug, Name, Poll, Problem, ProblemKind, ProcessClose},
};
use uuid::Uuid;

use super::{
    attempt::{Attempt, decide, without_run},
    envelope::Envelope,
    guard::guarded,
    handle::{Detour, Handlers, Step, platform_events},
    serial::{Placement, Report, RowKey, Shared, Turn},
    transition::{Answer, Moved, advance},
    verdict::Verdict,
    wait::LONGEST,
};
use crate::{
    host::LoadedInstance,
    registry::unknown_process,
    store::{Change, InstanceVersion, OutboxEvent, Process, Unit},
};

/// A process that somebody wants to move on.
pub(super) struct Open {
    pub(super) process: Process,
    pub(super) plugin: Arc<PluginDefinition>,
    pub(super) instance: Arc<LoadedInstance>,
    /// Whether nobody else of this worker changes the plugin's state meanwhile.
    has_instance: bool,
}

impl Open {
    /// What the plugin does with this kind of process.
    pub(super) fn definition(&self) -> Result<&ProcessDefinition, Problem> {
        find_process(&self.plugin, &self.process.process)
    }
}

pub(super) fn find_process<'a>(plugin: &'a PluginDefinition, name: &Name) -> Result<&'a ProcessDefinition, Problem> {
    plugin.process(name.as_str()).ok_or_else(|| unknown_process(plugin, name))
}

impl Handlers {
    pub(super) async fn close_process(
        &self,
        envelope: &Envelope,
        plugin: &Name,
        process: &Name,
        body: &ProcessClose,
    ) -> Step {
        find_process(self.registry.find(plugin)?, process)?;
        let (turn, found) = self.turn_at(envelope, plugin, process, &body.community, body.process_id).await?;
        // To close again what is closed changes nothing, so only steps have to be on record.
        let new = without_run(envelope, plugin);
        let decided = match self.begin_at_first_step(envelope, new, self.deadline).await {
            Ok(attempt) => {
                let decided = decide(self.attempt_close(envelope, found, &attempt, &turn)).await;
                self.end(envelope, &attempt, Some(&turn), decided).await
            }
            Err(detour) => Err(detour),
        };
        turn.end(decided).await
    }

    async fn attempt_close(&self, envelope: &Envelope, found: Option<Process>, attempt: &Attempt, turn: &Turn) -> Step {
        let Some(found) = found else {
            let detail = "no process with this process_id and name is known in this community";
            return Err(Problem::new(ProblemKind::NotFound, detail).into());
        };
        let status = found.record.status;
        if status.is_terminal() {
            let detail = format!("the process has ended before, its status is '{}'", status.as_str());
            return Err(Problem::new(ProblemKind::AlreadyCompleted, detail).into());
        }
        let open = self.open(found, turn).await?;
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
        let (turn, found) = self.turn_at(envelope, plugin, process, &body.community, body.process_id).await?;
        let decided = self.poll_in_turn(envelope, found, body, &turn).await;
        turn.end(decided).await
    }

    async fn poll_in_turn(&self, envelope: &Envelope, found: Option<Process>, body: &Poll, turn: &Turn) -> Step {
        // A poll that comes late, or for a process that is gone, has nobody who waits for an answer.
        let Some(found) = found.filter(|found| !found.record.status.is_terminal()) else {
            if envelope.suspect {
                // Its first delivery may have ended the process itself and have died before that was told.
                self.unless_seen(envelope).await?;
            }
            return Ok(Verdict::Done);
        };
        if let Some(closes_at) = found.record.closes_at.filter(|closes_at| *closes_at <= body.due_at) {
            return self.close_by_the_clock(envelope, found, closes_at, turn).await;
        }
        let open = match self.open(found, turn).await {
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

    /// Waits for a command's turn at a process of this name, and reads it then; at its plugin's state, too, where another
    /// command is changing that.
    async fn turn_at(
        &self,
        envelope: &Envelope,
        plugin: &Name,
        process: &Name,
        community: &CommunitySlug,
        id: Uuid,
    ) -> Step<(Turn, Option<Process>)> {
        let row = RowKey::Process(community.clone(), id);
        let turn = self.serial.turn([row.clone()].into()).await;
        let is_meant = |found: &Process| found.plugin == *plugin && found.process == *process;
        let read = async |turn: &Turn| Ok(turn.processes(&self.store, community, &[id]).await?.pop().filter(is_meant));
        let found: Option<Process> = read(&turn).await.map_err(Detour::Store)?;
        let instance = found.as_ref().map(|found| RowKey::Instance(community.clone(), found.instance_id));
        let handler = (plugin.clone(), process.to_string());
        match instance.filter(|instance| self.takes_turns(envelope, instance, &handler)) {
            None => Ok((turn, found)),
            Some(instance) => {
                drop(turn);
                let turn = self.serial.turn([instance, row].into()).await;
                let found = read(&turn).await.map_err(Detour::Store)?;
                Ok((turn, found))
            }
        }
    }

    /// An open process with everything that is needed to move it on.
    pub(super) async fn open(&self, process: Process, turn: &Turn) -> Step<Open> {
        let plugin = Arc::clone(self.registry.find(&process.plugin)?);
        if let Some(instance) = turn.latest_instance() {
            return Ok(Open { process, plugin, instance, has_instance: true });
        }
        let stored = self.store.instance(&process.record.community, process.instance_id).await?;
        let stored = stored.ok_or_else(|| {
            let detail = format!("'{}' was disabled while this process was open", process.plugin);
            Problem::new(ProblemKind::PluginNotEnabled, detail)
        })?;
        let instance = Arc::new(self.host.load(&plugin, stored)?);
        Ok(Open { process, plugin, instance, has_instance: turn.has_instance() })
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
        let events = platform_events(envelope, &envelope.scope_of(&open.process, now), effects.events, "step");
        let (mut unit, mut shared) = (unit(envelope, None, Vec::new(), events), Shared::new());
        if let Some(state) = effects.state {
            let handler = (open.plugin.name().clone(), open.process.process.to_string());
            self.keep_state(&handler, &open.instance, state, open.has_instance, &mut unit, &mut shared);
        }
        if let Some(Moved { process, is_visible }) = advance(&open.process, result, now, answer) {
            let (row, label) = (RowKey::of(&process), "step".to_owned());
            shared.reports.extend(is_visible.then_some(Report { row, label, time: now, last: true }));
            shared.processes.push(process);
        }
        if answer == Answer::Always {
            shared.placement = Placement::Last;
        }
        let is_nothing = shared.is_empty() && unit.changes.is_empty() && unit.events.is_empty();
        (!is_nothing).then(|| Verdict::Commit {
            unit: Box::new(unit),
            shared: Some(Box::new(shared)),
            problem: problem.map(Box::new),
        })
    }
}

/// What is not handled now but later is done with, where the scheduler sends the next one anyway.
pub(super) fn or_the_next(detour: Detour) -> Step {
    match detour {
        Detour::Verdict(Verdict::Later { .. }) => Ok(Verdict::Done),
        detour => Err(detour),
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
