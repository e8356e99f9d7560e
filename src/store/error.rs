//! What can go wrong with the database, sorted by what the caller can do about it.
//!
//! Up: the worker, which waits and tries again while [`StoreError::is_passing`] holds. Down: SeaORM's errors, which do
//! not leave the store. Messages never carry the database's URL.
//!
//! What an answer of PostgreSQL means, by its SQLSTATE (appendix A of its manual):
//!
//! | SQLSTATE | what heals it | so |
//! |---|---|---|
//! | 40001, 40P01, 55P03, 57014 | the same statements again | contended: the batch is split and repeated |
//! | 23503, 23505 | nothing, and the caller knows what it means | a constraint |
//! | 21, 22, 23, 27, 44, 54, P0, XX001, XX002 | nothing: it is about the values or one row | that command's fault, the batch goes on without it |
//! | 0A, 25006, 26, 42P05, 08P, XX | a new session | all sessions are given up, and it is waited for |
//! | 42 | an operator: a table, a column or a right is missing | it is waited for, and the log names the remedy |
//! | all others, those of later versions too | time, or an operator | it is waited for |
//!
//! To wait is the default, for a command that waits is late, and one that is refused is lost.

use sea_orm::{DbErr, RuntimeErr, sqlx};
use thiserror::Error;

use super::sessions;

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
    /// The database is away, out of connections, out of space or too slow, does not write, or lacks a table or a right. It
    /// may have carried out what was asked.
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
                    match Kind::of(&code, refusal.message()) {
                        Kind::Unavailable => Self::Unavailable(text),
                        Kind::Stale => {
                            sessions::give_up();
                            Self::Unavailable(text)
                        }
                        Kind::Unprepared => Self::Unavailable(format!("{text}; {REMEDY}")),
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

/// What to do where the database is not as the migrations made it.
const REMEDY: &str = "the schema or the rights of this user are not what they should be: run `metagov migrate`, or grant \
                      this user what is missing";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unavailable,
    /// Unavailable on this session and those like it.
    Stale,
    /// Unavailable until somebody puts the schema or the rights in order.
    Unprepared,
    Contended,
    Constraint,
    Other,
}

impl Kind {
    /// Sorts PostgreSQL's five-character SQLSTATE and SQLite's numeric result codes.
    fn of(code: &str, message: &str) -> Self {
        if code.len() == 5 {
            return Self::of_postgres(code);
        }
        code.parse().map_or(Self::Other, |code| Self::of_sqlite(code, message))
    }

    fn of_postgres(code: &str) -> Self {
        match code {
            // Serialisation failure, deadlock, lock timeout, statement timeout.
            "40001" | "40P01" | "55P03" | "57014" => return Self::Contended,
            // Foreign key, unique.
            "23503" | "23505" => return Self::Constraint,
            // A page, an index.
            "XX001" | "XX002" => return Self::Other,
            // Read-only, a prepared statement that is there already.
            "25006" | "42P05" => return Self::Stale,
            _ => {}
        }
        match &code[..2] {
            // Cardinality, data, constraints, triggers, views with a check, limits of the program, `RAISE EXCEPTION`.
            "21" | "22" | "23" | "27" | "44" | "54" | "P0" => Self::Other,
            // Cached plan, prepared statement, internal error.
            "0A" | "26" | "XX" => Self::Stale,
            // No such table or column, no right.
            "42" => Self::Unprepared,
            _ if code.starts_with("08P") => Self::Stale,
            _ => Self::Unavailable,
        }
    }

    /// The low byte of an extended result code is the primary one, <https://sqlite.org/rescode.html>
    fn of_sqlite(code: u32, message: &str) -> Self {
        match code {
            // Foreign key, primary key, unique.
            787 | 1555 | 2067 => Self::Constraint,
            // The one code for everything that is wrong with a statement.
            1 if message.starts_with("no such") || message.contains("has no column") => Self::Unprepared,
            code => match code & 0xff {
                // Busy, locked, interrupted, lost a race for the log, changed under us.
                5 | 6 | 9 | 15 | 17 => Self::Contended,
                // Out of memory, read-only, input or output, full, cannot open.
                7 | 8 | 10 | 13 | 14 => Self::Unavailable,
                _ => Self::Other,
            },
        }
    }
}

#[cfg(test)]
#[path = "error/tests.rs"]
mod tests;
