//! Applying migrations, once, however many programs start at the same time.
//!
//! An older program works beside the tables of a newer one for the time of a deployment: steps only add, and what an older
//! program cannot live with is named `…_breaking` and refused by it. All pending steps run in one transaction. PostgreSQL's advisory lock, or SQLite's single writer, makes the others
//! wait; they then find nothing to do. Up: `metagov migrate`, and `metagov dev` at its start. Down:
//! [`metagov_migrations`].

use metagov_migrations::Migrator;
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use sea_orm_migration::{Migration, MigratorTrait};

use super::{Store, StoreError, transaction::bounded};

/// Any number that no other program uses for an advisory lock in this database: "metagov" in ASCII.
const LOCK: i64 = 0x006d_6574_6167_6f76;

/// How long to wait for another program's migration, and for each lock of our own.
const WAIT: &str = "30s";

/// How a step is called that programs older than it cannot live with.
const BREAKING: &str = "_breaking";

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
                match Migrator::get_pending_migrations(transaction).await {
                    Ok(pending) => {
                        Migrator::up(transaction, None).await?;
                        Ok(names(&pending))
                    }
                    Err(DbErr::Custom(newer)) => match beside_newer(transaction, &newer).await? {
                        nothing if nothing.is_empty() => Ok(nothing),
                        // In what order they belong is for the newer program to say.
                        _ => Err(StoreError::Newer(newer)),
                    },
                    Err(error) => Err(error.into()),
                }
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
        bounded(async move {
            match Migrator::get_pending_migrations_read_only(&reader).await {
                Ok(pending) => Ok(names(&pending)),
                Err(DbErr::Custom(newer)) => beside_newer(&reader, &newer).await,
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}

fn names(pending: &[Migration]) -> Vec<String> {
    pending.iter().map(|migration| migration.name().to_owned()).collect()
}

/// What is pending where a newer program has applied steps that this one does not know, if it can live with them.
async fn beside_newer(connection: &impl ConnectionTrait, newer: &str) -> Result<Vec<String>, StoreError> {
    let applied: Vec<String> =
        Migrator::get_migration_models(connection).await?.into_iter().map(|model| model.version).collect();
    let known: Vec<String> = Migrator::migrations().iter().map(|step| step.name().to_owned()).collect();
    if applied.iter().any(|step| !known.contains(step) && step.ends_with(BREAKING)) {
        return Err(StoreError::Newer(newer.to_owned()));
    }
    Ok(known.into_iter().filter(|step| !applied.contains(step)).collect())
}
