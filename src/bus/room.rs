//! Room for bodies: how much memory commands that are fetched or in flight may take, whatever its number.
//!
//! AMQP bounds what a consumer is sent by messages; RabbitMQ knows no bound by bytes. So a consumer begins with as few
//! messages as would fit if each were as large as may be. It fetches more once it has seen that they are small, and fewer
//! again when what it holds outgrows its share. A consumer may hold three quarters of what the others leave, so that one
//! that is alone has most of the room, and large bodies in one queue never take all of it.
//!
//! Up: [`super::Bus::consume_on`]. Down: [`super::Receipt`], whose end gives the room back.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// How often a body is in memory at worst while it is in flight: as it came, parsed, and on its way to database and broker.
const COPIES: usize = 4;
/// After so many messages of a consumer it is known how large they are.
const ENOUGH: usize = 64;

/// The room of all consumers of one worker; a cheap handle.
#[derive(Debug, Clone)]
pub struct Room(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    bytes: usize,
    largest: usize,
    held: AtomicUsize,
}

impl Room {
    /// Room for so many bytes, where the largest body that is read has so many.
    #[must_use]
    pub fn new(bytes: usize, largest: usize) -> Self {
        Self(Arc::new(Whole { bytes, largest, held: AtomicUsize::new(0) }))
    }

    /// The part of one consumer.
    pub(super) fn share(&self) -> Share {
        Share { room: Arc::clone(&self.0), held: Arc::default() }
    }
}

/// The part of the room that one consumer has.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Whole>,
    held: Arc<Held>,
}

#[derive(Debug, Default)]
struct Held {
    sum: Mutex<Sum>,
    freed: Notify,
}

/// Some bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    messages: usize,
    bytes: usize,
}

impl Sum {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn mean(self) -> usize {
        self.bytes / self.messages.max(1)
    }
}

impl Held {
    fn sum(&self) -> MutexGuard<'_, Sum> {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes the room of a body until the answer is dropped.
    pub(super) fn hold(&self, body: usize) -> Hold {
        let bytes = body.saturating_mul(COPIES);
        self.held.sum().add(bytes);
        self.room.held.fetch_add(bytes, Ordering::Relaxed);
        Hold { room: Arc::clone(&self.room), held: Arc::clone(&self.held), bytes }
    }

    /// Whether no more is held than there is room for.
    pub(super) fn is_enough(&self) -> bool {
        let held = self.held.sum().bytes;
        held <= self.bytes(held)
    }

    /// Waits until half of it is free.
    pub(super) async fn is_half_free(&self) {
        loop {
            let freed = self.held.freed.notified();
            tokio::pin!(freed);
            // Before it looks: what is given back after the look is not missed.
            freed.as_mut().enable();
            let held = self.held.sum().bytes;
            if held <= self.bytes(held) / 2 {
                return;
            }
            freed.await;
        }
    }

    /// How many bytes it may hold that holds so many.
    fn bytes(&self, held: usize) -> usize {
        let others = self.room.held.load(Ordering::Relaxed).saturating_sub(held);
        self.room.bytes.saturating_sub(others) / 4 * 3
    }
}

/// The room of one body, which is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    room: Arc<Whole>,
    held: Arc<Held>,
    bytes: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut sum = self.held.sum();
        sum.messages -= 1;
        sum.bytes -= self.bytes;
        drop(sum);
        self.room.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.held.freed.notify_waiters();
    }
}

/// How many messages a consumer fetches: never more than it was asked for.
#[derive(Debug)]
pub(super) struct Gear {
    most: u16,
    prefetch: u16,
    /// Since it fetches so many.
    seen: Sum,
}

impl Gear {
    /// The gear of a consumer that has seen nothing yet.
    pub(super) fn first(most: u16, share: &Share) -> Self {
        let prefetch = fit(share.bytes(0), share.room.largest.saturating_mul(COPIES), most);
        Self { most, prefetch, seen: Sum::default() }
    }

    /// How many messages are fetched.
    pub(super) fn prefetch(&self) -> u16 {
        self.prefetch
    }

    /// Looks at a message that has come and is held; whether another number of messages is to be fetched from now on.
    pub(super) fn shift(&mut self, hold: &Hold, share: &Share) -> bool {
        self.seen.add(hold.bytes);
        let next = if share.is_enough() { self.wider(share) } else { self.narrower(share) };
        let shifts = next != self.prefetch;
        if shifts {
            (self.prefetch, self.seen) = (next, Sum::default());
        }
        shifts
    }

    fn narrower(&self, share: &Share) -> u16 {
        let held = *share.held.sum();
        fit(share.bytes(held.bytes), held.mean(), (self.prefetch / 2).max(1))
    }

    /// Twice as many at least, and as many as take half of the room, so that it does not go to and fro. It does not wait
    /// for more than it fetches: all of that may be in flight for long, and what lies behind it is not seen.
    fn wider(&self, share: &Share) -> u16 {
        if self.seen.messages < ENOUGH.min(usize::from(self.prefetch)) {
            return self.prefetch;
        }
        let next = fit(share.bytes(0) / 2, self.seen.mean(), self.most);
        if next / 2 >= self.prefetch || (next == self.most && next > self.prefetch) { next } else { self.prefetch }
    }
}

/// How many bodies of a size fit into so many bytes: at least one, and `most` at most.
fn fit(bytes: usize, each: usize, most: u16) -> u16 {
    u16::try_from(bytes / each.max(1)).unwrap_or(u16::MAX).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    /// What a gear does with bodies of a size when all of them stay in flight; the most bytes that were held.
    fn hold_all(gear: &mut Gear, share: &Share, body: usize, count: usize) -> (usize, Vec<Hold>) {
        let holds: Vec<_> = (0..count)
            .map_while(|_| {
                let hold = share.hold(body);
                (!gear.shift(&hold, share)).then_some(hold)
            })
            .collect();
        (share.held.sum().bytes, holds)
    }

    #[test]
    fn a_consumer_begins_with_as_many_as_fit_if_each_is_as_large_as_may_be() {
        let share = Room::new(256 * MIB, MIB).share();
        assert_eq!(Gear::first(512, &share).prefetch(), 48);
        assert_eq!(Gear::first(8, &share).prefetch(), 8, "no more than it was asked for");
        let little = Room::new(MIB, MIB).share();
        assert_eq!(Gear::first(512, &little).prefetch(), 1, "at least one");
    }

    #[test]
    fn small_bodies_are_fetched_as_asked_for_although_none_is_given_back() {
        let share = Room::new(256 * MIB, MIB).share();
        let mut gear = Gear::first(512, &share);
        let (_, first) = hold_all(&mut gear, &share, 300, 48);
        assert_eq!((gear.prefetch(), first.len()), (512, 47), "with the last of those that it fetched");
        let (_, holds) = hold_all(&mut gear, &share, 300, 1000);
        assert_eq!((gear.prefetch(), holds.len()), (512, 1000), "and it stays at that");
    }

    #[test]
    fn large_ones_after_small_ones_never_take_more_than_the_room() {
        let share = Room::new(256 * MIB, MIB).share();
        let mut gear = Gear { most: 512, prefetch: 512, seen: Sum::default() };
        let (bytes, holds) = hold_all(&mut gear, &share, MIB, 512);
        assert_eq!((gear.prefetch(), holds.len()), (48, 48));
        assert!(bytes <= 256 * MIB, "{bytes}");
        drop(holds);
        let (bytes, holds) = hold_all(&mut gear, &share, MIB, 48);
        assert_eq!((gear.prefetch(), holds.len(), bytes), (48, 48, 192 * MIB), "it stays at that while they are large");
    }

    #[test]
    fn however_many_have_large_bodies_there_is_some_room_for_one_more() {
        let room = Room::new(256 * MIB, MIB);
        let shares: Vec<_> = (0..8).map(|_| room.share()).collect();
        let mut all = Vec::new();
        for share in &shares {
            let before = all.len();
            while share.is_enough() {
                all.push(share.hold(MIB / 16));
            }
            assert!(all.len() > before + 1 || share.held.sum().messages > 0);
        }
        let over = shares.len() * MIB / 16 * COPIES;
        assert!(room.0.held.load(Ordering::Relaxed) <= 256 * MIB + over);
    }

    #[tokio::test]
    async fn room_that_is_given_back_is_noticed() {
        let share = Room::new(8 * MIB, MIB).share();
        let holds: Vec<_> = (0..3).map(|_| share.hold(MIB)).collect();
        assert!(!share.is_enough());
        let waits = tokio::spawn(async move { share.is_half_free().await });
        drop(holds);
        waits.await.expect("it notices");
    }
}
