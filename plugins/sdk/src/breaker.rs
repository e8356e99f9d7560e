//! Circuit breakers: a platform that is down is left alone for a while, instead of costing every call its time-out.
//!
//! Five failures in a row within ten seconds open a circuit. While it is open, calls end at once; after thirty seconds
//! one call tries again, and what becomes of it decides. A circuit belongs to one plugin and one host with its port,
//! and to all communities: what is broken is the platform, and an address that only one community uses is a circuit of
//! its own. It lives in this process, with the clock that never jumps. Up: [`crate::HttpClient`], before it sends. Down:
//! nothing; a circuit knows only what it was told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

/// So many failures, with no answer among them, open a circuit…
const FAILURES: usize = 5;
/// …where they came within this time.
const WINDOW: Duration = Duration::from_secs(10);
/// How long an open circuit stays open.
const REST: Duration = Duration::from_secs(30);
/// What a call is told that comes while another one is trying.
const WHILE_TRYING: Duration = Duration::from_secs(5);
/// A call that its handler gave up after this long counts as one that was not answered: the handler ran out of time.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most circuits that are watched. Only hosts that fail have one, so more of them are an attack on this memory.
const MOST: usize = 1024;

/// Whose calls, and to where.
type Key = (&'static str, String);

/// All circuits of a client and its clones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breakers {
    circuits: Arc<Mutex<HashMap<Key, Circuit>>>,
}

/// The circuit of a host that has failed lately; one that works has none.
#[derive(Debug)]
struct Circuit {
    /// The latest failures, oldest first.
    failures: Vec<Instant>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Calls go through.
    Closed,
    /// None does until then.
    Open(Instant),
    /// One does, and decides.
    Trying,
}

impl Circuit {
    /// Whether nothing that could still matter is known of it.
    fn is_forgotten(&self, now: Instant) -> bool {
        let known_until = match self.state {
            State::Closed => self.failures.last().map(|last| *last + WINDOW),
            State::Open(until) => Some(until + WINDOW),
            State::Trying => None,
        };
        known_until.is_some_and(|until| until < now)
    }
}

impl Breakers {
    /// Asks to make a call.
    ///
    /// # Errors
    /// Where the circuit is open: after how long to ask again.
    pub(crate) fn admit(&self, owner: &'static str, host: &str) -> Result<Permit, Duration> {
        let (key, now) = ((owner, host.to_owned()), Instant::now());
        let mut tries = false;
        if let Some(circuit) = self.lock().get_mut(&key) {
            match circuit.state {
                State::Closed => {}
                State::Trying => return Err(WHILE_TRYING),
                State::Open(until) if now < until => return Err(until - now),
                State::Open(_) => {
                    circuit.state = State::Trying;
                    tries = true;
                }
            }
        }
        Ok(Permit { breakers: self.clone(), key: Some(key), began: now, tries })
    }

    fn answered(&self, key: &Key) {
        if self.lock().remove(key).is_some_and(|circuit| circuit.state != State::Closed) {
            info!(plugin = key.0, host = key.1, "the platform answers again");
        }
    }

    fn failed(&self, key: Key, tried: bool) {
        let now = Instant::now();
        let mut circuits = self.lock();
        if circuits.len() >= MOST && !circuits.contains_key(&key) {
            circuits.retain(|_, circuit| !circuit.is_forgotten(now));
            if circuits.len() >= MOST {
                return;
            }
        }
        let (plugin, host) = (key.0, key.1.clone());
        let circuit = circuits.entry(key).or_insert(Circuit { failures: Vec::new(), state: State::Closed });
        circuit.failures.retain(|failure| now.duration_since(*failure) < WINDOW);
        circuit.failures.push(now);
        let opens = match circuit.state {
            State::Closed => circuit.failures.len() >= FAILURES,
            State::Trying => tried,
            State::Open(_) => false,
        };
        if opens {
            circuit.failures.clear();
            circuit.state = State::Open(now + REST);
            drop(circuits);
            warn!(plugin, host, "the platform fails again and again; it is left alone for {} s", REST.as_secs());
        }
    }

    /// The call that was to decide ended without telling anything: the next one decides.
    fn undecided(&self, key: &Key) {
        if let Some(circuit) = self.lock().get_mut(key) {
            circuit.state = State::Open(Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Circuit>> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call that may be made. Dropped after a while without a word it counts as a failure: its handler gave it up.
#[derive(Debug)]
#[must_use = "a call tells its circuit how it ended"]
pub(crate) struct Permit {
    breakers: Breakers,
    /// `None` once it was told how the call ended.
    key: Option<Key>,
    began: Instant,
    tries: bool,
}

impl Permit {
    /// The platform answered, and not that it is broken.
    pub(crate) fn answered(mut self) {
        if let Some(key) = self.key.take() {
            self.breakers.answered(&key);
        }
    }

    /// It did not answer, or that it is broken.
    pub(crate) fn failed(mut self) {
        self.fail();
    }

    /// The call says nothing about the platform: it was never made.
    pub(crate) fn not_made(mut self) {
        self.undecided();
    }

    fn fail(&mut self) {
        if let Some(key) = self.key.take() {
            self.breakers.failed(key, self.tries);
        }
    }

    fn undecided(&mut self) {
        if let Some(key) = self.key.take()
            && self.tries
        {
            self.breakers.undecided(&key);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.began.elapsed() >= PATIENCE { self.fail() } else { self.undecided() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const HOST: &str = "platform.example:443";

    fn fail(breakers: &Breakers, times: usize) {
        for _ in 0..times {
            breakers.admit("plugin", HOST).expect("it is closed").failed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_within_ten_seconds_open_a_circuit_for_thirty() {
        let breakers = Breakers::default();
        fail(&breakers, 4);
        advance(Duration::from_secs(9)).await;
        fail(&breakers, 1);
        assert_eq!(breakers.admit("plugin", HOST).expect_err("it is open"), REST);
        advance(Duration::from_secs(29)).await;
        assert_eq!(breakers.admit("plugin", HOST).expect_err("it is open"), Duration::from_secs(1));
        advance(Duration::from_secs(1)).await;
        breakers.admit("plugin", HOST).expect("one tries").answered();
        fail(&breakers, 4);
        breakers.admit("plugin", HOST).expect("what was before is forgotten").answered();
    }

    #[tokio::test(start_paused = true)]
    async fn failures_far_apart_and_failures_with_answers_among_them_open_nothing() {
        let breakers = Breakers::default();
        for _ in 0..20 {
            fail(&breakers, 1);
            advance(Duration::from_millis(2600)).await;
        }
        advance(WINDOW).await;
        for _ in 0..20 {
            fail(&breakers, 4);
            breakers.admit("plugin", HOST).expect("it is closed").answered();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_tries_and_decides() {
        let breakers = Breakers::default();
        fail(&breakers, 5);
        advance(REST).await;
        let trying = breakers.admit("plugin", HOST).expect("one tries");
        assert_eq!(breakers.admit("plugin", HOST).expect_err("and one only"), WHILE_TRYING);
        trying.failed();
        assert_eq!(breakers.admit("plugin", HOST).expect_err("it is open again"), REST);

        advance(REST).await;
        drop(breakers.admit("plugin", HOST).expect("one tries"));
        breakers.admit("plugin", HOST).expect("the first came to nothing, so another one tries").answered();
        breakers.admit("plugin", HOST).expect("it works").not_made();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_its_handler_gave_up_counts_once_it_has_lasted() {
        let breakers = Breakers::default();
        for _ in 0..5 {
            drop(breakers.admit("plugin", HOST).expect("given up at once, that tells nothing"));
        }
        for _ in 0..5 {
            let call = breakers.admit("plugin", HOST).expect("it is closed");
            advance(PATIENCE).await;
            drop(call);
        }
        assert!(breakers.admit("plugin", HOST).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_circuit_belongs_to_one_plugin_and_one_address() {
        let breakers = Breakers::default();
        fail(&breakers, 5);
        assert!(breakers.admit("plugin", HOST).is_err());
        breakers.admit("plugin", "platform.example:8443").expect("another port").answered();
        breakers.admit("other", HOST).expect("another plugin").answered();
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_circuits_is_bounded_and_old_ones_make_room() {
        let breakers = Breakers::default();
        for host in 0..10 * MOST {
            breakers.admit("plugin", &format!("{host}.example:443")).expect("each is new").failed();
        }
        assert_eq!(breakers.lock().len(), MOST);
        advance(WINDOW + Duration::from_secs(1)).await;
        fail(&breakers, 5);
        assert!(breakers.admit("plugin", HOST).is_err(), "the old ones made room");
        assert_eq!(breakers.lock().len(), 1);
    }
}
