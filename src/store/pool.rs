//! A pool of connections: straight to the server, or through a pooler of transactions such as `PgBouncer`.
//!
//! Such a pooler gives each transaction whichever session is free, so nothing that is set in a session, and no statement
//! that was prepared in one, is there in the next transaction. So every transaction through it begins with its own limits
//! and takes away the statements that others have left, whose names sqlx gives away again; and each single question is a
//! transaction, for sqlx prepares a statement and carries it out in two steps. Straight to the server nothing of this is
//! done. Up: every file of the store asks through [`Pool`]. Down: SeaORM's connection.

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait, prelude::async_trait::async_trait,
};

use super::postgres::LIMITS;

/// Connections to a database; a cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    connections: DatabaseConnection,
    way: Way,
}

/// What lies between a connection and the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing: a connection is a session.
    Straight,
    /// A pooler: a connection is another session in each transaction.
    Pooler,
}

impl Pool {
    pub(super) fn new(connections: DatabaseConnection, way: Way) -> Self {
        Self { connections, way }
    }

    /// Which database it is.
    pub(super) fn get_database_backend(&self) -> DbBackend {
        self.connections.get_database_backend()
    }

    /// Begins a transaction that may write.
    pub(super) async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        // Deferred, SQLite's default, fails at its first write where somebody else wrote in between.
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.connections.begin_with_options(options).await?;
        if self.way == Way::Pooler {
            transaction.execute_unprepared(&at_the_beginning()).await?;
        }
        Ok(transaction)
    }
}

/// What a transaction through a pooler begins with.
pub(super) fn at_the_beginning() -> String {
    let limits = LIMITS.map(|(name, value)| format!("SET LOCAL {name} = {value};"));
    format!("DEALLOCATE ALL; {}", limits.concat())
}

/// Asks straight away, or in a transaction of the question's own.
macro_rules! ask {
    ($pool:ident, $connection:ident => $question:expr) => {
        match $pool.way {
            Way::Straight => {
                let $connection = &$pool.connections;
                $question.await
            }
            Way::Pooler => {
                let transaction = $pool.begin().await?;
                let $connection = &transaction;
                match $question.await {
                    Ok(answer) => transaction.commit().await.map(|()| answer),
                    Err(error) => {
                        // Where even this fails the connection does not go back to the pool.
                        let _ = transaction.rollback().await;
                        Err(error)
                    }
                }
            }
        }
    };
}

#[async_trait]
impl ConnectionTrait for Pool {
    fn get_database_backend(&self) -> DbBackend {
        self.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        ask!(self, connection => connection.execute_raw(statement))
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        ask!(self, connection => connection.execute_unprepared(sql))
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        ask!(self, connection => connection.query_one_raw(statement))
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        ask!(self, connection => connection.query_all_raw(statement))
    }
}
