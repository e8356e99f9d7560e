//! How much a plugin may answer.
//!
//! An event must fit through the broker, which refuses messages over a size of its own, and it must be known to do so
//! before it is stored: an outcome that is stored and can never be published would be silence. Up: [`super::guard`], which
//! calls the plugin. Down: what the handlers make of the answer.

use metagov_sdk::{
    Effects, Error, Finished, Progress, StartedProcess, SteppedProcess,
    contract::{Problem, ProblemKind},
};
use serde_json::Value;

/// The most that one call may answer and emit, in bytes of JSON: as much as a command may bring. With the parameters and
/// a record around it, an event stays far below the 16 MiB that RabbitMQ 4 takes.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// What a plugin may answer with.
pub(super) trait Answer {
    /// The part of it that drivers are told.
    fn told(&self) -> Option<&Value>;
}

impl Answer for () {
    fn told(&self) -> Option<&Value> {
        None
    }
}

impl Answer for Value {
    fn told(&self) -> Option<&Value> {
        Some(self)
    }
}

impl Answer for StartedProcess {
    fn told(&self) -> Option<&Value> {
        outcome(&self.progress)
    }
}

impl Answer for SteppedProcess {
    fn told(&self) -> Option<&Value> {
        outcome(&self.progress)
    }
}

fn outcome(progress: &Progress<Value>) -> Option<&Value> {
    match progress {
        Progress::Unchanged => None,
        Progress::Updated(outcome) | Progress::Completed(outcome) => Some(outcome),
    }
}

/// An answer that is too large is a failure of the plugin, and nothing of it is kept.
pub(super) fn bounded<T: Answer>(finished: Finished<T>) -> Finished<T> {
    let told = finished.result.as_ref().ok().and_then(Answer::told);
    let emitted = finished.effects.events.iter().map(|event| &event.data);
    let bytes: usize = told.into_iter().chain(emitted).map(length).sum();
    if bytes <= LARGEST_ANSWER {
        return finished;
    }
    let detail = format!(
        "the plugin was called and answered, but with {bytes} bytes, and {LARGEST_ANSWER} is the most that can be told; \
         let it answer with less, or with an address where the rest is"
    );
    let problem = Problem::new(ProblemKind::InvalidOutput, detail);
    Finished { result: Err(Error::Failed(Box::new(problem))), effects: Effects::default() }
}

/// How long a value is as JSON.
fn length(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("counting never fails");
    count.0
}

#[cfg(test)]
mod tests {
    use metagov_sdk::contract::PlatformEvent;
    use serde_json::json;

    use super::*;

    fn answered(bytes: usize, emitted: usize) -> Finished<Value> {
        let data = json!("x".repeat(emitted.saturating_sub(2)));
        let events = vec![PlatformEvent { event_type: "said".to_owned(), data, initiator: None }];
        // With the quotes of a text.
        let result = Ok(json!("x".repeat(bytes.saturating_sub(2))));
        let finished = Finished { result, effects: Effects { state: None, events } };
        bounded(finished)
    }

    #[test]
    fn an_answer_that_would_not_fit_through_the_broker_is_a_failure_and_nothing_of_it_is_kept() {
        for (bytes, emitted) in [(LARGEST_ANSWER + 1, 2), (LARGEST_ANSWER / 2, LARGEST_ANSWER / 2 + 1)] {
            let Finished { result, effects } = answered(bytes, emitted);
            let Err(Error::Failed(problem)) = result else { panic!("{bytes} and {emitted} bytes were taken") };
            assert_eq!(problem.kind, ProblemKind::InvalidOutput);
            assert!(problem.detail.contains(&format!("{} bytes", bytes + emitted)), "{}", problem.detail);
            assert_eq!(effects, Effects::default());
        }
        let Finished { result, effects } = answered(LARGEST_ANSWER - 2, 2);
        assert!(result.is_ok() && effects.events.len() == 1, "as much as may be");
    }
}
