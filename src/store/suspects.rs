//! Suspects: handlings of a delivery that was in hand before, written down while they run.
//!
//! A row that stays is one whose process died, or has lost its database. Rows of a command that never comes back, because
//! somebody deleted its message, stay for good: they are few and small, and a week later they are swept by whoever writes
//! the next. Up: the worker, which draws the conclusions. Down: the table `suspects`.

use std::time::Duration;

use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter};
use uuid::Uuid;

use super::{
    Store, StoreError, clock,
    entity::suspects::{ActiveModel, Column, Entity},
    transaction::bounded,
};

/// No command is on its way for longer.
const FORGOTTEN: Duration = Duration::from_hours(7 * 24);

impl Store {
    /// How many handlings of this command have begun and not ended.
    ///
    /// # Errors
    /// Of the database.
    pub async fn begun_and_not_ended(&self, command: Uuid) -> Result<u64, StoreError> {
        let reader = self.connections.reader.clone();
        bounded(async move { Ok(Entity::find().filter(Column::Command.eq(command)).count(&reader).await?) }).await
    }

    /// Writes down that a handling of a suspect begins.
    ///
    /// # Errors
    /// Of the database.
    pub async fn begin_suspect(&self, command: Uuid, run: Uuid, routing_key: &str) -> Result<(), StoreError> {
        let routing_key = routing_key.replace('\0', "");
        self.transaction(move |transaction| {
            Box::pin(async move {
                let now = clock::read(transaction).await?;
                let row = ActiveModel {
                    run: Set(run),
                    command: Set(command),
                    routing_key: Set(routing_key),
                    begun_at: Set(now),
                };
                Entity::insert(row).exec_without_returning(transaction).await?;
                let forgotten = Column::BegunAt.lt(clock::earlier(now, FORGOTTEN));
                Entity::delete_many().filter(forgotten).exec(transaction).await?;
                Ok(())
            })
        })
        .await
    }

    /// A handling of a suspect ended without killing anybody, but not with an outcome.
    ///
    /// # Errors
    /// Of the database.
    pub async fn end_suspect(&self, run: Uuid) -> Result<(), StoreError> {
        self.transaction(move |transaction| {
            Box::pin(async move {
                Entity::delete_by_id(run).exec(transaction).await?;
                Ok(())
            })
        })
        .await
    }

    /// The command has an outcome: nothing is held against it any more.
    ///
    /// # Errors
    /// Of the database.
    pub async fn acquit(&self, command: Uuid) -> Result<(), StoreError> {
        self.transaction(move |transaction| {
            Box::pin(async move {
                Entity::delete_many().filter(Column::Command.eq(command)).exec(transaction).await?;
                Ok(())
            })
        })
        .await
    }
}
