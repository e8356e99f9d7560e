//! What the codes of both databases mean, one line each.

use super::Kind;

/// Code, what it is, whether the same call may succeed later, whether it may be the fault of one unit of a batch.
const CODES: &[(&str, &str, bool, bool)] = &[
    ("08006", "connection failure", true, false),
    ("08P01", "protocol violation", true, false),
    ("25006", "read-only: a standby after a fail-over", true, false),
    ("25P02", "within a transaction that has failed", true, false),
    ("25P03", "idle in transaction for too long", true, false),
    ("28P01", "the password is not the right one any more", true, false),
    ("3D000", "the database is being restored", true, false),
    ("53100", "disk full", true, false),
    ("53200", "out of memory", true, false),
    ("53300", "too many connections", true, false),
    ("57P01", "pg_terminate_backend", true, false),
    ("57P02", "another backend has crashed", true, false),
    ("57P03", "starting up or shutting down", true, false),
    ("58030", "input or output", true, false),
    ("40001", "serialisation failure", true, true),
    ("40P01", "deadlock", true, true),
    ("55P03", "lock_timeout", true, true),
    ("57014", "statement_timeout", true, true),
    ("23505", "unique", false, true),
    ("23503", "foreign key", false, true),
    ("23502", "not null", false, true),
    ("22001", "text too long", false, true),
    ("22P05", "a character that the encoding does not have", false, true),
    ("42501", "no permission", false, true),
    ("42P01", "no such table", false, true),
    ("XX001", "data corrupted", false, true),
    ("5", "SQLITE_BUSY", true, true),
    ("517", "SQLITE_BUSY_SNAPSHOT", true, true),
    ("261", "SQLITE_BUSY_RECOVERY", true, true),
    ("6", "SQLITE_LOCKED", true, true),
    ("9", "SQLITE_INTERRUPT", true, true),
    ("15", "SQLITE_PROTOCOL", true, true),
    ("7", "SQLITE_NOMEM", true, false),
    ("8", "SQLITE_READONLY", true, false),
    ("1032", "SQLITE_READONLY_DBMOVED", true, false),
    ("10", "SQLITE_IOERR", true, false),
    ("778", "SQLITE_IOERR_WRITE", true, false),
    ("1034", "SQLITE_IOERR_FSYNC", true, false),
    ("4874", "SQLITE_IOERR_SHMSIZE", true, false),
    ("13", "SQLITE_FULL", true, false),
    ("14", "SQLITE_CANTOPEN", true, false),
    ("787", "SQLITE_CONSTRAINT_FOREIGNKEY", false, true),
    ("1555", "SQLITE_CONSTRAINT_PRIMARYKEY", false, true),
    ("2067", "SQLITE_CONSTRAINT_UNIQUE", false, true),
    ("1299", "SQLITE_CONSTRAINT_NOTNULL", false, true),
    ("1", "SQLITE_ERROR", false, true),
    ("11", "SQLITE_CORRUPT", false, true),
    ("18", "SQLITE_TOOBIG", false, true),
    ("26", "SQLITE_NOTADB", false, true),
    ("", "no code at all", false, true),
];

#[test]
fn every_code_is_passing_or_not_and_one_units_fault_or_not() {
    for (code, what, passing, one_unit) in CODES {
        let kind = Kind::of(code);
        let is_passing = matches!(kind, Kind::Unavailable | Kind::Contended);
        assert_eq!(is_passing, *passing, "{code}, {what}: passing");
        assert_eq!(!matches!(kind, Kind::Unavailable), *one_unit, "{code}, {what}: one unit's fault");
    }
}
