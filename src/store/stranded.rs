//! Due times that lie farther ahead than any interval reaches: the database's clock has jumped back behind them.
//!
//! A due time is never set farther ahead than its row's interval, so one that is says that the clock was later when it was
//! set. Left alone, its row would wait until the clock is there again. It is made due at once instead, and the claim of
//! [`super::due`] sets the next one by the clock as it is now: one poll that may come early, whatever the jump. Jumps
//! ahead need nothing: what is overdue is polled once, however many intervals lie between.
//!
//! This reads every row that is open, so it is asked for at a start and after a jump, never each second. Up: the
//! scheduler, which sees the clock jump. Down: the tables `processes` and `plugin_instances`.

use std::time::Duration;

use metagov_sdk::contract::ProcessStatus;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait},
};

use super::{
    Store, StoreError, clock,
    due::CLOSE_AGAIN,
    entity::{plugin_instances, processes},
};

/// So far a clock may be set back in the course of being kept right, and nothing is stranded by it.
pub(super) const SLACK: Duration = Duration::from_secs(2);

impl Store {
    /// Makes due what the database's clock has left behind. How many processes and instances that were.
    ///
    /// # Errors
    /// Of the database; nothing is changed then.
    pub async fn set_right_due_times(&self) -> Result<u64, StoreError> {
        self.transaction(|transaction| {
            Box::pin(async move {
                let backend = transaction.get_database_backend();
                let of_processes = {
                    use processes::{Column, Entity};
                    let closing =
                        Column::ClosesAt.is_not_null().and(Expr::col(Column::DueAt).eq(Expr::col(Column::ClosesAt)));
                    Entity::update_many()
                        .col_expr(Column::DueAt, clock::now(backend))
                        .filter(Column::Status.eq(ProcessStatus::Pending.as_str()))
                        .filter(is_stranded(backend, "poll_every_ms", CLOSE_AGAIN))
                        .filter(closing.not())
                        .exec(transaction)
                        .await?
                };
                let of_ticks = {
                    use plugin_instances::{Column, Entity};
                    Entity::update_many()
                        .col_expr(Column::DueAt, clock::now(backend))
                        .filter(is_stranded(backend, "tick_every_ms", Duration::ZERO))
                        .exec(transaction)
                        .await?
                };
                Ok(of_processes.rows_affected + of_ticks.rows_affected)
            })
        })
        .await
    }
}

/// Whether `due_at` is farther ahead than the interval in this column reaches, or this time where there is none.
fn is_stranded(backend: DbBackend, interval: &str, without: Duration) -> Expr {
    let reach = format!("coalesce({interval}, {}) + {}", without.as_millis(), SLACK.as_millis());
    match backend {
        DbBackend::Postgres => Expr::cust(format!("due_at > now() + ({reach}) * interval '1 millisecond'")),
        // Its times are texts, and a day is its unit of time.
        _ => Expr::cust_with_exprs(
            format!("julianday(due_at) > julianday(?) + ({reach}) / 86400000.0"),
            [clock::now(backend)],
        ),
    }
}
