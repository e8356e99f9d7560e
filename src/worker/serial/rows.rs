//! The rows that commands are changing, and the groups in which their changes are written.
//!
//! Each row has a queue of groups: the first is being written, the others wait for it. A command joins the last group of
//! its rows while that is open, or begins one behind it. A group is ready when it is the first at all of its rows. Where one
//! is not written, every group behind it has built on what will never be, and is dropped with it.
//!
//! Memory holds only what is not yet written: a row without groups is read from the database. Pure and synchronous, so that
//! its rules can be tested by themselves. Called by [`super::Serial`].

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use metagov_sdk::contract::{CommunitySlug, MessageId};
use tokio::sync::{Mutex, oneshot};
use uuid::Uuid;

use crate::store::Process;

/// The most commands in one group: as many as fit well into one transaction.
const LARGEST_GROUP: usize = 200;

/// A row that commands change one after another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::worker) enum RowKey {
    /// The state of a plugin instance.
    Instance(CommunitySlug, Uuid),
    /// A governance process.
    Process(CommunitySlug, Uuid),
}

impl RowKey {
    /// The row of this process.
    pub(in crate::worker) fn of(process: &Process) -> Self {
        Self::Process(process.record.community.clone(), process.record.id)
    }

    /// The community that it belongs to.
    pub(super) fn community(&self) -> &CommunitySlug {
        let (Self::Instance(community, _) | Self::Process(community, _)) = self;
        community
    }

    /// The id of the instance or the process.
    pub(super) fn id(&self) -> Uuid {
        let (Self::Instance(_, id) | Self::Process(_, id)) = self;
        *id
    }
}

/// A row's contents, of which the version is the one to compare and set.
pub(super) trait Versioned: Clone {
    /// Sets the version that the contents have once they are written.
    fn set_version(&mut self, version: i64);
}

/// What a command makes of a row.
#[derive(Debug)]
pub(super) struct Change<V> {
    pub(super) row: RowKey,
    /// The version that the command read.
    pub(super) read: i64,
    /// The contents from now on.
    pub(super) contents: V,
}

/// What a group changes in a row.
#[derive(Debug, Clone)]
pub(super) struct Changed<V> {
    /// The version that the database must have.
    pub(super) expected: i64,
    /// The contents after the last command of the group.
    pub(super) contents: V,
}

/// A command that wants to join a group.
#[derive(Debug)]
pub(super) struct Joining<V, M> {
    /// The rows that it read, each with the generation at which it did.
    pub(super) rows: Vec<(RowKey, u64)>,
    pub(super) changes: Vec<Change<V>>,
    /// Its key: two commands with one key are never in one group.
    pub(super) message_id: Option<MessageId>,
    pub(super) placement: Placement,
    pub(super) member: M,
}

/// Who may be in a group with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Placement {
    /// Anybody.
    Shared,
    /// Nobody behind it: what its event says is what its driver gets.
    Last,
    /// Nobody: its group was refused for good, and it must not take others with it.
    Alone,
}

/// A group that is to be written now.
#[derive(Debug)]
pub(super) struct Ready<V, M> {
    pub(super) group: u64,
    pub(super) members: Vec<M>,
    pub(super) changed: BTreeMap<RowKey, Changed<V>>,
}

/// All rows that somebody is changing.
#[derive(Debug)]
pub(super) struct Rows<V, M> {
    by_key: HashMap<RowKey, Row>,
    groups: HashMap<u64, Group<V, M>>,
    next: u64,
}

#[derive(Debug)]
struct Row {
    turn: Arc<Mutex<()>>,
    /// Commands that have their turn or wait for it.
    users: usize,
    queue: VecDeque<u64>,
    /// Grows when what was built on is dropped.
    generation: u64,
}

#[derive(Debug)]
struct Group<V, M> {
    rows: Vec<RowKey>,
    /// Gone once the group is being written.
    members: Vec<M>,
    changed: BTreeMap<RowKey, Changed<V>>,
    keys: HashSet<MessageId>,
    open: bool,
    /// Those who want to know whether it is written, and are not in it.
    witnesses: Vec<oneshot::Sender<bool>>,
}

impl<V: Versioned, M> Rows<V, M> {
    pub(super) fn new() -> Self {
        Self { by_key: HashMap::new(), groups: HashMap::new(), next: 0 }
    }

    /// Whether somebody is changing this row.
    pub(super) fn contains(&self, key: &RowKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whether the one command that is at this row has it for itself, with nothing to be written.
    pub(super) fn has_one_user(&self, key: &RowKey) -> bool {
        self.by_key.get(key).is_some_and(|row| row.users == 1 && row.queue.is_empty())
    }

    /// One more command wants its turn at this row: the lock of the turn.
    pub(super) fn enter(&mut self, key: &RowKey) -> Arc<Mutex<()>> {
        let row = self.by_key.entry(key.clone()).or_insert_with(|| Row {
            turn: Arc::default(),
            users: 0,
            queue: VecDeque::new(),
            generation: 0,
        });
        row.users += 1;
        Arc::clone(&row.turn)
    }

    /// A command leaves the row.
    pub(super) fn leave(&mut self, key: &RowKey) {
        if let Some(row) = self.by_key.get_mut(key) {
            row.users -= 1;
        }
        self.forget_if_idle(key);
    }

    /// How the row is after all groups, and at which generation; `None` where the database knows.
    pub(super) fn read(&self, key: &RowKey) -> (u64, Option<V>) {
        let Some(row) = self.by_key.get(key) else { return (0, None) };
        let changed = row.queue.iter().rev().find_map(|id| self.groups.get(id)?.changed.get(key));
        (row.generation, changed.map(|changed| changed.contents.clone()))
    }

    /// Puts a command into a group. Returns the group, where it is to be written now.
    ///
    /// # Errors
    /// The member, where a group that it has built on was dropped: it must run again.
    pub(super) fn join(&mut self, joining: Joining<V, M>) -> Result<Option<Ready<V, M>>, M> {
        let Joining { rows, changes, message_id, placement, member } = joining;
        let holds =
            |(key, generation): &(RowKey, u64)| self.by_key.get(key).is_some_and(|row| row.generation == *generation);
        if !rows.iter().all(holds) {
            return Err(member);
        }
        let keys: Vec<RowKey> = rows.into_iter().map(|(key, _)| key).collect();
        let id = self.joinable(&keys, message_id.as_ref(), placement).unwrap_or_else(|| self.begin(placement));
        let group = self.groups.get_mut(&id).expect("a group that was found or begun is there");
        for key in keys {
            if !group.rows.contains(&key) {
                let row = self.by_key.get_mut(&key).expect("the row of a turn is there");
                row.queue.push_back(id);
                group.rows.push(key);
            }
        }
        for Change { row: key, read, mut contents } in changes {
            let expected = group.changed.get(&key).map_or(read, |changed| changed.expected);
            contents.set_version(expected + 1);
            group.changed.insert(key, Changed { expected, contents });
        }
        group.keys.extend(message_id);
        group.members.push(member);
        group.open &= placement == Placement::Shared;
        Ok(self.take_if_ready(id))
    }

    /// Notes somebody who waits until everything that is queued at these rows is written.
    pub(super) fn witness(&mut self, rows: &[(RowKey, u64)]) -> Vec<oneshot::Receiver<bool>> {
        let mut answers = Vec::new();
        for (key, generation) in rows {
            let Some(row) = self.by_key.get(key) else { continue };
            let (sender, receiver) = oneshot::channel();
            if row.generation != *generation {
                // An error is a receiver that has gone.
                let _ = sender.send(false);
                answers.push(receiver);
            } else if let Some(group) = row.queue.back().and_then(|last| self.groups.get_mut(last)) {
                group.witnesses.push(sender);
                answers.push(receiver);
            }
        }
        answers
    }

    /// A group was written: the groups that are to be written next.
    pub(super) fn written(&mut self, id: u64) -> Vec<Ready<V, M>> {
        let Some(group) = self.groups.remove(&id) else { return Vec::new() };
        for witness in group.witnesses {
            let _ = witness.send(true);
        }
        let mut next = Vec::new();
        for key in &group.rows {
            if let Some(row) = self.by_key.get_mut(key) {
                row.queue.retain(|queued| *queued != id);
                next.extend(row.queue.front().copied());
            }
            self.forget_if_idle(key);
        }
        next.into_iter().filter_map(|id| self.take_if_ready(id)).collect()
    }

    /// A group was not written: the members of the groups that have built on it.
    pub(super) fn dropped(&mut self, id: u64) -> Vec<M> {
        let (mut members, mut doomed) = (Vec::new(), vec![id]);
        while let Some(id) = doomed.pop() {
            let Some(group) = self.groups.remove(&id) else { continue };
            for witness in group.witnesses {
                let _ = witness.send(false);
            }
            members.extend(group.members);
            for key in &group.rows {
                if let Some(row) = self.by_key.get_mut(key) {
                    row.generation += 1;
                    let place = row.queue.iter().position(|queued| *queued == id).unwrap_or(row.queue.len());
                    doomed.extend(row.queue.drain(place..));
                }
                self.forget_if_idle(key);
            }
        }
        members
    }

    /// The group that a command with these rows may join: the last one of all rows that have any.
    fn joinable(&self, keys: &[RowKey], message_id: Option<&MessageId>, placement: Placement) -> Option<u64> {
        let mut last = keys.iter().filter_map(|key| self.by_key.get(key)?.queue.back().copied());
        let id = last.next()?;
        let group = self.groups.get(&id).filter(|group| group.open && group.members.len() < LARGEST_GROUP)?;
        let fits = placement != Placement::Alone
            && last.all(|other| other == id)
            && message_id.is_none_or(|key| !group.keys.contains(key));
        fits.then_some(id)
    }

    fn begin(&mut self, placement: Placement) -> u64 {
        self.next += 1;
        let open = placement == Placement::Shared;
        let group = Group {
            rows: Vec::new(),
            members: Vec::new(),
            changed: BTreeMap::new(),
            keys: HashSet::new(),
            open,
            witnesses: Vec::new(),
        };
        self.groups.insert(self.next, group);
        self.next
    }

    /// Closes a group that is the first at all of its rows; what it holds goes out once.
    fn take_if_ready(&mut self, id: u64) -> Option<Ready<V, M>> {
        let group = self.groups.get_mut(&id).filter(|group| !group.members.is_empty())?;
        let is_first = |key: &RowKey| self.by_key.get(key).is_some_and(|row| row.queue.front() == Some(&id));
        if !group.rows.iter().all(is_first) {
            return None;
        }
        group.open = false;
        Some(Ready { group: id, members: std::mem::take(&mut group.members), changed: group.changed.clone() })
    }

    fn forget_if_idle(&mut self, key: &RowKey) {
        if self.by_key.get(key).is_some_and(|row| row.users == 0 && row.queue.is_empty()) {
            self.by_key.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "rows/tests.rs"]
mod tests;
