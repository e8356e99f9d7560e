//! Steps: what a handler has finished stays finished, whatever becomes of the rest of the call.
//!
//! A handler that does two things on a platform wraps each in [`Cx::step`](crate::Cx::step). The result of a finished
//! step is kept with the command, so that a retry, a redelivery or a crash goes on after it. Where results are kept is
//! no business of the SDK: the service has its database, the test kit its memory. Up: [`crate::Call`], which brings
//! the keeper. Down: [`StepKeeper`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Error, Result, contract::Name, schema::of_reader};

/// An answer of a [`StepKeeper`].
pub type Keeping<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Keeps the results of the finished steps of one command.
pub trait StepKeeper: Send + Sync {
    /// The result that is kept under this name; `None`: the step has not been finished.
    ///
    /// # Errors
    /// Where the call must go no further: somebody else has taken over its command.
    fn load<'a>(&'a self, name: &'a str) -> Keeping<'a, Option<Value>>;

    /// Keeps a result. It is safe from crashes once this returns.
    ///
    /// # Errors
    /// Where it was not kept; the call must go no further.
    fn save<'a>(&'a self, name: &'a str, result: Value) -> Keeping<'a, ()>;
}

/// What a call may do about steps.
#[derive(Clone, Default)]
pub struct Steps(Kind);

#[derive(Clone, Default)]
enum Kind {
    #[default]
    Plain,
    Kept(Arc<dyn StepKeeper>),
    Refused,
}

impl Steps {
    /// Steps whose results are kept here.
    #[must_use]
    pub fn kept(keeper: Arc<dyn StepKeeper>) -> Self {
        Self(Kind::Kept(keeper))
    }

    /// Steps that simply run: there is nothing to keep their results with.
    #[must_use]
    pub fn plain() -> Self {
        Self(Kind::Plain)
    }

    /// No steps: nothing in the call would be worth keeping.
    #[must_use]
    pub fn refused() -> Self {
        Self(Kind::Refused)
    }

    /// Runs one step, unless its result is kept. The answer is always the one that was read back, so that a first
    /// attempt sees what a second one would.
    pub(crate) async fn run<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let keeper = match &self.0 {
            Kind::Plain => return work.await,
            Kind::Kept(keeper) => keeper,
            Kind::Refused => {
                return Err(Error::failed(format!(
                    "the step '{name}' is in a pure action, which is repeated freely and keeps nothing; take the step \
                     away, or declare the effect that the action has"
                )));
            }
        };
        if let Some(kept) = keeper.load(name).await? {
            return read(name, &kept);
        }
        let result = serde_json::to_value(work.await?)?;
        keeper.save(name, result.clone()).await?;
        read(name, &result)
    }
}

fn read<T: DeserializeOwned>(name: &str, kept: &Value) -> Result<T> {
    T::deserialize(kept).map_err(|error| {
        let reason = of_reader(&error);
        Error::failed(format!("the kept result of the step '{name}' cannot be read back as its type: {reason}"))
    })
}

/// Takes a name for the one step that may have it.
pub(crate) fn claim(name: &str, taken: &mut BTreeSet<String>) -> Result<()> {
    Name::new(name).map_err(|error| Error::failed(format!("a step cannot be named '{name}': {error}")))?;
    if !taken.insert(name.to_owned()) {
        return Err(Error::failed(format!(
            "two steps of one call are named '{name}', and the second would get the result of the first; give each a \
             name of its own"
        )));
    }
    Ok(())
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Plain => "Steps(plain)",
            Kind::Kept(_) => "Steps(kept)",
            Kind::Refused => "Steps(refused)",
        })
    }
}

/// Keeps results for as long as the program runs: what the test kit has in place of a database.
#[derive(Debug, Default)]
pub struct MemorySteps(Mutex<BTreeMap<String, Value>>);

impl MemorySteps {
    /// The results of the steps that are finished, by name.
    #[must_use]
    pub fn finished(&self) -> BTreeMap<String, Value> {
        self.results().clone()
    }

    fn results(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StepKeeper for MemorySteps {
    fn load<'a>(&'a self, name: &'a str) -> Keeping<'a, Option<Value>> {
        Box::pin(async move { Ok(self.results().get(name).cloned()) })
    }

    fn save<'a>(&'a self, name: &'a str, result: Value) -> Keeping<'a, ()> {
        Box::pin(async move {
            self.results().insert(name.to_owned(), result);
            Ok(())
        })
    }
}
