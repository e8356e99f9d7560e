//! Attempts: the row that is committed *before* a platform is called, for actions that must not simply be repeated.
//!
//! An attempt holds the command's inbox row for the time of a lease. Whoever comes later learns whether it is still
//! running, has ended, or died; a fence that grows with each attempt keeps a worker that was thought dead from writing
//! after all. The clock of leases is the database's.
//!
//! Up: the worker, before it runs a `keyed` or `unsafe` action. Down: the tables `inbox` and `action_runs`.

use std::time::Duration;

use metagov_sdk::contract::{CommunitySlug, MessageId, Name, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::{InboxEntry, OutboxEvent, Store, StoreError};

/// What is about to be attempted.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    /// The id of the action's run, used if this is its first attempt.
    pub run_id: Uuid,
    /// The plugin.
    pub plugin: Name,
    /// The action; `None` for the start of a process, which leaves no run.
    pub action: Option<Name>,
    /// How it may be repeated: `pure`, `idempotent`, `keyed` or `unsafe`.
    pub effect: &'static str,
    /// Who asked, in the words of an identity provider.
    pub initiator: Option<Value>,
}

/// The answer to a wish to attempt.
#[derive(Debug, Clone)]
pub enum Begun {
    /// The first attempt of this key.
    Fresh {
        /// To be given to [`Store::commit`] and [`Store::release_attempt`].
        fence: i64,
    },
    /// There was an attempt before, and it is over.
    Again {
        /// To be given to [`Store::commit`] and [`Store::release_attempt`].
        fence: i64,
        /// How many attempts have begun, this one included.
        attempts: u32,
        /// `true`: its worker died or hung in the middle, so it may have acted. `false`: it gave up by itself with
        /// [`Keep::ForRetry`].
        died: bool,
    },
    /// Somebody else is attempting this key.
    Running {
        /// When their lease ends, by the database's clock.
        until: Timestamp,
    },
    /// The key is finished: these are its stored events.
    Finished(Vec<OutboxEvent>),
    /// The key was used before with another fingerprint.
    Conflict,
}

/// What is left of an attempt that ends without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: the command was refused, and its key may be used again.
    Nothing,
    /// The count of attempts; the next attempt may begin at once.
    ForRetry,
}

/// Where a command stands, for people who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptView {
    /// How many attempts have begun.
    pub attempts: u32,
    /// Where the last one stands.
    pub status: AttemptStatus,
}

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptStatus {
    /// It runs.
    Running,
    /// It met passing trouble and will be tried again.
    Retrying,
    /// It ended with an outcome.
    Completed,
    /// It ended with a problem.
    Failed,
    /// Nobody knows how it ended.
    Uncertain,
}

impl Store {
    /// Commits an attempt and takes its lease, before the platform is called.
    ///
    /// # Errors
    /// Of the database.
    pub async fn begin_attempt(
        &self,
        entry: &InboxEntry,
        attempt: &NewAttempt,
        lease: Duration,
    ) -> Result<Begun, StoreError> {
        todo!()
    }

    /// Ends an attempt that has no outcome. Does nothing where the fence is no longer ours.
    ///
    /// # Errors
    /// Of the database.
    pub async fn release_attempt(&self, entry: &InboxEntry, fence: i64, keep: Keep) -> Result<(), StoreError> {
        todo!()
    }

    /// Where the command with this key stands; `None` where nothing is known of it.
    ///
    /// # Errors
    /// Of the database.
    pub async fn attempts(
        &self,
        community: &CommunitySlug,
        message_id: &MessageId,
    ) -> Result<Option<AttemptView>, StoreError> {
        todo!()
    }

    /// Makes visible that an action, which may simply be repeated, will be tried again: a run with the status
    /// `retrying`, never an inbox row. Does nothing for the start of a process.
    ///
    /// # Errors
    /// Of the database.
    pub async fn note_retry(&self, entry: &InboxEntry, attempt: &NewAttempt, attempts: u32) -> Result<(), StoreError> {
        todo!()
    }

    /// Takes back [`Store::note_retry`], for a command that was refused after all.
    ///
    /// # Errors
    /// Of the database.
    pub async fn forget_retry(&self, entry: &InboxEntry) -> Result<(), StoreError> {
        todo!()
    }
}
