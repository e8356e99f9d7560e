//! What can go wrong with the database, sorted by what the caller can do about it.
//!
//! Up: the worker, which waits and tries again while [`StoreError::is_passing`] holds. Down: SeaORM's errors, which do
//! not leave the store. Messages never carry the database's URL.

use sea_orm::{DbErr, RuntimeErr, sqlx};
use thiserror::Error;

/// An operation on the database failed.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The URL in the settings cannot be used.
    #[error("database.url cannot be used: {reason}")]
    InvalidUrl {
        /// What is wrong with it and what it should look like.
        reason: String,
    },
    /// The database file or its directory cannot be made.
    #[error("the database file cannot be created ({kind}): make its directory writable or change database.url")]
    Create {
        /// What the operating system said.
        kind: std::io::ErrorKind,
    },
    /// The database is away, out of connections, out of space or too slow. It may have carried out what was asked.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// Others held the same rows for too long, or each waited for the other. Nothing was written.
    #[error("the database gave up waiting for other writers: {0}")]
    Contended(String),
    /// A uniqueness or foreign key constraint does not hold. Nothing was written.
    #[error("a constraint of the database does not hold: {0}")]
    Constraint(String),
    /// A stored row cannot be read back: it was changed by other hands or by a newer version.
    #[error("a stored row cannot be read: {what}: {reason}")]
    Corrupt {
        /// Table and column.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The database was migrated by a newer version of this program.
    #[error("the database is newer than this program, run the newer one: {0}")]
    Newer(String),
    /// Anything else; it will fail again.
    #[error("the database refused: {0}")]
    Other(#[source] DbErr),
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Contended(_) => true,
            Self::InvalidUrl { .. }
            | Self::Create { .. }
            | Self::Constraint(_)
            | Self::Corrupt { .. }
            | Self::Newer(_)
            | Self::Other(_) => false,
        }
    }

    /// Whether the fault may lie with one unit of a batch, so that the others succeed without it.
    pub(super) fn may_be_one_unit(&self) -> bool {
        match self {
            Self::Contended(_) | Self::Constraint(_) | Self::Corrupt { .. } | Self::Other(_) => true,
            Self::Unavailable(_) | Self::InvalidUrl { .. } | Self::Create { .. } | Self::Newer(_) => false,
        }
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match &error {
            DbErr::ConnectionAcquire(_) => Self::Unavailable(error.to_string()),
            DbErr::Conn(RuntimeErr::SqlxError(cause))
            | DbErr::Exec(RuntimeErr::SqlxError(cause))
            | DbErr::Query(RuntimeErr::SqlxError(cause)) => match cause.as_ref() {
                sqlx::Error::Database(refusal) => {
                    let code = refusal.code().unwrap_or_default();
                    // A message of PostgreSQL may quote the row ("Key (id)=(…)") in its detail, which is left out here.
                    let text = format!("{} (code {code})", refusal.message());
                    match Kind::of(&code) {
                        Kind::Unavailable => Self::Unavailable(text),
                        Kind::Contended => Self::Contended(text),
                        Kind::Constraint => Self::Constraint(text),
                        Kind::Other => Self::Other(error),
                    }
                }
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::Unavailable(cause.to_string()),
                _ => Self::Other(error),
            },
            _ => Self::Other(error),
        }
    }
}

enum Kind {
    Unavailable,
    Contended,
    Constraint,
    Other,
}

impl Kind {
    /// Sorts PostgreSQL's five-character SQLSTATE (its appendix A) and SQLite's numeric result codes.
    fn of(code: &str) -> Self {
        if code.len() == 5 {
            return match code {
                // Serialisation failure, deadlock, lock timeout, statement timeout.
                "40001" | "40P01" | "55P03" | "57014" => Self::Contended,
                // Foreign key, unique.
                "23503" | "23505" => Self::Constraint,
                _ => match &code[..2] {
                    // Connection, invalid transaction state after a lost one, resources, operator, system. And the two
                    // by which the server turns us away at its door: somebody renews a password or restores a backup.
                    "08" | "25" | "28" | "3D" | "53" | "57" | "58" => Self::Unavailable,
                    _ => Self::Other,
                },
            };
        }
        // The low byte of an extended result code is the primary one, https://sqlite.org/rescode.html
        match code.parse::<u32>() {
            // Foreign key, primary key, unique.
            Ok(787 | 1555 | 2067) => Self::Constraint,
            Ok(code) => match code & 0xff {
                // Busy, locked, interrupted, lost a race for the log, changed under us.
                5 | 6 | 9 | 15 | 17 => Self::Contended,
                // Out of memory, read-only, input or output, full, cannot open.
                7 | 8 | 10 | 13 | 14 => Self::Unavailable,
                _ => Self::Other,
            },
            Err(_) => Self::Other,
        }
    }
}

#[cfg(test)]
#[path = "error/tests.rs"]
mod tests;
