//! Who is next: the shares that communities have in the handlers of one queue.
//!
//! A pure, synchronous core: things are offered, started and done, and the time is given; it knows no messages. Each owner
//! has a lane, and the lanes take turns. Two bounds keep one lane from standing in the way of the others:
//!
//! * **Handlers.** No owner runs more than its cap, and none starts another while it runs more than the free handlers allow
//!   (in the proportion of the cap to what is left beside it). One busy owner alone reaches its cap; several share, and in
//!   any case some handlers stay free for an owner that comes anew. This is how switches share a buffer between ports
//!   (dynamic thresholds, Choudhury and Hahne 1998).
//! * **Memory.** What a consumer has fetched is a window onto a queue that is first in, first out: where one owner fills it,
//!   nobody behind is seen. An owner that holds more than its part of the window while others were seen lately gives its
//!   last things back, to be parked. One that is alone is not throttled, unless the window is full and nothing moves for
//!   [`PATIENCE_ALONE`]: then somebody may stand behind it.
//!
//! Within a lane things keep their order, but what was parked more often goes first: so whatever has waited long comes
//! through although its owner's flood goes on, for nothing younger can be parked as often.
//!
//! Up: [`super::intake`], which has the messages. Down: nothing.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

use metagov_sdk::contract::CommunitySlug;
use tokio::time::Instant;

/// How long an owner counts as present after its last thing was seen.
pub(super) const LATELY: Duration = Duration::from_secs(10);
/// How long the first of a lane waits in a full window before the lane is taken for slow, where others are about.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// The same where nobody else is.
pub(super) const PATIENCE_ALONE: Duration = Duration::from_secs(5);

/// Whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A community.
    Community(CommunitySlug),
    /// A platform's address, where the community is found out by the handler.
    Platform(String),
    /// Nobody can tell.
    Unknown,
    /// Whoever was in hand before when a worker died.
    Suspects,
}

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Handlers at once.
    pub(super) slots: usize,
    /// Of these, the most for one owner.
    pub(super) cap: usize,
    /// Of these, the most for suspects together.
    pub(super) suspects: usize,
    /// Things in memory, running ones included, before it counts as full.
    pub(super) window: usize,
    /// Of these, the most for one owner while others are about.
    pub(super) most: usize,
}

/// What is to be parked.
#[derive(Debug)]
pub(super) struct Throttled<T> {
    /// Whose they are.
    pub(super) owner: Owner,
    /// The things.
    pub(super) items: Vec<T>,
    /// Whether this begins a burst: nothing of this owner was parked since it last was within its share.
    pub(super) begins: bool,
}

/// The answer to who is next.
#[derive(Debug)]
pub(super) enum Next<T> {
    /// This one runs now; to be told [`Shares::done`].
    Start(Owner, T),
    /// Somebody may run after so long.
    Wait(Duration),
    /// Nobody may run before something is offered or done.
    Nobody,
}

/// The shares of one queue.
#[derive(Debug)]
pub(super) struct Shares<T> {
    limits: Limits,
    lanes: HashMap<Owner, Lane<T>>,
    /// Lanes with something waiting, each once; one that was emptied meanwhile is dropped when its turn comes.
    turns: VecDeque<Owner>,
    running: usize,
    held: usize,
    offered: u64,
}

#[derive(Debug)]
struct Lane<T> {
    running: usize,
    /// Parked most often first, then in the order of arrival.
    waiting: BTreeMap<(Reverse<u32>, u64), (Instant, T)>,
    has_turn: bool,
    seen: Instant,
    throttled: bool,
    slow_until: Option<Instant>,
}

impl<T> Lane<T> {
    fn new(now: Instant) -> Self {
        Self { running: 0, waiting: BTreeMap::new(), has_turn: false, seen: now, throttled: false, slow_until: None }
    }

    fn held(&self) -> usize {
        self.running + self.waiting.len()
    }
}

impl Limits {
    fn may_run(&self, owner: &Owner, running_of_owner: usize, running: usize) -> bool {
        if *owner == Owner::Suspects {
            return running_of_owner < self.suspects;
        }
        let free = self.slots - running;
        // Who runs something already never takes the last one, unless nothing is kept free at all.
        let proportional = running_of_owner * (self.slots - self.cap) < self.cap * free.saturating_sub(1);
        running_of_owner < self.cap && (running_of_owner == 0 || self.cap == self.slots || proportional)
    }
}

impl<T> Shares<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, lanes: HashMap::new(), turns: VecDeque::new(), running: 0, held: 0, offered: 0 }
    }

    /// Takes something in. What its owner holds too much of comes back: the last of its lane, which need not be this.
    pub(super) fn offer(&mut self, owner: Owner, parked: u32, item: T, now: Instant) -> Option<Throttled<T>> {
        self.offered += 1;
        self.held += 1;
        let lane = self.lanes.entry(owner.clone()).or_insert_with(|| Lane::new(now));
        lane.seen = now;
        lane.waiting.insert((Reverse(parked), self.offered), (now, item));
        if !lane.has_turn {
            lane.has_turn = true;
            self.turns.push_back(owner.clone());
        }
        let slow = lane.slow_until.is_some_and(|until| now < until);
        if lane.held() <= self.limits.most || !(slow || self.others(&owner) > 0) {
            return None;
        }
        self.cut(owner, self.limits.most)
    }

    /// The next one that may run. `allowed` says of an owner how long it must wait, where it must.
    pub(super) fn next(&mut self, mut allowed: impl FnMut(&Owner) -> Result<(), Duration>) -> Next<T> {
        let mut shortest: Option<Duration> = None;
        for _ in 0..self.turns.len() {
            if self.running >= self.limits.slots {
                break;
            }
            let Some(owner) = self.turns.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&owner) else { continue };
            if lane.waiting.is_empty() {
                lane.has_turn = false;
                continue;
            }
            if !self.limits.may_run(&owner, lane.running, self.running) {
                self.turns.push_back(owner);
                continue;
            }
            if let Err(wait) = allowed(&owner) {
                shortest = Some(shortest.map_or(wait, |shortest| shortest.min(wait)));
                self.turns.push_back(owner);
                continue;
            }
            let Some((_, (_, item))) = lane.waiting.pop_first() else { continue };
            lane.running += 1;
            self.running += 1;
            if lane.waiting.is_empty() {
                lane.has_turn = false;
                lane.throttled = false;
            } else {
                self.turns.push_back(owner.clone());
            }
            return Next::Start(owner, item);
        }
        shortest.map_or(Next::Nobody, Next::Wait)
    }

    /// One of this owner's has ended.
    pub(super) fn done(&mut self, owner: &Owner, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(owner).filter(|lane| lane.running > 0) {
            lane.running -= 1;
            lane.seen = now;
            self.running -= 1;
            self.held -= 1;
        }
    }

    /// From time to time: forgets who is gone, and takes what nobody gets past out of a full window.
    pub(super) fn look_after(&mut self, now: Instant) -> Option<Throttled<T>> {
        self.lanes.retain(|_, lane| lane.held() > 0 || lane.has_turn || now.duration_since(lane.seen) < LATELY);
        if self.held < self.limits.window {
            return None;
        }
        let longest = self.lanes.iter().max_by_key(|(_, lane)| lane.waiting.len());
        let (owner, since) =
            longest.and_then(|(owner, lane)| Some((owner.clone(), lane.waiting.values().next()?.0)))?;
        let others = self.others(&owner);
        let patience = if others > 0 { PATIENCE } else { PATIENCE_ALONE };
        if now.duration_since(since) < patience {
            return None;
        }
        if let Some(lane) = self.lanes.get_mut(&owner) {
            lane.slow_until = Some(now + LATELY);
        }
        self.cut(owner, self.limits.most.min(self.limits.window / (others + 1)))
    }

    /// Takes out everything that has not begun.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.turns.clear();
        let waiting: Vec<T> = self
            .lanes
            .values_mut()
            .flat_map(|lane| {
                lane.has_turn = false;
                std::mem::take(&mut lane.waiting).into_values().map(|(_, item)| item)
            })
            .collect();
        self.held -= waiting.len();
        waiting
    }

    /// How many other owners were seen lately. Suspects are nobody in particular.
    fn others(&self, owner: &Owner) -> usize {
        let not_others = [owner, &Owner::Suspects];
        let present = not_others.iter().filter(|known| self.lanes.contains_key(known)).count();
        self.lanes.len() - if *owner == Owner::Suspects { present.min(1) } else { present }
    }

    /// Takes the last of a lane's waiting things until it holds so many at most, or only runs.
    fn cut(&mut self, owner: Owner, to: usize) -> Option<Throttled<T>> {
        let Entry::Occupied(mut lane) = self.lanes.entry(owner) else { return None };
        let mut items = Vec::new();
        while lane.get().held() > to
            && let Some((_, (_, item))) = lane.get_mut().waiting.pop_last()
        {
            self.held -= 1;
            items.push(item);
        }
        if items.is_empty() {
            return None;
        }
        let begins = !std::mem::replace(&mut lane.get_mut().throttled, true);
        Some(Throttled { owner: lane.key().clone(), items, begins })
    }
}

#[cfg(test)]
#[path = "shares/tests.rs"]
mod tests;
