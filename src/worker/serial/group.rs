//! A group on its way to the database: the last contents of each row, and one event that says so.
//!
//! Fifty votes in one group change their process once: it grows by one version, and drivers get one event with the last
//! tally, on behalf of the command that came last. Called by [`super::Serial`]. Calls nothing.

use std::{collections::BTreeMap, sync::Arc};

use metagov_sdk::contract::{EventBody, Timestamp};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    super::{
        committer::{Part, Settled},
        envelope::Envelope,
    },
    rows::{Changed, RowKey, Versioned},
};
use crate::{
    host::LoadedInstance,
    store::{Change, Process, Unit},
};

/// A row as the next command finds it.
#[derive(Debug, Clone)]
pub(super) enum Contents {
    Process(Arc<Process>),
    Instance(Arc<LoadedInstance>),
}

impl Versioned for Contents {
    fn set_version(&mut self, version: i64) {
        match self {
            Self::Process(process) => Arc::make_mut(process).record.version = version,
            Self::Instance(instance) => Arc::make_mut(instance).stored.version = version,
        }
    }
}

/// A command of a group.
#[derive(Debug)]
pub(super) struct Member {
    /// What it writes besides the rows that it shares with the others.
    pub(super) unit: Unit,
    pub(super) envelope: Arc<Envelope>,
    /// The processes whose change it has to report.
    pub(super) reports: Vec<Report>,
    pub(super) done: oneshot::Sender<Settled>,
}

/// That drivers hear of a process's change.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Report {
    /// The process.
    pub(in crate::worker) row: RowKey,
    /// Tells the event from the other events of its command.
    pub(in crate::worker) label: String,
    /// When the command changed the process.
    pub(in crate::worker) time: Timestamp,
    /// Whether this is the answer that the command's driver waits for.
    pub(in crate::worker) last: bool,
}

/// What the members write together, and who waits for it; `holder` is this worker's name in leases.
pub(super) fn parts(
    members: Vec<Member>,
    changed: BTreeMap<RowKey, Changed<Contents>>,
    holder: Uuid,
) -> (Vec<Part>, Vec<oneshot::Sender<Settled>>) {
    let mut reporters: BTreeMap<&RowKey, (usize, usize)> = BTreeMap::new();
    for (member, Member { reports, .. }) in members.iter().enumerate() {
        reporters.extend(reports.iter().enumerate().map(|(place, report)| (&report.row, (member, place))));
    }
    let mut events: Vec<Vec<_>> = members.iter().map(|_| Vec::new()).collect();
    for (row, (member, place)) in reporters {
        let Some(Changed { contents: Contents::Process(process), .. }) = changed.get(row) else { continue };
        let (Member { envelope, .. }, report) = (&members[member], &members[member].reports[place]);
        let scope = envelope.scope_of(process, report.time);
        let body = EventBody::process_changed(process.record.clone());
        events[member].push(if report.last {
            envelope.last_event(&scope, &report.label, &body)
        } else {
            envelope.event(&scope, &report.label, &body)
        });
    }
    let mut answers = Vec::with_capacity(members.len());
    let mut parts: Vec<Part> = Vec::with_capacity(members.len());
    for (Member { mut unit, envelope, done, .. }, events) in members.into_iter().zip(events) {
        unit.events.extend(events);
        parts.push((unit, envelope));
        answers.push(done);
    }
    if let Some((unit, _)) = parts.last_mut() {
        unit.changes.extend(changed.into_values().map(change));
        unit.holder = Some(holder);
    }
    (parts, answers)
}

fn change(changed: Changed<Contents>) -> Change {
    let Changed { expected, contents } = changed;
    match contents {
        Contents::Process(process) => {
            Change::UpdateProcess { process: Box::new(Arc::unwrap_or_clone(process)), expected }
        }
        Contents::Instance(instance) => state_change(&instance, expected),
    }
}

/// The plugin's state from now on, where the instance has the expected version.
pub(in crate::worker) fn state_change(instance: &LoadedInstance, expected: i64) -> Change {
    let stored = &instance.stored;
    Change::UpdateInstance {
        id: stored.id,
        community: stored.community.clone(),
        expected,
        platform_id: stored.platform_id.clone(),
        config: None,
        state: instance.state.as_deref().cloned(),
        updated_at: stored.updated_at,
        tick_every: stored.tick_every,
    }
}
