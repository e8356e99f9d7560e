//! The store on both databases: every story is written once and runs on SQLite, on PostgreSQL, and on PostgreSQL through
//! `PgBouncer` in transaction mode.
//!
//! PostgreSQL is the server of `METAGOV_TEST_DATABASE_URL`, whose user may create databases; each test makes one of its
//! own and drops it at the end. `PgBouncer` is that of `METAGOV_TEST_POOLER_URL`.

#[path = "store/answers.rs"]
mod answers;
#[path = "store/attempts.rs"]
mod attempts;
#[path = "bus/certificates.rs"]
mod certificates;
#[path = "store/commit.rs"]
mod commit;
#[path = "store/communities.rs"]
mod communities;
#[path = "store/database.rs"]
mod database;
#[path = "store/due.rs"]
mod due;
#[path = "store/leases.rs"]
mod leases;
#[path = "store/opening.rs"]
mod opening;
#[path = "store/operators.rs"]
mod operators;
#[path = "store/outbox.rs"]
mod outbox;
#[path = "store/processes.rs"]
mod processes;
#[path = "store/sample.rs"]
mod sample;
#[path = "store/steps.rs"]
mod steps;
#[path = "store/strain.rs"]
mod strain;
#[path = "store/suspects.rs"]
mod suspects;
#[path = "store/tls.rs"]
mod tls;
#[path = "store/uncertain.rs"]
mod uncertain;
