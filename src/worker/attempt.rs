//! Attempts: whose writes count, how often a command was tried, and what of it is finished.
//!
//! Where a platform is touched, an attempt is on record *before* anything else is looked at, so that whatever happens
//! to community or config, what may have been done is not forgotten. What may simply be repeated is put on record only
//! at its first step. A worker that lost its attempt keeps no step, and its outcome is dropped. Up:
//! [`super::action`] and [`super::process`]. Down: the fence of [`Store::begin_attempt`](crate::store::Store), and the
//! plugin's steps.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use metagov_sdk::{
    Error, Keeping, StepKeeper, Steps,
    contract::{Name, Problem, ProblemKind},
};
use rand::Rng;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    envelope::Envelope,
    handle::{Detour, Handlers, Step, conflict},
    patience::Patience,
    rejection::MAY_HAVE_HAPPENED,
    serial::Turn,
    verdict::Verdict,
};
use crate::{
    failpoint::failpoint,
    store::{Begun, InboxEntry, Keep, KeptStep, NewAttempt, Unit},
};

/// Added to a handler's deadline before an attempt counts as dead: the commit takes time too.
const LEASE_MARGIN: Duration = Duration::from_secs(15);

/// Fences are drawn below this number: no two attempts at one command draw the same.
const FENCES: i64 = 1 << 62;

/// One attempt at a command.
#[derive(Clone)]
pub(super) struct Attempt {
    /// Which attempt it is, as far as the command itself says.
    told: u32,
    /// `None` where there is nothing to recognise the command by, or nothing worth it.
    record: Option<Arc<Record>>,
}

/// The attempt's place in the database.
struct Record {
    handlers: Handlers,
    entry: InboxEntry,
    new: NewAttempt,
    lease: Duration,
    fence: i64,
    held: OnceCell<Held>,
    /// Why the attempt is not ours after all.
    lost: Mutex<Option<Detour>>,
}

#[derive(Clone, Copy)]
struct Held {
    fence: i64,
    number: u32,
    died: bool,
}

impl Handlers {
    /// Begins an attempt, unless the command is finished or somebody else is at it.
    pub(super) async fn begin(&self, envelope: &Envelope, new: NewAttempt, deadline: Duration) -> Step<Attempt> {
        let attempt = self.attempt_of(envelope, new, deadline);
        if let Some(record) = &attempt.record {
            record.held.get_or_try_init(|| record.begin()).await?;
        }
        Ok(attempt)
    }

    /// An attempt that begins at its first step, for what may simply be repeated; at once where one has begun before.
    pub(super) async fn begin_at_first_step(
        &self,
        envelope: &Envelope,
        new: NewAttempt,
        deadline: Duration,
    ) -> Step<Attempt> {
        if self.unless_seen(envelope).await? {
            return self.begin(envelope, new, deadline).await;
        }
        Ok(self.attempt_of(envelope, new, deadline))
    }

    fn attempt_of(&self, envelope: &Envelope, new: NewAttempt, deadline: Duration) -> Attempt {
        let record = envelope.inbox().map(|entry| {
            Arc::new(Record {
                handlers: self.clone(),
                entry,
                new,
                lease: deadline + LEASE_MARGIN,
                fence: rand::rng().random_range(1..FENCES),
                held: OnceCell::new(),
                lost: Mutex::default(),
            })
        });
        Attempt { told: envelope.attempt, record }
    }

    /// Ends an attempt with what was decided: what is stored carries its fence, a retry may begin at once. Where the
    /// attempt was lost meanwhile, whatever was decided is dropped, for the command has another answer, or will have.
    /// A rejection counts once everything that was read in its turn is written.
    pub(super) async fn end(
        &self,
        envelope: &Envelope,
        attempt: &Attempt,
        turn: Option<&Turn>,
        mut decided: Step,
    ) -> Step {
        let Some((record, Held { fence, number, .. })) = attempt.ours()? else { return decided };
        let is_rejected = matches!(&decided, Ok(Verdict::Reject(_)) | Err(Detour::Verdict(Verdict::Reject(_))));
        if let (true, Some(turn)) = (is_rejected, turn)
            && !turn.is_confirmed().await
        {
            decided = Ok(Verdict::Rerun);
        }
        match decided {
            Ok(verdict) | Err(Detour::Verdict(verdict)) => match verdict {
                Verdict::Commit { mut unit, shared, problem } => {
                    unit.fence = Some(fence);
                    Ok(Verdict::Commit { unit, shared, problem })
                }
                Verdict::Reject(mut problem) => {
                    if number > 1 {
                        problem.detail.push_str(MAY_HAVE_HAPPENED);
                    }
                    Ok(match envelope.rejected((*problem).clone(), self.now()) {
                        Some(unit) => Verdict::Commit {
                            unit: Box::new(Unit { fence: Some(fence), ..unit }),
                            shared: None,
                            problem: Some(problem),
                        },
                        None => Verdict::Reject(problem),
                    })
                }
                Verdict::Done => self.give_up(record, fence, Keep::Nothing, Ok(Verdict::Done)).await,
                later @ (Verdict::Later { .. } | Verdict::Elsewhere(_)) => {
                    self.give_up(record, fence, Keep::ForRetry, Ok(later)).await
                }
                Verdict::Rerun => self.give_up(record, fence, Keep::ForRerun, Ok(Verdict::Rerun)).await,
                Verdict::Repeat(events) => Ok(Verdict::Repeat(events)),
            },
            // Nothing was called, or it may be called again; the next run must not take this one for dead.
            Err(Detour::Store(error)) => self.give_up(record, fence, Keep::ForRetry, Err(error.into())).await,
        }
    }

    /// Ends an attempt at what another command goes on with: what is finished stays so, whatever is decided about this
    /// one. Where the attempt was lost meanwhile, that is dropped.
    pub(super) async fn leave(&self, attempt: &Attempt, decided: Step) -> Step {
        match attempt.ours()? {
            Some((record, held)) => self.give_up(record, held.fence, Keep::ForRetry, decided).await,
            None => decided,
        }
    }

    async fn give_up(&self, record: &Record, fence: i64, keep: Keep, decided: Step) -> Step {
        if self.release(&record.entry, fence, keep).await? {
            return decided;
        }
        tracing::info!("another attempt took over; what was decided is dropped");
        Ok(find_out())
    }
}

/// Decides within an attempt. A plugin that panics where it is only asked something has decided, too: the attempt ends with
/// that answer, and not with its lease. Boxed, for what it awaits is large and is moved with each command.
pub(super) fn decide<'a>(deciding: impl Future<Output = Step> + Send + 'a) -> BoxFuture<'a, Step> {
    let decided = AssertUnwindSafe(deciding).catch_unwind();
    decided.map(|decided| decided.unwrap_or_else(|_panic| Ok(Verdict::reject(panicked())))).boxed()
}

/// The problem of a plugin that panicked outside of its handlers.
pub(super) fn panicked() -> Problem {
    let detail = "the plugin crashed while it looked at this; nothing was executed";
    Problem::new(ProblemKind::PluginPanicked, detail)
}

impl Attempt {
    /// The record of an attempt that has begun.
    ///
    /// # Errors
    /// Why it is not ours any more.
    fn ours(&self) -> Step<Option<(&Record, Held)>> {
        let Some(record) = &self.record else { return Ok(None) };
        if let Some(detour) = record.lost().take() {
            return Err(detour);
        }
        Ok(record.held.get().map(|held| (&**record, *held)))
    }

    /// An attempt that is on no record: nothing happens outside that could happen twice.
    pub(super) fn off_record(envelope: &Envelope) -> Self {
        Self { told: envelope.attempt, record: None }
    }

    /// Which attempt this is, from 1; those whose worker died count.
    pub(super) fn number(&self) -> u32 {
        self.held().map_or(self.told, |held| held.number.max(self.told))
    }

    /// Whether it has begun, so that others can see it.
    pub(super) fn has_begun(&self) -> bool {
        self.held().is_some()
    }

    /// Whether the attempt before this one died or hung in the middle, so that it may have acted.
    pub(super) fn is_after_a_death(&self) -> bool {
        self.held().is_some_and(|held| held.died)
    }

    /// Where the plugin keeps its finished steps.
    pub(super) fn steps(&self) -> Steps {
        self.record.clone().map_or_else(Steps::plain, |record| Steps::kept(record))
    }

    fn held(&self) -> Option<Held> {
        self.record.as_ref().and_then(|record| record.held.get().copied())
    }
}

impl Record {
    /// Asks until it is known whether the attempt has begun: what is committed and not answered has.
    async fn begin(&self) -> Step<Held> {
        let (store, mut patience) = (&self.handlers.store, Patience::new());
        let begun = loop {
            match store.begin_attempt(&self.entry, &self.new, self.fence, self.lease).await {
                Err(error) if error.is_passing() => {
                    self.handlers.trouble.met(&error);
                    patience.wait().await;
                }
                answer => break answer?,
            }
        };
        let held = match begun {
            Begun::Fresh { fence } => Held { fence, number: 1, died: false },
            Begun::Again { fence, attempts, died } => Held { fence, number: attempts, died },
            Begun::Running { until } => {
                let wait = (until - self.handlers.now()).to_std().unwrap_or_default();
                let after = wait.clamp(Duration::from_secs(1), Duration::from_secs(5));
                return Err(Detour::Verdict(Verdict::Later { after, asked: false, problem: None }));
            }
            Begun::Finished(events) => return Err(Detour::Verdict(Verdict::Repeat(events))),
            Begun::Conflict => return Err(conflict().into()),
        };
        failpoint!("worker::begun");
        Ok(held)
    }

    /// The fence of the attempt, which begins now if it has not begun.
    async fn fence(&self) -> Result<i64, Error> {
        self.held.get_or_try_init(|| self.begin()).await.map(|held| held.fence).map_err(|detour| self.lose(detour))
    }

    /// Notes that the attempt is not ours any more. The handler is told, and whatever it makes of that does not count.
    fn lose(&self, detour: Detour) -> Error {
        self.lost().get_or_insert(detour);
        Error::failed("the attempt ends here: the command is in other hands, or its steps cannot be kept")
    }

    /// Whoever took over has the word; a copy of the command finds out what they say.
    fn lose_to_another(&self) -> Error {
        tracing::info!("another attempt took over while a step ran; its result is dropped");
        self.lose(Detour::Verdict(find_out()))
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, Option<Detour>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn load(&self, name: &str) -> Result<Option<Value>, Error> {
        let fence = self.fence().await?;
        match Patience::new().insist(|| self.handlers.store.step(&self.entry, fence, name)).await {
            Ok(KeptStep::Finished(result)) => Ok(Some(result)),
            Ok(KeptStep::Unfinished) => Ok(None),
            Ok(KeptStep::LostFence) => Err(self.lose_to_another()),
            Err(error) => Err(self.lose(error.into())),
        }
    }

    async fn save(&self, name: &str, result: &Value) -> Result<(), Error> {
        let fence = self.fence().await?;
        match Patience::new().insist(|| self.handlers.store.save_step(&self.entry, fence, name, result)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.lose_to_another()),
            Err(error) => Err(self.lose(error.into())),
        }
    }
}

/// A copy of the command finds out what another attempt says.
fn find_out() -> Verdict {
    Verdict::Later { after: Duration::from_secs(1), asked: false, problem: None }
}

/// The handler's deadline is what ends the patience with a database that is away.
impl StepKeeper for Record {
    fn load<'a>(&'a self, name: &'a str) -> Keeping<'a, Option<Value>> {
        Box::pin(self.load(name))
    }

    fn save<'a>(&'a self, name: &'a str, result: Value) -> Keeping<'a, ()> {
        Box::pin(async move { self.save(name, &result).await })
    }
}

/// What is written down of an attempt that leaves no run: the start and the close of a process.
pub(super) fn without_run(envelope: &Envelope, plugin: &Name) -> NewAttempt {
    NewAttempt {
        run_id: envelope.derive("attempt"),
        plugin: plugin.clone(),
        action: None,
        effect: "keyed",
        initiator: None,
    }
}
