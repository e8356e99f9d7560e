//! Applying migrations, once, however many programs start at the same time.
//!
//! All pending steps run in one transaction. PostgreSQL's advisory lock, or SQLite's single writer, makes the others
//! wait; they then find nothing to do. Up: `metagov migrate`, and `metagov dev` at its start. Down:
//! [`metagov_migrations`].

use metagov_migrations::Migrator;
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use sea_orm_migration::MigratorTrait;

use super::{Store, StoreError, transaction::bounded};

/// Any number that no other program uses for an advisory lock in this database: "metagov" in ASCII.
const LOCK: i64 = 0x006d_6574_6167_6f76;

/// How long to wait for another program's migration, and for each lock of our own.
const WAIT: &str = "30s";

impl Store {
    /// Applies the migrations that are pending and names them. Several programs may do so at once: one applies, the
    /// others wait for it.
    ///
    /// # Errors
    /// Of the database; nothing is applied then.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        // Its own steps may take their time, on tables that have grown.
        self.patient_transaction(|transaction| {
            Box::pin(async move {
                if transaction.get_database_backend() == DbBackend::Postgres {
                    transaction
                        .execute_unprepared(&format!(
                            "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{WAIT}'; \
                             SELECT pg_advisory_xact_lock({LOCK})"
                        ))
                        .await?;
                }
                let pending = names(Migrator::get_pending_migrations(transaction).await)?;
                Migrator::up(transaction, None).await.map_err(unusable)?;
                Ok(pending)
            })
        })
        .await
    }

    /// The migrations that [`Store::migrate`] would apply. Changes nothing.
    ///
    /// # Errors
    /// Of the database.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, StoreError> {
        let reader = self.connections.reader.clone();
        bounded(async move { names(Migrator::get_pending_migrations_read_only(&reader).await) }).await
    }
}

fn names(pending: Result<Vec<sea_orm_migration::Migration>, DbErr>) -> Result<Vec<String>, StoreError> {
    Ok(pending.map_err(unusable)?.iter().map(|migration| migration.name().to_owned()).collect())
}

/// A step that is applied but unknown means that a newer version was here.
fn unusable(error: DbErr) -> StoreError {
    match error {
        DbErr::Custom(text) => StoreError::Newer(text),
        error => error.into(),
    }
}
