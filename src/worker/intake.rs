//! The intake of one queue: fetches, opens, lets the communities take turns, and parks what is over its share.
//!
//! One task owns the [`Shares`] of its queue, so that nothing is locked. A body is parsed here, once, for whose it is says
//! the body; one that is large is parsed on a thread of its own, one after the other, so that megabytes never hold up the
//! turn of anybody else. To park is to publish a copy to the delay ladder, to a step by which there is room for it
//! ([`super::bookings`]) and no shorter one the more often it was parked, and to acknowledge the delivery then: no attempt is
//! counted, and many go out in one publication. What was fetched and not begun when the worker
//! stops goes back to the queue.
//!
//! The order of one community's commands is kept but for what was parked and what is large; commands that build on one
//! another are sent when the other is answered, as ever. Up: `src/bus`. Down: [`super::settle`].

use std::{collections::VecDeque, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::{
    bookings::Bookings,
    envelope::{NONCE_HEADER, Opened, keep_expiry, open},
    settle::Settler,
    shares::{Limits, Next, Owner, Shares, Throttled},
};
use crate::{
    bus::{
        DelayStep, Deliveries, Delivery, Destination, Outgoing, Queue, SUSPECT_HEADER, THROTTLED_HEADER, has_expired,
    },
    config,
    telemetry::measures,
};

/// The largest body that is parsed between two deliveries: well under a millisecond.
const SMALL: usize = 16 * 1024;
/// How often it is looked after who is gone and who stands in the way.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// A delivery that was opened.
pub(super) struct Taken {
    /// The delivery.
    pub(super) delivery: Delivery,
    /// What was in it.
    pub(super) opened: Opened,
    /// How often it was parked.
    parked: u32,
}

/// How the handlers of one queue are shared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sharing {
    limits: Limits,
    prefetch: u16,
    rate: Option<Quota>,
}

impl Sharing {
    /// The shares of a queue of this plugin; without a plugin, of a queue of the service's own.
    pub(super) fn new(settings: &config::Worker, plugin: Option<&str>) -> Self {
        let slots = settings.concurrency_of(plugin);
        let prefetch = slots.saturating_mul(2);
        let (slots, fetched) = (usize::from(slots), usize::from(prefetch));
        let part = |of: usize| (of * usize::from(settings.community_share) / 100).max(1);
        // What is left of the prefetch is for deliveries on their way to be parked.
        let window = (fetched * 3 / 4).max(slots);
        let suspects = suspects_at_once(fetched).min(slots);
        let limits = Limits { slots, cap: part(slots), suspects, window, most: part(window) };
        let rate = NonZeroU32::new(settings.community_rate).filter(|_| plugin.is_some()).map(Quota::per_second);
        Self { limits, prefetch, rate }
    }

    /// How many deliveries are fetched ahead.
    pub(super) fn prefetch(&self) -> u16 {
        self.prefetch
    }
}

/// Of so many that may have been fetched, how many suspects run at once: the root, for then the first round, in which
/// these run together, and the second, in which those that died together run one by one, take about as long.
pub(super) fn suspects_at_once(fetched: usize) -> usize {
    fetched.isqrt().max(1)
}

type Rate = RateLimiter<Owner, HashMapStateStore<Owner>, DefaultClock>;

/// The intake of one queue.
pub(super) struct Intake {
    settler: Arc<Settler>,
    label: String,
    kind: &'static str,
    shares: Shares<Taken>,
    rate: Option<Rate>,
    clock: DefaultClock,
    tasks: TaskTracker,
    bookings: Bookings,
    /// Over their share, not yet published, with the step where each is to wait.
    over: Vec<(Taken, DelayStep)>,
    parking: Option<JoinHandle<()>>,
    large: VecDeque<Delivery>,
    opening: Option<JoinHandle<Taken>>,
    done: mpsc::UnboundedSender<Owner>,
    ended: mpsc::UnboundedReceiver<Owner>,
}

/// The place of a running handler; its end is told however it ends.
struct Place {
    owner: Option<Owner>,
    done: mpsc::UnboundedSender<Owner>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            // An error is an intake that has stopped.
            let _ = self.done.send(owner);
        }
    }
}

impl Intake {
    /// The intake of a queue of this kind; `label` is its plugin's name.
    pub(super) fn new(
        settler: Arc<Settler>,
        label: String,
        kind: &'static str,
        sharing: Sharing,
        tasks: TaskTracker,
    ) -> Self {
        let clock = DefaultClock::default();
        let rate = sharing.rate.map(|quota| RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()));
        let (done, ended) = mpsc::unbounded_channel();
        Self {
            settler,
            label,
            kind,
            shares: Shares::new(sharing.limits),
            rate,
            clock,
            tasks,
            bookings: Bookings::new(sharing.limits.cap),
            over: Vec::new(),
            parking: None,
            large: VecDeque::new(),
            opening: None,
            done,
            ended,
        }
    }

    /// Takes deliveries until `stop` is cancelled or there are none.
    pub(super) async fn run(mut self, mut deliveries: Deliveries, stop: CancellationToken) {
        let mut looks = interval(LOOK_AFTER);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Ok(owner) = self.ended.try_recv() {
                self.done(&owner);
            }
            let wait = self.start_all();
            self.park();
            self.open_large();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(owner) = self.ended.recv() => self.done(&owner),
                _ = ended(&mut self.parking) => self.parking = None,
                taken = ended(&mut self.opening) => {
                    self.opening = None;
                    // A parser that panicked has dropped its delivery, which comes again with its channel's end.
                    if let Ok(taken) = taken {
                        self.offer(taken);
                    }
                }
                _ = looks.tick() => self.look_after(),
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => self.take(delivery),
                    None => break,
                },
            }
        }
        self.give_back().await;
    }

    fn take(&mut self, delivery: Delivery) {
        metrics::counter!(measures::DELIVERIES, "queue" => self.kind).increment(1);
        if delivery.message.body.len() > SMALL {
            self.large.push_back(delivery);
        } else {
            let taken = read(delivery, &self.settler, self.kind);
            self.offer(taken);
        }
    }

    fn open_large(&mut self) {
        if self.opening.is_none()
            && let Some(delivery) = self.large.pop_front()
        {
            let (settler, kind) = (Arc::clone(&self.settler), self.kind);
            self.opening = Some(tokio::task::spawn_blocking(move || read(delivery, &settler, kind)));
        }
    }

    fn done(&mut self, owner: &Owner) {
        let now = Instant::now();
        self.shares.done(owner, now);
        self.bookings.done(owner, now);
    }

    fn offer(&mut self, taken: Taken) {
        let throttled = self.shares.offer(owner(&taken), taken.parked, taken, Instant::now());
        self.throttle(throttled);
    }

    fn look_after(&mut self) {
        let now = Instant::now();
        let throttled = self.shares.look_after(now);
        self.throttle(throttled);
        self.bookings.look_after(now);
        if let Some(rate) = &self.rate {
            rate.retain_recent();
        }
    }

    fn throttle(&mut self, throttled: Option<Throttled<Taken>>) {
        let Some(Throttled { owner, items, begins }) = throttled else { return };
        if begins {
            let queue = self.label.as_str();
            info!(queue, ?owner, "over its share: what is too much waits, and the others go on");
        }
        let parked = u64::try_from(items.len()).unwrap_or(u64::MAX);
        metrics::counter!(measures::THROTTLED, "plugin" => self.label.clone()).increment(parked);
        let now = Instant::now();
        self.over.extend(items.into_iter().map(|taken| {
            let step = self.bookings.book(&owner, now).max(step_after(taken.parked));
            (taken, step)
        }));
    }

    /// Starts whatever may run; says when to look again, where a rate holds somebody back.
    fn start_all(&mut self) -> Option<Duration> {
        loop {
            let (rate, clock) = (&self.rate, &self.clock);
            let next = self.shares.next(|owner| match rate {
                Some(rate) if *owner != Owner::Suspects => {
                    rate.check_key(owner).map_err(|until| until.wait_time_from(clock.now()))
                }
                _ => Ok(()),
            });
            match next {
                Next::Start(owner, taken) => {
                    self.bookings.started(&owner, Instant::now());
                    let place = Place { owner: Some(owner), done: self.done.clone() };
                    let settler = Arc::clone(&self.settler);
                    self.tasks.spawn(async move {
                        settler.settle(taken).await;
                        drop(place);
                    });
                }
                Next::Wait(wait) => return Some(wait),
                Next::Nobody => return None,
            }
        }
    }

    /// Publishes what has gathered, one batch at a time: while one is on its way, the next one grows.
    fn park(&mut self) {
        if self.over.is_empty() || self.parking.is_some() {
            return;
        }
        let batch = std::mem::take(&mut self.over);
        let settler = Arc::clone(&self.settler);
        self.parking = Some(self.tasks.spawn(async move {
            let copies = batch.iter().map(|(taken, step)| parked_copy(taken, *step)).collect();
            if settler.publish(copies).await {
                for (taken, _) in batch {
                    taken.delivery.receipt.ack();
                }
            }
        }));
    }

    async fn give_back(mut self) {
        let mut unbegun = self.shares.drain();
        unbegun.extend(self.over.drain(..).map(|(taken, _)| taken));
        if let Some(opening) = self.opening.take() {
            unbegun.extend(opening.await);
        }
        let unbegun = unbegun.into_iter().map(|taken| taken.delivery);
        for delivery in unbegun.chain(self.large.drain(..)) {
            delivery.receipt.give_back();
        }
    }
}

async fn ended<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

fn read(delivery: Delivery, settler: &Settler, queue: &'static str) -> Taken {
    let mut opened = open(&delivery.message, &settler.limits);
    let headers = &delivery.message.properties.headers;
    opened.envelope.suspect = delivery.redelivered || headers.contains_key(SUSPECT_HEADER);
    opened.envelope.last_chance = delivery.last_chance;
    if queue == Queue::Expired.kind() {
        opened.expired = has_expired(&delivery.message);
        // Something else ended it, after a wait in a delay queue, where everything expires: the broker has given it up.
        let given_up = !opened.expired;
        opened.envelope.suspect |= given_up;
        opened.envelope.last_chance |= given_up;
    }
    let parked = headers.get(THROTTLED_HEADER).and_then(|count| count.parse().ok()).unwrap_or(0);
    Taken { delivery, opened, parked }
}

/// A copy that says of itself to be suspect, as any driver could write it, has its community's turn like everything else.
fn owner(taken: &Taken) -> Owner {
    if taken.delivery.redelivered {
        return Owner::Suspects;
    }
    match &taken.opened.envelope.community {
        Some(community) => Owner::Community(community.clone()),
        None => taken.opened.platform_id().map_or(Owner::Unknown, |id| Owner::Platform(id.to_owned())),
    }
}

/// Where what was parked so often waits at least.
fn step_after(parked: u32) -> DelayStep {
    match parked {
        0..=4 => DelayStep::OneSecond,
        5..=8 => DelayStep::FiveSeconds,
        _ => DelayStep::ThirtySeconds,
    }
}

/// The copy that comes back later.
fn parked_copy(taken: &Taken, step: DelayStep) -> Outgoing {
    let mut message = taken.delivery.message.clone();
    keep_expiry(&mut message);
    let headers = &mut message.properties.headers;
    headers.insert(THROTTLED_HEADER.to_owned(), taken.parked.saturating_add(1).to_string());
    headers.insert(NONCE_HEADER.to_owned(), taken.opened.envelope.nonce().to_string());
    if taken.opened.envelope.suspect {
        // The broker forgets with this delivery that there was one before.
        headers.insert(SUSPECT_HEADER.to_owned(), true.to_string());
    }
    Outgoing { to: Destination::Delay(step), message }
}
