//! The group commit: the rows of many handled commands in one transaction.
//!
//! Up: the worker's committer. Down: the tables.

use super::{Committed, Store, StoreError, Unit};

impl Store {
    /// Writes the units in one transaction; the answers are in the order of the units.
    ///
    /// # Errors
    /// Passing trouble of the database that concerns them all: commit the same units again. Units that were written
    /// after all are then [`Committed::Repeated`].
    pub async fn commit(&self, units: Vec<Unit>) -> Result<Vec<Committed>, StoreError> {
        todo!()
    }
}
