//! Sessions with the database that are of no use any more, and are not used again.
//!
//! A server that became a standby goes on answering, and refuses to write; a statement that was prepared before the schema
//! changed fails for ever on the session that prepared it; a session that met an internal error may keep it. So the caller
//! that meets such an answer gives up all the sessions of this moment, and the pool opens new ones, which find the server
//! that writes. A process has one database, so this is known once for the process. Up: [`super::error`], which knows such
//! answers. Down: the pool of [`super::connection`].

use std::{
    sync::Mutex,
    sync::PoisonError,
    time::{Duration, Instant},
};

/// When all sessions were given up last.
static GIVEN_UP: Mutex<Option<Instant>> = Mutex::new(None);

/// No session that is open now is used again.
pub(super) fn give_up() {
    *GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}

/// Whether a session that was opened so long ago may be used.
pub(super) fn may_be_used(age: Duration) -> bool {
    let given_up = *GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner);
    given_up.is_none_or(|moment| age < moment.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_open_when_sessions_were_given_up_is_not_used_again() {
        assert!(may_be_used(Duration::from_hours(1)));
        give_up();
        assert!(!may_be_used(Duration::from_hours(1)));
        std::thread::sleep(Duration::from_millis(2));
        assert!(may_be_used(Duration::ZERO));
    }
}
