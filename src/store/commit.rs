//! The group commit: the rows of many handled commands in one transaction.
//!
//! A transaction for each command costs four times what a batch costs, so the statements here are for all units at
//! once, and their number does not grow with the units that only add rows. Locks are taken in one order: keys,
//! communities, instances, processes, each sorted. A unit that fails its checks is left out; where a statement fails,
//! the whole is rolled back and the units go in one by one, so that one bad row never sinks its batch.
//!
//! Up: the worker's committer. Down: [`super::inbox`], [`super::locks`], [`super::changes`], [`super::runs`],
//! [`super::uncertain`], [`super::outbox`].

use std::{collections::HashSet, ops::Range, sync::Arc};

use sea_orm::DatabaseTransaction;

use super::{Committed, Store, StoreError, Unit, changes, inbox, locks, outbox, runs, uncertain};

/// How often a unit is tried that others keep from its rows.
const TRIES: usize = 2;

impl Store {
    /// Writes the units in one transaction; the answers are in the order of the units.
    ///
    /// Of two units with the same key, the second is answered from what the first has written.
    ///
    /// # Errors
    /// Passing trouble of the database that concerns them all: commit the same units again. Units that were written
    /// after all are then [`Committed::Repeated`].
    pub async fn commit(&self, units: Vec<Unit>) -> Result<Vec<Committed>, StoreError> {
        let mut answers: Vec<(usize, Committed)> = Vec::with_capacity(units.len());
        let mut waiting: Vec<(usize, Unit)> = units.into_iter().enumerate().collect();
        while !waiting.is_empty() {
            let (indices, round, later) = first_of_each_key(waiting);
            answers.extend(indices.into_iter().zip(self.commit_distinct(round.into()).await?));
            waiting = later;
        }
        answers.sort_unstable_by_key(|(index, _)| *index);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    async fn commit_distinct(&self, units: Arc<[Unit]>) -> Result<Vec<Committed>, StoreError> {
        match self.write(&units, 0..units.len()).await {
            Err(error) if error.may_be_one_unit() => {}
            all_or_none => return all_or_none,
        }
        let mut answers = Vec::with_capacity(units.len());
        for index in 0..units.len() {
            let answer = self.commit_alone(&units, index).await;
            if let Committed::Refused(error @ StoreError::Unavailable(_)) = &answer {
                // The database went away in the middle: what is written is written, the rest need not be tried.
                answers.resize(units.len(), Committed::Refused(error.clone()));
                break;
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    async fn commit_alone(&self, units: &Arc<[Unit]>, index: usize) -> Committed {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.write(units, index..index + 1).await {
                Err(StoreError::Contended(_)) if tries < TRIES => {}
                Err(StoreError::Constraint(_)) => return Committed::Stale,
                Err(error) => return Committed::Refused(error),
                Ok(mut answers) => return answers.remove(0),
            }
        }
    }

    async fn write(&self, units: &Arc<[Unit]>, range: Range<usize>) -> Result<Vec<Committed>, StoreError> {
        let units = Arc::clone(units);
        self.transaction(move |transaction| {
            Box::pin(async move {
                let units = &units[range];
                write(transaction, units).await
            })
        })
        .await
    }
}

async fn write(transaction: &DatabaseTransaction, units: &[Unit]) -> Result<Vec<Committed>, StoreError> {
    let mut verdicts: Vec<Option<Committed>> = vec![None; units.len()];
    inbox::insert(transaction, units, &mut verdicts).await?;
    inbox::check_fences(transaction, units, &mut verdicts).await?;

    let has_key: Vec<bool> = verdicts.iter().map(Option::is_none).collect();
    let rows = locks::lock(transaction, units, &mut verdicts).await?;
    let mut left_out = Vec::new();
    let mut live = Vec::with_capacity(units.len());
    for ((unit, verdict), has_key) in units.iter().zip(&verdicts).zip(has_key) {
        match verdict {
            None => live.push(unit),
            Some(_) if has_key && unit.fence.is_none() => left_out.extend(&unit.inbox),
            Some(_) => {}
        }
    }
    inbox::take_back(transaction, &left_out).await?;

    changes::apply(transaction, &live, &rows).await?;
    runs::insert(transaction, &live).await?;
    uncertain::insert(transaction, &live).await?;
    outbox::insert(transaction, &live).await?;
    inbox::finish(transaction, &live).await?;
    Ok(verdicts.into_iter().map(|verdict| verdict.unwrap_or(Committed::Stored)).collect())
}

type Numbered = Vec<(usize, Unit)>;

/// Parts the units into those with a key of their own and those whose key an earlier one has.
fn first_of_each_key(units: Numbered) -> (Vec<usize>, Vec<Unit>, Numbered) {
    let mut seen = HashSet::with_capacity(units.len());
    let (mut indices, mut first, mut later) =
        (Vec::with_capacity(units.len()), Vec::with_capacity(units.len()), vec![]);
    for (index, unit) in units {
        let entry = unit.inbox.as_ref();
        if entry.is_none_or(|entry| seen.insert((entry.community.clone(), entry.message_id.clone()))) {
            indices.push(index);
            first.push(unit);
        } else {
            later.push((index, unit));
        }
    }
    (indices, first, later)
}
