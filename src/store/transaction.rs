//! Transactions that nobody can cancel half-way.
//!
//! A future that is dropped while `BEGIN` is on the wire gives its connection back to the pool in the middle of a
//! transaction (sqlx 0.9.0, its issue 4385). So every transaction runs in a task of its own, and whoever waits
//! for it may stop waiting at any time. Single questions are asked in the same way: [`bounded`] ends the wait where the
//! network is half-open or the database stands still, and never the work. Up: every file of the store. Down: SeaORM's
//! transactions.

use std::{pin::Pin, time::Duration};

use sea_orm::DatabaseTransaction;
use tokio::task::{JoinError, JoinHandle};

use super::{Store, StoreError};
use crate::failpoint::failpoint;

/// What a transaction does.
pub(super) type Work<'t, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 't>>;

/// How long to wait for an answer: longer than the server lets any statement run.
const LONGEST: Duration = Duration::from_secs(30);

impl Store {
    /// Runs the work in a transaction and commits it, unless it fails.
    pub(super) async fn transaction<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t DatabaseTransaction) -> Work<'t, T> + Send + 'static,
    {
        in_time(self.begin(work)).await
    }

    /// The same, however long it takes.
    pub(super) async fn patient_transaction<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t DatabaseTransaction) -> Work<'t, T> + Send + 'static,
    {
        joined(self.begin(work).await)
    }

    fn begin<T, F>(&self, work: F) -> JoinHandle<Result<T, StoreError>>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t DatabaseTransaction) -> Work<'t, T> + Send + 'static,
    {
        let writer = self.connections.writer.clone();
        tokio::spawn(async move {
            failpoint!("store::asking", |text| Err(StoreError::Unavailable(text)));
            let transaction = writer.begin().await?;
            match work(&transaction).await {
                Ok(done) => {
                    failpoint!("store::committing", |text| Err(StoreError::Unavailable(text)));
                    transaction.commit().await?;
                    failpoint!("store::committed", |text| Err(StoreError::Unavailable(text)));
                    Ok(done)
                }
                Err(error) => {
                    // Where even this fails the connection does not go back to the pool, and the transaction ends with it.
                    let _ = transaction.rollback().await;
                    Err(error)
                }
            }
        })
    }
}

/// Asks the database, in a task of its own; the wait ends after [`LONGEST`], the task does not.
pub(super) async fn bounded<T: Send + 'static>(
    question: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    #[cfg_attr(
        not(feature = "failpoints"),
        expect(
            clippy::redundant_async_block,
            reason = "with the feature there is a place to refuse before the question"
        )
    )]
    let asked = async move {
        failpoint!("store::asking", |text| Err(StoreError::Unavailable(text)));
        question.await
    };
    in_time(tokio::spawn(asked)).await
}

async fn in_time<T>(task: JoinHandle<Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(LONGEST, task).await {
        Ok(ended) => joined(ended),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", LONGEST.as_secs()))),
    }
}

fn joined<T>(ended: Result<Result<T, StoreError>, JoinError>) -> Result<T, StoreError> {
    match ended {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StoreError::Unavailable("the program is shutting down".into())),
    }
}
