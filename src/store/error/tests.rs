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
    ("22021", "bytes that the encoding does not have", false, true),
    ("22003", "number out of range", false, true),
    ("22P02", "no number or no UUID", false, true),
    ("21000", "the same row twice in one statement", false, true),
    ("54000", "a row too large for its index", false, true),
    ("P0001", "a trigger refuses the row", false, true),
    ("XX001", "data corrupted", false, true),
    ("0A000", "cached plan must not change result type", true, false),
    ("26000", "no such prepared statement", true, false),
    ("42P05", "such a prepared statement already", true, false),
    ("XX000", "internal error", true, false),
    ("42501", "no permission", true, false),
    ("42P01", "no such table", true, false),
    ("42703", "no such column", true, false),
    ("42P10", "no such unique constraint", true, false),
    ("3F000", "no such schema", true, false),
    ("55000", "not in the state for it", true, false),
    ("ZZ999", "a class that this version does not know", true, false),
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
        let kind = Kind::of(code, what);
        let waited_for = matches!(kind, Kind::Unavailable | Kind::Stale | Kind::Unprepared);
        assert_eq!(waited_for || kind == Kind::Contended, *passing, "{code}, {what}: passing");
        assert_eq!(!waited_for, *one_unit, "{code}, {what}: one unit's fault");
    }
}

#[test]
fn sessions_are_given_up_where_only_a_new_one_helps_and_operators_are_told_where_only_they_do() {
    for code in ["25006", "0A000", "26000", "42P05", "08P01", "XX000"] {
        assert_eq!(Kind::of(code, ""), Kind::Stale, "{code}");
    }
    for code in ["42P01", "42501", "42703", "42883"] {
        assert_eq!(Kind::of(code, ""), Kind::Unprepared, "{code}");
    }
    for message in ["no such table: outbox", "table outbox has no column named x"] {
        assert_eq!(Kind::of("1", message), Kind::Unprepared, "{message}");
    }
}
