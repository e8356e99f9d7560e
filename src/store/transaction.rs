//! Transactions that nobody can cancel half-way.
//!
//! A future that is dropped while `BEGIN` is on the wire gives its connection back to the pool in the middle of a
//! transaction (sqlx 0.9.0, its issue 4385). So every transaction runs in a task of its own, and whoever waits
//! for it may stop waiting at any time. Up: every file of the store that writes. Down: SeaORM's transactions.

use std::{pin::Pin, time::Duration};

use sea_orm::{DatabaseTransaction, SqliteTransactionMode, TransactionOptions, TransactionTrait};

use super::{Store, StoreError};
use crate::failpoint::failpoint;

/// What a transaction does.
pub(super) type Work<'t, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 't>>;

/// How long to wait for a transaction as a whole: longer than the server lets any of its statements run.
const LONGEST: Duration = Duration::from_secs(45);

impl Store {
    /// Runs the work in a transaction and commits it, unless it fails.
    pub(super) async fn transaction<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t DatabaseTransaction) -> Work<'t, T> + Send + 'static,
    {
        let writer = self.connections.writer.clone();
        let task = tokio::spawn(async move {
            // Deferred, SQLite's default, fails at its first write where somebody else wrote in between.
            let options = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            };
            let transaction = writer.begin_with_options(options).await?;
            match work(&transaction).await {
                Ok(done) => {
                    failpoint!("store::committing", |text| Err(StoreError::Unavailable(text)));
                    transaction.commit().await?;
                    Ok(done)
                }
                Err(error) => {
                    // Where even this fails the connection is gone, and the transaction with it.
                    let _ = transaction.rollback().await;
                    Err(error)
                }
            }
        });
        match tokio::time::timeout(LONGEST, task).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Err(_)) => Err(StoreError::Unavailable("the program is shutting down".into())),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", LONGEST.as_secs()))),
        }
    }
}
