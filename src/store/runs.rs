//! Action runs: what was run, for whom, how often it was tried and how it ended.
//!
//! Runs are for people and for the command line; deduplication never reads them. Up: [`super::Unit`] carries one for
//! each action. Down: the table `action_runs`.

use metagov_sdk::contract::{CommunitySlug, MessageId, Name};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait, OnConflict},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    InboxEntry, KeptCommand, NewAttempt, StoreError, Unit, clock,
    entity::action_runs::{ActiveModel, Column, Entity},
    json, keys,
};

/// The status of a run whose attempt is running.
pub(super) const RUNNING: &str = "running";
/// The status of a run that will be tried again.
pub(super) const RETRYING: &str = "retrying";

/// An action that ran to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionRun {
    /// The run's id; kept from the first attempt where there were several.
    pub id: Uuid,
    /// The community it ran for.
    pub community: CommunitySlug,
    /// The command's key.
    pub message_id: Option<MessageId>,
    /// The plugin.
    pub plugin: Name,
    /// The action.
    pub action: Name,
    /// How it may be repeated: `pure`, `idempotent`, `keyed` or `unsafe`.
    pub effect: &'static str,
    /// How it ended.
    pub status: RunStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// The event that tells its outcome.
    pub event_id: Uuid,
    /// Who asked, in the words of an identity provider.
    pub initiator: Option<Value>,
    /// What it takes to run it again; kept where it ended as uncertain.
    pub command: Option<KeptCommand>,
}

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// With an output.
    Completed,
    /// With a problem.
    Failed,
    /// Nobody knows: its worker died after it may have acted.
    Uncertain,
}

impl RunStatus {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Uncertain => "uncertain",
        }
    }
}

/// Writes the runs of the units, over what their attempts left.
pub(super) async fn insert(transaction: &DatabaseTransaction, units: &[&Unit]) -> Result<(), StoreError> {
    let stamp = clock::stamp(transaction.get_database_backend());
    let mut keyed = Vec::new();
    let mut unkeyed = Vec::new();
    for run in units.iter().filter_map(|unit| unit.run.as_ref()) {
        let row = ActiveModel {
            id: Set(run.id),
            community: Set(run.community.as_str().to_owned()),
            message_id: Set(run.message_id.as_ref().map(|id| id.as_str().to_owned())),
            plugin: Set(run.plugin.as_str().to_owned()),
            action: Set(run.action.as_str().to_owned()),
            effect: Set(run.effect.to_owned()),
            status: Set(run.status.as_str().to_owned()),
            attempts: Set(run.attempts.into()),
            event_id: Set(Some(run.event_id)),
            initiator: Set(json::write_optional(run.initiator.as_ref())?),
            created_at: stamp.clone(),
            updated_at: stamp.clone(),
        };
        if run.message_id.is_some() { keyed.push(row) } else { unkeyed.push(row) }
    }
    for chunk in keyed.chunks(keys::CHUNK) {
        let ending = [Column::Status, Column::Attempts, Column::EventId, Column::Initiator, Column::UpdatedAt];
        let insert = Entity::insert_many(chunk.to_vec()).on_conflict(of_message().update_columns(ending).to_owned());
        insert.exec_without_returning(transaction).await?;
    }
    for chunk in unkeyed.chunks(keys::CHUNK) {
        let conflict = OnConflict::column(Column::Id).do_nothing().to_owned();
        Entity::insert_many(chunk.to_vec()).on_conflict(conflict).exec_without_returning(transaction).await?;
    }
    Ok(())
}

/// Takes away the runs of these rejected commands, which their attempts have left.
pub(super) async fn forget(transaction: &DatabaseTransaction, entries: &[&InboxEntry]) -> Result<(), StoreError> {
    let keys: Vec<_> = entries.iter().map(|entry| entry.key()).collect();
    for chunk in keys.chunks(keys::CHUNK) {
        Entity::delete_many()
            .filter(keys::any_of(Column::Community, Column::MessageId, chunk.iter().copied()))
            .filter(Column::Status.is_in([RUNNING, RETRYING]))
            .exec(transaction)
            .await?;
    }
    Ok(())
}

/// Writes that an attempt runs, or will be made again. A run that has ended stays as it is, and so does nothing where
/// the attempt is no action's.
pub(super) async fn note(
    connection: &impl ConnectionTrait,
    entry: &InboxEntry,
    attempt: &NewAttempt,
    attempts: u32,
    status: &'static str,
) -> Result<(), StoreError> {
    let Some(action) = &attempt.action else { return Ok(()) };
    let stamp = clock::stamp(connection.get_database_backend());
    let row = ActiveModel {
        id: Set(attempt.run_id),
        community: Set(entry.community.as_str().to_owned()),
        message_id: Set(Some(entry.message_id.as_str().to_owned())),
        plugin: Set(attempt.plugin.as_str().to_owned()),
        action: Set(action.as_str().to_owned()),
        effect: Set(attempt.effect.to_owned()),
        status: Set(status.to_owned()),
        attempts: Set(attempts.into()),
        event_id: Set(None),
        initiator: Set(json::write_optional(attempt.initiator.as_ref())?),
        created_at: stamp.clone(),
        updated_at: stamp,
    };
    let conflict = of_message()
        .update_columns([Column::Status, Column::Attempts, Column::UpdatedAt])
        .action_and_where(Expr::col((Entity, Column::Status)).is_in([RUNNING, RETRYING]))
        .to_owned();
    Entity::insert_many([row]).on_conflict(conflict).exec_without_returning(connection).await?;
    Ok(())
}

fn of_message() -> OnConflict {
    OnConflict::columns([Column::Community, Column::MessageId])
}
