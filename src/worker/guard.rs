//! Between a plugin and the worker: a deadline, and a net under panics.
//!
//! A handler runs in a task of its own, so that whatever it does ends as a value. Up: [`super::action`] and its
//! neighbours. Down: the plugin's code.

use std::time::Duration;

use metagov_sdk::{
    Error, Finished, Handling,
    contract::{Problem, ProblemKind},
};
use tokio::time::timeout;
use tracing::Instrument;

use crate::failpoint::failpoint;

/// How a call of a plugin ended.
#[derive(Debug)]
pub(super) enum Called<T> {
    /// The plugin answered, well or not.
    Answered(Finished<T>),
    /// It did not: it panicked, or ran out of time. What it did until then is not known.
    Cut(Box<Problem>),
}

impl<T> Called<T> {
    /// The answer, with a call that was cut taken for a failure.
    pub(super) fn into_finished(self) -> Finished<T> {
        match self {
            Self::Answered(finished) => finished,
            Self::Cut(problem) => {
                Finished { result: Err(Error::Failed(problem)), effects: metagov_sdk::Effects::default() }
            }
        }
    }
}

/// Calls a plugin.
pub(super) async fn guarded<T: Send + 'static>(handling: Handling<T>, deadline: Duration) -> Called<T> {
    let mut task = tokio::spawn(handling.in_current_span());
    let ended = timeout(deadline, &mut task).await;
    failpoint!("worker::called");
    match ended {
        Ok(Ok(finished)) => Called::Answered(finished),
        Ok(Err(_panic)) => {
            let detail = "the plugin crashed while it handled this; its operators find the reason in the log";
            Called::Cut(Box::new(Problem::new(ProblemKind::PluginPanicked, detail)))
        }
        Err(_elapsed) => {
            task.abort();
            let detail = format!("the plugin did not answer within {} s", deadline.as_secs_f64());
            Called::Cut(Box::new(Problem::new(ProblemKind::Timeout, detail)))
        }
    }
}
