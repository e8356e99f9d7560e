//! Steps: what the handler of a command has finished, kept until the command is.
//!
//! A result is written only while its attempt's fence is still ours, so that a worker that was thought dead changes
//! nothing that the next one builds on. It goes in the transaction that finishes its command; of an uncertain run it
//! stays until an operator has decided, who sees how far it came. Locks are taken as [`super::commit`] takes them: the
//! key first. Up: the worker, on behalf of `Cx::step`. Down: the table `steps`.

use metagov_sdk::contract::{CommunitySlug, MessageId};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, OnConflict},
};
use serde_json::Value;

use super::{
    InboxEntry, Store, StoreError, clock,
    entity::{
        inbox,
        steps::{ActiveModel, Column, Entity},
    },
    inbox::RUNNING,
    json, keys,
    transaction::bounded,
};

/// What is known of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum KeptStep {
    /// It was finished with this result.
    Finished(Value),
    /// It was not finished.
    Unfinished,
    /// The fence is no longer ours: another attempt took over, or finished.
    LostFence,
}

impl Store {
    /// What is known of a step of the command that is being attempted under this fence.
    ///
    /// # Errors
    /// Of the database.
    pub async fn step(&self, entry: &InboxEntry, fence: i64, name: &str) -> Result<KeptStep, StoreError> {
        let reader = self.connections.reader.clone();
        let (community, message_id) = entry.key();
        let key = (community.to_owned(), message_id.to_owned());
        let name = name.to_owned();
        bounded(async move {
            let row = inbox::Entity::find_by_id(key.clone()).one(&reader).await?;
            if !row.is_some_and(|row| row.status == RUNNING && row.fence == fence) {
                return Ok(KeptStep::LostFence);
            }
            let row = Entity::find_by_id((key.0, key.1, name)).one(&reader).await?;
            row.map_or(Ok(KeptStep::Unfinished), |row| Ok(KeptStep::Finished(json::read("steps.result", &row.result)?)))
        })
        .await
    }

    /// Keeps the result of a step. `false`, and nothing is written, where the fence is no longer ours.
    ///
    /// # Errors
    /// Of the database. Where it is passing, the same call may be made again.
    pub async fn save_step(
        &self,
        entry: &InboxEntry,
        fence: i64,
        name: &str,
        result: &Value,
    ) -> Result<bool, StoreError> {
        let (entry, name, result) = (entry.clone(), name.to_owned(), json::write(result)?);
        self.transaction(move |transaction| {
            Box::pin(async move { save(transaction, &entry, fence, name, result).await })
        })
        .await
    }

    /// The finished steps of a command, in the order in which they were finished.
    ///
    /// # Errors
    /// Of the database.
    pub async fn steps(
        &self,
        community: &CommunitySlug,
        message_id: &MessageId,
    ) -> Result<Vec<(String, Value)>, StoreError> {
        let select = Entity::find()
            .filter(Column::Community.eq(community.as_str()))
            .filter(Column::MessageId.eq(message_id.as_str()))
            .order_by_asc(Column::CreatedAt)
            .order_by_asc(Column::Name);
        let reader = self.connections.reader.clone();
        let rows = bounded(async move { Ok(select.all(&reader).await?) }).await?;
        rows.into_iter().map(|row| Ok((row.name, json::read("steps.result", &row.result)?))).collect()
    }
}

async fn save(
    transaction: &DatabaseTransaction,
    entry: &InboxEntry,
    fence: i64,
    name: String,
    result: String,
) -> Result<bool, StoreError> {
    let (community, message_id) = (entry.key().0.to_owned(), entry.key().1.to_owned());
    let ours = inbox::Entity::find_by_id((community.clone(), message_id.clone()))
        .filter(inbox::Column::Status.eq(RUNNING))
        .filter(inbox::Column::Fence.eq(fence))
        .lock_exclusive();
    if ours.one(transaction).await?.is_none() {
        return Ok(false);
    }
    let row = ActiveModel {
        community: Set(community),
        message_id: Set(message_id),
        name: Set(name),
        result: Set(result),
        created_at: clock::stamp(transaction.get_database_backend()),
    };
    // It stands already where this was committed before and only the answer got lost.
    let conflict = OnConflict::columns([Column::Community, Column::MessageId, Column::Name]).do_nothing().to_owned();
    Entity::insert_many([row]).on_conflict(conflict).exec_without_returning(transaction).await?;
    Ok(true)
}

/// Takes away the steps of these commands, each a community and a message id.
pub(super) async fn forget(transaction: &DatabaseTransaction, commands: &[(&str, &str)]) -> Result<(), StoreError> {
    for chunk in commands.chunks(keys::CHUNK) {
        let of_commands = keys::any_of(Column::Community, Column::MessageId, chunk.iter().copied());
        Entity::delete_many().filter(of_commands).exec(transaction).await?;
    }
    Ok(())
}

/// Hands the steps of a command on to another, which then goes on where the first one stopped.
pub(super) async fn hand_on(
    transaction: &DatabaseTransaction,
    community: &str,
    from: &str,
    to: &str,
) -> Result<(), StoreError> {
    let of_first = Column::Community.eq(community).and(Column::MessageId.eq(from));
    let hand_on = Entity::update_many().col_expr(Column::MessageId, Expr::val(to)).filter(of_first);
    hand_on.exec(transaction).await?;
    Ok(())
}
