//! What the relay has to publish: events that were committed and are not marked as published.
//!
//! Some were left by a crash between commit and publication. The others were refused by the broker, most often because a
//! driver's queue is full. A refused event is put off, the longer the more often it was refused, so that those of one
//! driver, however many, never keep those of another from their turn. Up: the worker's relay. Down: the table `outbox`.

use std::time::Duration;

use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
    sea_query::{CaseStatement, Expr, ExprTrait, LockBehavior, LockType},
};
use uuid::Uuid;

use super::{
    OutboxEvent, Store, StoreError, clock,
    entity::outbox::{Column, Entity},
    keys,
    stranded::SLACK,
    transaction::bounded,
};

/// How long an event that a relay took is its own.
const RELAY_LEASE: Duration = Duration::from_secs(30);
/// How long an event is put off that was refused never before, once before, and so on.
const PUT_OFF: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(20), Duration::from_secs(40)];
/// How long it is put off after those: so soon after a queue has room again, whatever was refused is out.
const PUT_OFF_AT_MOST: Duration = Duration::from_mins(1);

impl Store {
    /// Takes the oldest events that are due: not marked as published and either committed at least `older_than` ago or
    /// put off until now. They are ours for half a minute, so that two relays do not publish the same.
    ///
    /// # Errors
    /// Of the database.
    pub async fn unpublished(&self, older_than: Duration, limit: u64) -> Result<Vec<OutboxEvent>, StoreError> {
        self.transaction(move |transaction| {
            Box::pin(async move {
                let backend = transaction.get_database_backend();
                let now = clock::read(transaction).await?;
                // The last half of each is for a clock that has jumped back behind what it wrote.
                let old_enough = Condition::any()
                    .add(Column::CreatedAt.lte(clock::earlier(now, older_than)))
                    .add(Column::CreatedAt.gt(clock::later(now, SLACK)));
                let due = Condition::any()
                    .add(Condition::all().add(Column::ClaimedUntil.is_null()).add(old_enough))
                    .add(Column::ClaimedUntil.lt(now))
                    .add(Column::ClaimedUntil.gt(clock::later(now, PUT_OFF_AT_MOST + SLACK)));
                let oldest = Entity::find()
                    .select_only()
                    .column(Column::Id)
                    .filter(Column::PublishedAt.is_null())
                    .filter(due)
                    .order_by_asc(Column::CreatedAt)
                    .order_by_asc(Column::Position)
                    .limit(limit)
                    .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
                let mut rows = Entity::update_many()
                    .col_expr(Column::ClaimedUntil, clock::after(backend, RELAY_LEASE))
                    .filter(Column::Id.in_subquery(oldest.into_query()))
                    .exec_with_returning(transaction)
                    .await?;
                rows.sort_by_key(|row| (row.created_at, row.position));
                rows.into_iter().map(OutboxEvent::from_row).collect()
            })
        })
        .await
    }

    /// Puts off events that the broker has refused, by one statement: the relay takes each of them when its time has come.
    ///
    /// # Errors
    /// Of the database. The relay then takes them as if a crash had left them.
    pub async fn put_off(&self, events: &[Uuid]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let writer = self.connections.writer.clone();
        let backend = writer.get_database_backend();
        let update = Entity::update_many()
            .col_expr(Column::ClaimedUntil, next_time(backend))
            .col_expr(Column::Refusals, Expr::col(Column::Refusals).add(1))
            .filter(keys::one_of(backend, Column::Id, events))
            .filter(Column::PublishedAt.is_null());
        bounded(async move {
            update.exec(&writer).await?;
            Ok(())
        })
        .await
    }

    /// How many events were committed at least `older_than` ago and are not marked as published.
    ///
    /// # Errors
    /// Of the database.
    pub async fn overdue(&self, older_than: Duration) -> Result<u64, StoreError> {
        let reader = self.connections.reader.clone();
        bounded(async move {
            let now = clock::read(&reader).await?;
            let overdue = Entity::find()
                .filter(Column::PublishedAt.is_null())
                .filter(Column::CreatedAt.lte(clock::earlier(now, older_than)));
            Ok(overdue.count(&reader).await?)
        })
        .await
    }
}

/// When an event that is refused now has its next turn, by how often it was refused before.
fn next_time(backend: DbBackend) -> Expr {
    let steps = (0..).zip(PUT_OFF);
    let case = steps.fold(CaseStatement::new(), |case, (refusals, wait)| {
        case.case(Expr::col(Column::Refusals).eq(refusals), clock::after(backend, wait))
    });
    case.finally(clock::after(backend, PUT_OFF_AT_MOST)).into()
}
