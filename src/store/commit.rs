//! The group commit: the rows of many handled commands in one transaction.
//!
//! A transaction for each command costs four times what a batch costs, so the statements here are for all units at
//! once, and their number does not grow with the units that only add rows. Locks are taken in one order: keys,
//! communities, instances, processes, each sorted. Units that changed the same rows one after another are a group, which
//! is written whole or not at all. A unit that fails its checks, or needs a row that
//! somebody else keeps locked, is left out, with its group; where a statement fails, the
//! whole is rolled back and the groups go in one by one, so that one bad row never sinks its batch.
//!
//! Up: the worker's committer. Down: [`super::inbox`], [`super::locks`], [`super::changes`], [`super::runs`],
//! [`super::uncertain`], [`super::outbox`].

use std::{collections::HashSet, ops::Range, sync::Arc};

use sea_orm::{DatabaseTransaction, DbBackend};

use super::{
    Committed, Store, StoreError, Unit, changes, communities, inbox,
    locks::{self, OnLock},
    outbox, runs, uncertain,
};

impl Store {
    /// Writes the units in one transaction, each by itself; the answers are in the order of the units.
    ///
    /// # Errors
    /// As [`Self::commit_groups`].
    pub async fn commit(&self, units: Vec<Unit>) -> Result<Vec<Committed>, StoreError> {
        let groups = units.into_iter().map(|unit| vec![unit]).collect();
        Ok(self.commit_groups(groups).await?.into_iter().flatten().collect())
    }

    /// Writes groups of units in one transaction; the answers are in the order of the groups and their units.
    ///
    /// The units of a group are written together or not at all. Where one of them cannot be written it gets its own
    /// answer, and the others are [`Committed::Stale`]: they were made from what that one has made. No two units of a
    /// group may have one key. Of two groups with the same key, the second is answered from what the first has written.
    ///
    /// # Errors
    /// Passing trouble of the database that concerns them all: commit the same groups again. Units that were written
    /// after all are then [`Committed::Repeated`].
    pub async fn commit_groups(&self, groups: Vec<Vec<Unit>>) -> Result<Vec<Vec<Committed>>, StoreError> {
        self.commit_groups_on(groups, OnLock::Wait).await
    }

    /// The same for groups that met a locked row before: they are left out at once where it still is.
    ///
    /// # Errors
    /// As [`Self::commit_groups`].
    pub async fn commit_groups_unless_locked(&self, groups: Vec<Vec<Unit>>) -> Result<Vec<Vec<Committed>>, StoreError> {
        self.commit_groups_on(groups, OnLock::LeaveOut).await
    }

    async fn commit_groups_on(
        &self,
        groups: Vec<Vec<Unit>>,
        on_lock: OnLock,
    ) -> Result<Vec<Vec<Committed>>, StoreError> {
        let mut answers: Vec<(usize, Vec<Committed>)> = Vec::with_capacity(groups.len());
        let mut waiting: Numbered = groups.into_iter().enumerate().collect();
        while !waiting.is_empty() {
            let (indices, round, later) = first_of_each_key(waiting);
            answers.extend(indices.into_iter().zip(self.commit_distinct(round, on_lock).await?));
            waiting = later;
        }
        answers.sort_unstable_by_key(|(index, _)| *index);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    async fn commit_distinct(
        &self,
        groups: Vec<Vec<Unit>>,
        on_lock: OnLock,
    ) -> Result<Vec<Vec<Committed>>, StoreError> {
        let sizes: Arc<[usize]> = groups.iter().map(Vec::len).collect();
        let units: Arc<[Unit]> = groups.into_iter().flatten().collect();
        let mut written = self.write(&units, 0..units.len(), &sizes, on_lock).await;
        let has_one_lock = self.connections.writer.get_database_backend() == DbBackend::Sqlite;
        if matches!(written, Err(StoreError::Contended(_))) && !has_one_lock {
            // Somebody keeps a row for longer than it is waited for: the others do not wait for it once more.
            written = self.write(&units, 0..units.len(), &sizes, OnLock::LeaveOut).await;
        }
        match written {
            // SQLite's one lock is on all of it: none of them can go first.
            Err(error @ StoreError::Contended(_)) if has_one_lock => return Err(error),
            Err(error) if error.may_be_one_unit() => {}
            all_or_none => return Ok(in_groups(all_or_none?, &sizes)),
        }
        let mut answers = Vec::with_capacity(sizes.len());
        let mut first = 0;
        for (index, size) in sizes.iter().enumerate() {
            let answer = self.commit_alone(&units, first..first + size).await;
            first += size;
            if let Some(Committed::Refused(error @ StoreError::Unavailable(_))) = answer.first() {
                // The database went away in the middle: what is written is written, the rest need not be tried.
                answers.extend(sizes[index..].iter().map(|size| vec![Committed::Refused(error.clone()); *size]));
                break;
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    async fn commit_alone(&self, units: &Arc<[Unit]>, group: Range<usize>) -> Vec<Committed> {
        let size = group.len();
        match self.write(units, group, &[size].into(), OnLock::LeaveOut).await {
            Err(StoreError::Constraint(_)) => vec![Committed::Stale; size],
            Err(error) => vec![Committed::Refused(error); size],
            Ok(answers) => answers,
        }
    }

    async fn write(
        &self,
        units: &Arc<[Unit]>,
        range: Range<usize>,
        sizes: &Arc<[usize]>,
        on_lock: OnLock,
    ) -> Result<Vec<Committed>, StoreError> {
        let (units, sizes) = (Arc::clone(units), Arc::clone(sizes));
        self.transaction(move |transaction| {
            Box::pin(async move {
                let units = &units[range];
                write(transaction, units, &sizes, on_lock).await
            })
        })
        .await
    }
}

/// Writes units that lie in groups of these sizes, one after another.
async fn write(
    transaction: &DatabaseTransaction,
    units: &[Unit],
    sizes: &[usize],
    on_lock: OnLock,
) -> Result<Vec<Committed>, StoreError> {
    let mut verdicts: Vec<Option<Committed>> = vec![None; units.len()];
    outbox::recognise(transaction, units, &mut verdicts).await?;
    let taken_over = inbox::insert(transaction, units, &mut verdicts).await?;
    inbox::check_fences(transaction, units, &mut verdicts, on_lock).await?;

    let has_key: Vec<bool> = verdicts.iter().map(Option::is_none).collect();
    communities::check(transaction, units, &mut verdicts).await?;
    all_or_none(&mut verdicts, sizes);
    let rows = locks::lock(transaction, units, &mut verdicts, on_lock).await?;
    all_or_none(&mut verdicts, sizes);
    let (mut live, mut unfinished) = (Vec::with_capacity(units.len()), Vec::new());
    let (mut left_out, mut rejected) = (Vec::new(), Vec::new());
    for (index, (unit, verdict)) in units.iter().zip(&verdicts).enumerate() {
        let was_running = unit.fence.is_some() || taken_over.contains(&index);
        match verdict {
            None => {
                live.push(unit);
                unfinished.extend(was_running.then_some(unit));
            }
            Some(Committed::NoCommunity) => left_out.extend(&unit.inbox),
            Some(_) if has_key[index] && !was_running => left_out.extend(&unit.inbox),
            Some(_) => continue,
        }
        rejected.extend(unit.inbox.as_ref().filter(|_| unit.rejected));
    }
    inbox::take_back(transaction, &left_out).await?;
    runs::forget(transaction, &rejected).await?;

    changes::apply(transaction, &live, &rows).await?;
    runs::insert(transaction, &live).await?;
    uncertain::insert(transaction, &live).await?;
    outbox::insert(transaction, &live).await?;
    inbox::finish(transaction, &unfinished).await?;
    Ok(verdicts.into_iter().map(|verdict| verdict.unwrap_or(Committed::Stored)).collect())
}

/// Where a unit of a group is not written, the others have seen what will never be; or what will be later, where it only
/// has to wait.
fn all_or_none(verdicts: &mut [Option<Committed>], sizes: &[usize]) {
    let waits = |verdict: &Committed| matches!(verdict, Committed::Refused(error) if error.is_passing());
    let mut rest = verdicts;
    for size in sizes {
        let (group, others) = rest.split_at_mut(*size);
        if group.iter().any(Option::is_some) {
            let all_wait = group.iter().flatten().all(waits);
            for verdict in group {
                if all_wait {
                    verdict.get_or_insert_with(locks::contended);
                } else if verdict.as_ref().is_none_or(waits) {
                    *verdict = Some(Committed::Stale);
                }
            }
        }
        rest = others;
    }
}

fn in_groups(answers: Vec<Committed>, sizes: &[usize]) -> Vec<Vec<Committed>> {
    let mut answers = answers.into_iter();
    sizes.iter().map(|size| answers.by_ref().take(*size).collect()).collect()
}

type Numbered = Vec<(usize, Vec<Unit>)>;

/// Separates the groups whose keys are their own from those with a key that an earlier group has.
fn first_of_each_key(groups: Numbered) -> (Vec<usize>, Vec<Vec<Unit>>, Numbered) {
    let mut seen = HashSet::with_capacity(groups.len());
    let (mut indices, mut first, mut later) =
        (Vec::with_capacity(groups.len()), Vec::with_capacity(groups.len()), vec![]);
    for (index, group) in groups {
        let keys = || group.iter().filter_map(|unit| unit.inbox.as_ref());
        if keys().any(|entry| seen.contains(&(entry.community.clone(), entry.message_id.clone()))) {
            later.push((index, group));
        } else {
            seen.extend(keys().map(|entry| (entry.community.clone(), entry.message_id.clone())));
            indices.push(index);
            first.push(group);
        }
    }
    (indices, first, later)
}
