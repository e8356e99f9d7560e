//! Attempts: the row that is committed *before* a platform is called, for what must not simply be repeated.
//!
//! An attempt holds the command's inbox row for the time of a lease. Whoever comes later learns whether it is still
//! running, has ended, or died; a fence, which no two attempts share, keeps a worker that was thought dead from writing
//! after all, and tells one whose answer was lost that it has begun. The clock of leases is the database's.
//!
//! Up: the worker, before it runs a `keyed` or `unsafe` action or starts a process, and at the first step of others.
//! Down: the tables `inbox` and `action_runs`.

use std::time::Duration;

use metagov_sdk::contract::{CommunitySlug, MessageId, Name, Timestamp};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, ExprTrait, OnConflict},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    InboxEntry, OutboxEvent, Store, StoreError, clock,
    entity::{action_runs, inbox},
    inbox::{FINISHED, RUNNING},
    outbox, runs, steps,
    transaction::bounded,
};

/// So much longer than ours another worker's lease may be, of another version or with other settings.
pub(super) const LONGER_LEASES: Duration = Duration::from_mins(5);

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
        /// That of the attempt, to be given to [`Store::commit`] and [`Store::release_attempt`].
        fence: i64,
    },
    /// There was an attempt before, and it is over.
    Again {
        /// That of the attempt, to be given to [`Store::commit`] and [`Store::release_attempt`].
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
    /// Nothing, no finished step either: there was nothing to do, and the key may be used again.
    Nothing,
    /// The count of attempts and the finished steps; the next attempt may begin at once.
    ForRetry,
    /// The same, and the attempt does not count: it lost a race for a row, and runs again at once.
    ForRerun,
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
    /// Commits an attempt and takes its lease, before the platform is called. The fence is a number that no other attempt
    /// has: what is written under it counts for as long as nobody else has begun.
    ///
    /// # Errors
    /// Of the database. Where it is passing, ask again with the same fence: an attempt that has begun, and whose answer was
    /// lost, is told once more.
    pub async fn begin_attempt(
        &self,
        entry: &InboxEntry,
        attempt: &NewAttempt,
        fence: i64,
        lease: Duration,
    ) -> Result<Begun, StoreError> {
        let (entry, attempt) = (entry.clone(), attempt.clone());
        self.transaction(move |transaction| {
            Box::pin(async move { begin(transaction, &entry, &attempt, fence, lease).await })
        })
        .await
    }

    /// Ends an attempt that has no outcome. `false`, and nothing is changed, where the fence is no longer ours.
    ///
    /// # Errors
    /// Of the database.
    pub async fn release_attempt(&self, entry: &InboxEntry, fence: i64, keep: Keep) -> Result<bool, StoreError> {
        let entry = entry.clone();
        self.transaction(move |transaction| Box::pin(async move { release(transaction, &entry, fence, keep).await }))
            .await
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
        let reader = self.connections.reader.clone();
        let run = action_runs::Entity::find()
            .filter(action_runs::Column::Community.eq(community.as_str()))
            .filter(action_runs::Column::MessageId.eq(message_id.as_str()));
        let key = (community.as_str().to_owned(), message_id.as_str().to_owned());
        bounded(async move {
            if let Some(run) = run.one(&reader).await? {
                let status = AttemptStatus::of_run(&run.status)?;
                return Ok(Some(AttemptView { attempts: count(run.attempts), status }));
            }
            let row = inbox::Entity::find_by_id(key).one(&reader).await?;
            Ok(row.map(|row| AttemptView { attempts: count(row.attempts), status: AttemptStatus::of_key(&row) }))
        })
        .await
    }

    /// Makes visible that an action, which may simply be repeated, will be tried again: a run with the status
    /// `retrying`, never an inbox row. Does nothing for the start of a process.
    ///
    /// # Errors
    /// Of the database.
    pub async fn note_retry(&self, entry: &InboxEntry, attempt: &NewAttempt, attempts: u32) -> Result<(), StoreError> {
        let (entry, attempt) = (entry.clone(), attempt.clone());
        self.transaction(move |transaction| {
            Box::pin(async move { runs::note(transaction, &entry, &attempt, attempts, runs::RETRYING).await })
        })
        .await
    }
}

async fn begin(
    transaction: &DatabaseTransaction,
    entry: &InboxEntry,
    attempt: &NewAttempt,
    fence: i64,
    lease: Duration,
) -> Result<Begun, StoreError> {
    use inbox::{Column, Entity};
    let lease_until = clock::later(clock::read(transaction).await?, lease);
    let row = inbox::ActiveModel {
        status: Set(RUNNING.to_owned()),
        fence: Set(fence),
        lease_until: Set(Some(lease_until)),
        ..entry.to_row(transaction)
    };
    let conflict = OnConflict::columns([Column::Community, Column::MessageId]).do_nothing().to_owned();
    let inserted = Entity::insert_many([row]).on_conflict(conflict).exec_without_returning(transaction).await?;
    if inserted == 1 {
        runs::note(transaction, entry, attempt, 1, runs::RUNNING).await?;
        return Ok(Begun::Fresh { fence });
    }

    let row = Entity::find_by_id(owned_key(entry)).lock_exclusive().one(transaction).await?;
    let Some(row) = row else {
        return Err(StoreError::Contended("the attempt before was given up at this moment".into()));
    };
    if row.fingerprint != entry.fingerprint {
        return Ok(Begun::Conflict);
    }
    if row.status == FINISHED {
        let events = outbox::of_keys(transaction, [entry.key()]).await?;
        return Ok(Begun::Finished(events.into_values().next().unwrap_or_default()));
    }
    // The lock may have been waited for: only now is it certain what time it is.
    let now = clock::read_precisely(transaction).await?;
    if row.lease_until.is_some() && row.fence == fence {
        return hold_on(transaction, entry, &row, clock::later(now, lease)).await;
    }
    if let Some(until) = row.lease_until.filter(|until| *until > now) {
        // No lease reaches so far but one that was taken before the clock jumped back: it ends as if taken now.
        let farthest = clock::later(now, lease);
        if until <= clock::later(farthest, LONGER_LEASES) {
            return Ok(Begun::Running { until });
        }
        let ends = Entity::update_many().col_expr(Column::LeaseUntil, Expr::val(farthest));
        ends.filter(of_key(entry)).exec(transaction).await?;
        return Ok(Begun::Running { until: farthest });
    }
    let (attempts, died) = (row.attempts + 1, row.lease_until.is_some());
    Entity::update_many()
        .col_expr(Column::Fence, Expr::val(fence))
        .col_expr(Column::Attempts, Expr::val(attempts))
        .col_expr(Column::LeaseUntil, Expr::val(clock::later(now, lease)))
        .col_expr(Column::AfterDeath, Expr::val(died))
        .filter(of_key(entry))
        .exec(transaction)
        .await?;
    let attempts = count(attempts);
    runs::note(transaction, entry, attempt, attempts, runs::RUNNING).await?;
    Ok(Begun::Again { fence, attempts, died })
}

/// The attempt has begun, and the answer that said so was lost: it is given again, and its lease begins anew.
async fn hold_on(
    transaction: &DatabaseTransaction,
    entry: &InboxEntry,
    row: &inbox::Model,
    lease_until: Timestamp,
) -> Result<Begun, StoreError> {
    let lease = inbox::Entity::update_many().col_expr(inbox::Column::LeaseUntil, Expr::val(lease_until));
    lease.filter(of_key(entry)).exec(transaction).await?;
    Ok(match row.after_death {
        None => Begun::Fresh { fence: row.fence },
        Some(died) => Begun::Again { fence: row.fence, attempts: count(row.attempts), died },
    })
}

async fn release(
    transaction: &DatabaseTransaction,
    entry: &InboxEntry,
    fence: i64,
    keep: Keep,
) -> Result<bool, StoreError> {
    use inbox::{Column, Entity};
    let ours = of_key(entry).and(Column::Status.eq(RUNNING)).and(Column::Fence.eq(fence));
    let is_ours = match keep {
        Keep::Nothing => {
            let deleted = Entity::delete_many().filter(ours).exec(transaction).await?;
            let is_ours = deleted.rows_affected == 1;
            if is_ours {
                runs::forget(transaction, &[entry]).await?;
                steps::forget(transaction, &[entry.key()]).await?;
            }
            is_ours
        }
        Keep::ForRetry | Keep::ForRerun => {
            let no_lease: Option<Timestamp> = None;
            let mut update = Entity::update_many().col_expr(Column::LeaseUntil, Expr::val(no_lease)).filter(ours);
            if keep == Keep::ForRerun {
                update = update.col_expr(Column::Attempts, Expr::col(Column::Attempts).sub(1));
            }
            let is_ours = update.exec(transaction).await?.rows_affected == 1;
            if is_ours {
                action_runs::Entity::update_many()
                    .col_expr(action_runs::Column::Status, Expr::val(runs::RETRYING))
                    .col_expr(action_runs::Column::UpdatedAt, clock::now(transaction.get_database_backend()))
                    .filter(of_run(entry))
                    .exec(transaction)
                    .await?;
            }
            is_ours
        }
    };
    Ok(is_ours)
}

impl AttemptStatus {
    fn of_run(word: &str) -> Result<Self, StoreError> {
        match word {
            runs::RUNNING => Ok(Self::Running),
            runs::RETRYING => Ok(Self::Retrying),
            "completed" => Ok(Self::Completed),
            "failed" => Ok(Self::Failed),
            "uncertain" => Ok(Self::Uncertain),
            _ => Err(StoreError::Corrupt { what: "action_runs.status", reason: "there is no such status".into() }),
        }
    }

    /// Of a command that leaves no run, such as the start of a process: how that ended is in its record.
    fn of_key(row: &inbox::Model) -> Self {
        match (row.status.as_str(), row.lease_until) {
            (FINISHED, _) => Self::Completed,
            (_, Some(_)) => Self::Running,
            (_, None) => Self::Retrying,
        }
    }
}

fn count(attempts: i64) -> u32 {
    u32::try_from(attempts).unwrap_or(u32::MAX)
}

fn owned_key(entry: &InboxEntry) -> (String, String) {
    (entry.community.as_str().to_owned(), entry.message_id.as_str().to_owned())
}

fn of_key(entry: &InboxEntry) -> Expr {
    let (community, message_id) = entry.key();
    inbox::Column::Community.eq(community).and(inbox::Column::MessageId.eq(message_id))
}

fn of_run(entry: &InboxEntry) -> Expr {
    let (community, message_id) = entry.key();
    action_runs::Column::Community.eq(community).and(action_runs::Column::MessageId.eq(message_id))
}
