//! When what was parked comes back: no more at a time than its owner's handlers get through until then.
//!
//! A flood that came back all at once, second after second, would go round and round through its queue, and whoever stands
//! behind it would wait for all of it again and again. So each copy is booked for the first step of the delay ladder before
//! which its owner has room, by the rate at which its handlers ended while any of them ran. It is a guess, and nothing but time depends on
//! it: what comes back where there is no room is parked anew. In a standstill, when a broker or a database is away, few or none
//! end: so for some minutes what was before it counts, too, and never less than one handler in a second each.
//!
//! Pure and synchronous as [`super::shares`] is; the time is given. Up: [`super::intake`], which parks. Down: nothing.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::shares::Owner;
use crate::bus::DelayStep;

/// The time over which handlers are counted: longer than those of a slow platform take.
const LATELY: Duration = Duration::from_mins(1);
/// Before so much time, and before the first has ended, what was parked says nothing of how fast its owner's handlers are.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Of whom so little has ended lately, it is as good as nothing.
const IDLE: f64 = 0.5;
/// Too many come back rather than too few, for the next step is far: to be parked again costs less than idle handlers.
const OVERBOOKED: f64 = 2.0;
/// However long a flood is, it is looked at again then: by then others may have left, and handlers come.
const LONGEST: DelayStep = DelayStep::TwoMinutes;

/// The books of all owners of one queue.
#[derive(Debug)]
pub(super) struct Bookings {
    owners: HashMap<Owner, Books>,
    least: f64,
}

/// What is known of one owner.
#[derive(Debug)]
struct Books {
    running: usize,
    ended: Lately,
    /// While something of its is parked.
    parked: Option<Parked>,
}

/// A sum, to which each part counts less the longer ago it was.
#[derive(Debug, Clone, Copy)]
struct Lately {
    count: f64,
    counted: Instant,
}

/// What was parked, since the first of it.
#[derive(Debug)]
struct Parked {
    begun: Instant,
    ended: Lately,
    /// For how long any ran, in seconds: while there is nothing to do, nobody is slow.
    busy: Lately,
    /// How many come back in which second since then.
    returns: BTreeMap<u64, u32>,
}

impl Bookings {
    /// For owners that have so many handlers at most.
    pub(super) fn new(handlers: usize) -> Self {
        Self { owners: HashMap::new(), least: f64::from(u32::try_from(handlers).unwrap_or(u32::MAX)) }
    }

    /// One more of this owner's is parked; for how long.
    pub(super) fn book(&mut self, owner: &Owner, now: Instant) -> DelayStep {
        let least = self.least;
        self.of(owner, now).book(now, least)
    }

    /// A handler of this owner's begins.
    pub(super) fn started(&mut self, owner: &Owner, now: Instant) {
        let books = self.of(owner, now);
        books.note_busy(now);
        books.running += 1;
    }

    /// A handler of this owner's has ended.
    pub(super) fn done(&mut self, owner: &Owner, now: Instant) {
        let books = self.of(owner, now);
        books.note_busy(now);
        books.running = books.running.saturating_sub(1);
        books.ended.add(1.0, now);
        if let Some(parked) = &mut books.parked {
            parked.ended.add(1.0, now);
        }
    }

    /// From time to time: forgets what has come back, and who is idle.
    pub(super) fn look_after(&mut self, now: Instant) {
        self.owners.retain(|_, books| {
            if let Some(parked) = &mut books.parked {
                let second = parked.second(now);
                parked.returns.retain(|returns, _| *returns >= second);
            }
            books.parked.take_if(|parked| parked.returns.is_empty());
            books.parked.is_some() || books.running > 0 || books.ended.count_at(now) > IDLE
        });
    }

    fn of(&mut self, owner: &Owner, now: Instant) -> &mut Books {
        if !self.owners.contains_key(owner) {
            self.owners.insert(owner.clone(), Books { running: 0, ended: Lately::none(now), parked: None });
        }
        self.owners.get_mut(owner).expect("it was just put there")
    }
}

impl Books {
    /// Counts the time since the last start or end, if anything ran.
    fn note_busy(&mut self, now: Instant) {
        if let Some(parked) = &mut self.parked {
            let since = now.duration_since(parked.busy.counted);
            parked.busy.add(if self.running > 0 { since.as_secs_f64() } else { 0.0 }, now);
        }
    }

    fn book(&mut self, now: Instant, least: f64) -> DelayStep {
        self.note_busy(now);
        let before = self.ended.count_at(now) / LATELY.as_secs_f64();
        let parked = self.parked.get_or_insert_with(|| Parked::new(now));
        // What is below the floor says that little was asked for before, not how fast it went.
        let known = parked.rate(now).or((before > least).then_some(before));
        let rate = known.map(|rate| rate.max(before).max(least));
        let second = parked.second(now);
        let has_room = |step: DelayStep| {
            let Some(rate) = rate else { return true };
            let until = second + step.delay().as_secs();
            let booked: u32 = parked.returns.range(second..=until).map(|(_, count)| count).sum();
            f64::from(booked) < rate * step.delay().as_secs_f64() * OVERBOOKED
        };
        let step = DelayStep::ALL.into_iter().find(|step| *step >= LONGEST || has_room(*step)).unwrap_or(LONGEST);
        *parked.returns.entry(second + step.delay().as_secs()).or_default() += 1;
        step
    }
}

impl Parked {
    fn new(now: Instant) -> Self {
        Self { begun: now, ended: Lately::none(now), busy: Lately::none(now), returns: BTreeMap::new() }
    }

    fn second(&self, now: Instant) -> u64 {
        now.duration_since(self.begun).as_secs()
    }

    /// Handlers that end in a second in which any runs; `None` while that is unknown.
    fn rate(&self, now: Instant) -> Option<f64> {
        let (ended, busy) = (self.ended.count_at(now), self.busy.count_at(now));
        let is_known = now.duration_since(self.begun) >= UNKNOWN && ended > 0.0 && busy > 0.0;
        is_known.then(|| ended / busy)
    }
}

impl Lately {
    fn none(now: Instant) -> Self {
        Self { count: 0.0, counted: now }
    }

    fn count_at(&self, now: Instant) -> f64 {
        self.count * (-now.duration_since(self.counted).div_duration_f64(LATELY)).exp()
    }

    fn add(&mut self, more: f64, now: Instant) {
        *self = Self { count: self.count_at(now) + more, counted: now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: Owner = Owner::Unknown;

    /// A book of an owner whose handlers have ended at this rate for ten seconds, and the time then.
    fn known(per_second: u32) -> (Bookings, Instant) {
        let (mut bookings, mut now) = (Bookings::new(1), Instant::now());
        bookings.book(&FLOOD, now);
        for _ in 0..10 * per_second {
            bookings.started(&FLOOD, now);
            now += Duration::from_secs(1) / per_second;
            bookings.done(&FLOOD, now);
        }
        (bookings, now)
    }

    fn steps(bookings: &mut Bookings, count: usize, now: Instant) -> Vec<usize> {
        let mut steps = vec![0; DelayStep::ALL.len()];
        for _ in 0..count {
            let step = bookings.book(&FLOOD, now);
            steps[DelayStep::ALL.iter().position(|known| *known == step).expect("it is a step")] += 1;
        }
        steps
    }

    #[test]
    fn as_many_come_back_at_each_step_as_are_handled_until_then() {
        let (mut bookings, now) = known(100);
        let steps = steps(&mut bookings, 100_000, now);
        for (step, until) in DelayStep::ALL.into_iter().zip(1..).take_while(|(step, _)| *step < LONGEST) {
            let back: usize = steps[..until].iter().sum();
            let handled = 200 * usize::try_from(step.delay().as_secs()).expect("it is small");
            assert!(back.abs_diff(handled) <= handled / 20, "{steps:?}");
        }
        assert_eq!(steps[3], 100_000 - steps[..3].iter().sum::<usize>(), "the rest waits at the longest one");
    }

    #[test]
    fn while_nothing_is_there_to_do_nobody_is_slow() {
        let (mut bookings, mut now) = (Bookings::new(1), Instant::now());
        bookings.book(&FLOOD, now);
        for _ in 0..10 {
            for _ in 0..100 {
                bookings.started(&FLOOD, now);
                now += Duration::from_millis(1);
                bookings.done(&FLOOD, now);
            }
            now += Duration::from_millis(900);
        }
        let steps = steps(&mut bookings, 1_900, now);
        assert_eq!(steps, [1_900, 0, 0, 0, 0], "a thousand a second are got through, where there are as many");
    }

    #[test]
    fn while_nobody_knows_how_fast_it_goes_everything_comes_back_soon() {
        let (mut bookings, now) = (Bookings::new(1), Instant::now());
        assert_eq!(steps(&mut bookings, 1_000, now), [1_000, 0, 0, 0, 0]);
        assert_eq!(bookings.book(&FLOOD, now + Duration::from_mins(2)), DelayStep::OneSecond, "none has ended yet");

        let mut bookings = Bookings::new(16);
        bookings.done(&FLOOD, now);
        assert_eq!(steps(&mut bookings, 1_500, now), [1_500, 0, 0, 0, 0], "one says nothing of how fast many go");
    }

    #[test]
    fn after_a_standstill_nothing_waits_for_long() {
        let (mut bookings, began) = (Bookings::new(192), Instant::now());
        bookings.started(&FLOOD, began);
        bookings.book(&FLOOD, began);
        bookings.done(&FLOOD, began + Duration::from_secs(1));
        assert_eq!(steps(&mut bookings, 300, began + Duration::from_secs(30)), [300, 0, 0, 0, 0]);
    }

    #[test]
    fn in_a_standstill_the_pace_before_it_counts() {
        let (mut bookings, mut now) = (Bookings::new(16), Instant::now());
        for _ in 0..120 * 90 {
            bookings.started(&FLOOD, now);
            now += Duration::from_secs(1) / 90;
            bookings.done(&FLOOD, now);
        }
        bookings.started(&FLOOD, now);
        bookings.book(&FLOOD, now);
        now += Duration::from_secs(2);
        bookings.done(&FLOOD, now);
        let steps = steps(&mut bookings, 20 * 90, now + Duration::from_secs(18));
        assert_eq!(steps[3..], [0, 0], "twenty seconds of commands come back within thirty: {steps:?}");
    }

    #[test]
    fn what_has_come_back_makes_room_and_is_forgotten_in_the_end() {
        let (mut bookings, now) = known(10);
        let before = steps(&mut bookings, 30, now);
        assert!((19..=22).contains(&before[0]) && before[0] + before[1] == 30, "{before:?}");
        bookings.look_after(now + Duration::from_secs(7));
        assert!(bookings.owners[&FLOOD].parked.is_none(), "{bookings:?}");
        bookings.look_after(now + Duration::from_mins(15));
        assert!(bookings.owners.is_empty(), "{bookings:?}");
    }
}
