//! What one handled command wants written, and what became of it.
//!
//! A [`Unit`] is the whole of a command's effect: inbox row, changes, run and events, written together or not at all.
//! Many units go into one transaction ([`Store::commit`](super::Store::commit)); each gets a [`Committed`] of its own.
//!
//! Up the message path: the worker's committer, which gathers units. Down: [`super::commit`], which writes them.

use std::{fmt, time::Duration};

use metagov_sdk::contract::{CommunitySlug, MessageId, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::{ActionRun, InboxEntry, InstanceVersion, NewInstance, OutboxEvent, Process, StoreError};
use crate::vault::SealedConfig;

/// Everything that one handled command writes.
#[derive(Debug, Clone, Default)]
pub struct Unit {
    /// The command's key; `None` for a command without `message_id`: that is recognised by the ids of its events.
    pub inbox: Option<InboxEntry>,
    /// The fence of [`Store::begin_attempt`](super::Store::begin_attempt), where that was called for this command.
    pub fence: Option<i64>,
    /// The instance that the handler read; if it has changed since, the unit is [`Committed::Stale`].
    pub saw: Option<InstanceVersion>,
    /// Changes of communities, instances and processes. Their order does not matter.
    pub changes: Vec<Change>,
    /// The worker that made the changes, where it heeds leases: if another one has a lease on such a row, the unit is
    /// [`Committed::Stale`].
    pub holder: Option<Uuid>,
    /// The record of an action that ran.
    pub run: Option<ActionRun>,
    /// The command is rejected: its answer is all that is kept, as long as its community exists
    /// ([`Committed::NoCommunity`]), and what its attempts have left goes.
    pub rejected: bool,
    /// The events to publish after the commit, in this order. All belong to the community of `inbox`.
    pub events: Vec<OutboxEvent>,
}

impl Unit {
    pub(super) fn event_ids(&self) -> impl Iterator<Item = Uuid> {
        self.events.iter().map(|event| event.id)
    }
}

/// One change of stored state. Each names its community; `expected` is the version that must still hold. Configs and
/// states do not print themselves: they hold secrets.
#[derive(Clone)]
pub enum Change {
    /// A community that did not exist.
    InsertCommunity {
        /// Its address.
        slug: CommunitySlug,
        /// Its name for people.
        readable_name: Option<String>,
    },
    /// New words for a community.
    UpdateCommunity {
        /// Its address.
        slug: CommunitySlug,
        /// Its name for people from now on.
        readable_name: Option<String>,
        /// The version that was read.
        expected: i64,
    },
    /// Deletes the community with its instances, processes and runs. Inbox and outbox rows stay.
    DeleteCommunity {
        /// Its address.
        slug: CommunitySlug,
        /// The version that was read.
        expected: i64,
    },
    /// Enables a plugin.
    InsertInstance(NewInstance),
    /// A new config or a new plugin state, or both.
    UpdateInstance {
        /// The instance.
        id: Uuid,
        /// The community it is enabled in.
        community: CommunitySlug,
        /// The version that was read.
        expected: i64,
        /// The platform id that belongs to the new config; looked at only where `config` is given.
        platform_id: Option<String>,
        /// The new config; `None` leaves it.
        config: Option<SealedConfig>,
        /// The new plugin state; `None` leaves it.
        state: Option<Value>,
        /// When the config was changed, as its event tells; looked at only where `config` is given.
        updated_at: Timestamp,
        /// How often the plugin ticks under the new config; looked at only where `config` is given.
        tick_every: Option<Duration>,
    },
    /// Disables a plugin. Its open processes must end in the same unit; one that is left makes the unit stale.
    DeleteInstance {
        /// The instance.
        id: Uuid,
        /// The community it was enabled in.
        community: CommunitySlug,
        /// The version that was read.
        expected: i64,
    },
    /// A process that was started.
    InsertProcess(Box<Process>),
    /// A process that moved on; the whole row is replaced.
    UpdateProcess {
        /// The process as it is to be, with its new `record.version`.
        process: Box<Process>,
        /// The version that was read.
        expected: i64,
    },
}

/// What units may meet on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// The key of a command.
    Key(CommunitySlug, MessageId),
    /// A community.
    Community(CommunitySlug),
    /// A plugin instance.
    Instance(Uuid),
    /// A process.
    Process(CommunitySlug, Uuid),
}

impl Unit {
    /// Every row that it locks.
    pub fn rows(&self) -> impl Iterator<Item = RowKey> {
        let key = self.inbox.iter().map(|entry| RowKey::Key(entry.community.clone(), entry.message_id.clone()));
        let saw = self.saw.iter().map(|saw| RowKey::Instance(saw.id));
        key.chain(saw).chain(self.changes.iter().map(Change::row))
    }
}

impl Change {
    /// What a lease may be on: the community and the id of a process or an instance that it moves on.
    pub(super) fn leasable(&self) -> Option<(&str, Uuid)> {
        match self {
            Self::UpdateProcess { process, .. } => Some((process.record.community.as_str(), process.record.id)),
            Self::UpdateInstance { id, community, .. } => Some((community.as_str(), *id)),
            _ => None,
        }
    }

    /// The row that it changes.
    pub(super) fn row(&self) -> RowKey {
        match self {
            Self::InsertCommunity { slug, .. }
            | Self::UpdateCommunity { slug, .. }
            | Self::DeleteCommunity { slug, .. } => RowKey::Community(slug.clone()),
            Self::InsertInstance(NewInstance { id, .. })
            | Self::UpdateInstance { id, .. }
            | Self::DeleteInstance { id, .. } => RowKey::Instance(*id),
            Self::InsertProcess(process) | Self::UpdateProcess { process, .. } => {
                RowKey::Process(process.record.community.clone(), process.record.id)
            }
        }
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InsertCommunity { slug, .. } => write!(f, "InsertCommunity({slug})"),
            Self::UpdateCommunity { slug, expected, .. } => write!(f, "UpdateCommunity({slug} at {expected})"),
            Self::DeleteCommunity { slug, expected } => write!(f, "DeleteCommunity({slug} at {expected})"),
            Self::InsertInstance(instance) => write!(f, "InsertInstance({})", instance.id),
            Self::UpdateInstance { id, expected, .. } => write!(f, "UpdateInstance({id} at {expected})"),
            Self::DeleteInstance { id, expected, .. } => write!(f, "DeleteInstance({id} at {expected})"),
            Self::InsertProcess(process) => write!(f, "InsertProcess({})", process.record.id),
            Self::UpdateProcess { process, expected } => {
                write!(f, "UpdateProcess({} at {expected})", process.record.id)
            }
        }
    }
}

/// What became of a unit.
#[derive(Debug, Clone)]
pub enum Committed {
    /// Written, all of it.
    Stored,
    /// The key was finished before with the same fingerprint, or the events of a command without a key are there: these
    /// are its stored events. Nothing was written.
    Repeated(Vec<OutboxEvent>),
    /// The key was used before with another fingerprint. Nothing was written.
    Conflict,
    /// What was read no longer holds, or what was to be created exists: run again on fresh state. Nothing was written.
    Stale,
    /// Somebody else is attempting this key at this time. Nothing was written.
    InFlight,
    /// A rejection names a community that does not exist. Nothing was written, and the key is free.
    NoCommunity,
    /// The fence is no longer ours: another attempt took over, or finished. Nothing was written.
    LostFence,
    /// The database would not have this unit. Nothing was written. Where
    /// [`is_passing`](StoreError::is_passing) holds it may be committed again, otherwise it never succeeds.
    Refused(StoreError),
}
