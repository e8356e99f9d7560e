//! Questions of one kind that go to the database together.
//!
//! While some are on their way the next ones gather, equal ones become one, and all of them go out at once. A lone question is
//! not delayed. An answer is never older than its question: a question joins only those that have not gone out yet, and no
//! answer is remembered.
//!
//! Called by [`super::Lookups`]. Calls the function that it was made with.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::store::StoreError;

/// What the database says to questions; a question without an answer finds nothing.
pub(super) type Answers<Q, A> = Result<HashMap<Q, A>, StoreError>;

type Answer<A> = Result<Option<A>, StoreError>;
type Ask<Q, A> = dyn Fn(Vec<Q>) -> BoxFuture<'static, Answers<Q, A>> + Send + Sync;

/// Questions of one kind.
pub(super) struct Together<Q, A> {
    shared: Arc<Shared<Q, A>>,
}

struct Shared<Q, A> {
    ask_database: Box<Ask<Q, A>>,
    waiting: Mutex<Waiting<Q, A>>,
}

struct Waiting<Q, A> {
    by_question: HashMap<Q, Vec<oneshot::Sender<Answer<A>>>>,
    /// Whether somebody is asking, and will ask these next.
    is_asking: bool,
}

impl<Q, A> Together<Q, A>
where
    Q: Eq + Hash + Clone + Send + Sync + 'static,
    A: Clone + Send + Sync + 'static,
{
    /// Questions that this function asks; it is given each question once.
    pub(super) fn new(ask: impl Fn(Vec<Q>) -> BoxFuture<'static, Answers<Q, A>> + Send + Sync + 'static) -> Self {
        let waiting = Waiting { by_question: HashMap::new(), is_asking: false };
        Self { shared: Arc::new(Shared { ask_database: Box::new(ask), waiting: Mutex::new(waiting) }) }
    }

    /// Asks a question, together with those that others ask; `None` where nothing is found.
    ///
    /// # Errors
    /// Of the database.
    pub(super) async fn ask(&self, question: Q) -> Answer<A> {
        let (sender, answer) = oneshot::channel();
        let begins = {
            let mut waiting = self.shared.waiting();
            waiting.by_question.entry(question).or_default().push(sender);
            !std::mem::replace(&mut waiting.is_asking, true)
        };
        if begins {
            // In a task of its own: the command that asked first may stop waiting, and the others must not.
            tokio::spawn(Arc::clone(&self.shared).ask_all());
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the program is shutting down".into())))
    }
}

impl<Q, A> Shared<Q, A>
where
    Q: Eq + Hash + Clone + Send + Sync + 'static,
    A: Clone + Send + Sync + 'static,
{
    async fn ask_all(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut waiting = self.waiting();
                if waiting.by_question.is_empty() {
                    waiting.is_asking = false;
                    return;
                }
                std::mem::take(&mut waiting.by_question)
            };
            let asked = (self.ask_database)(waiting.keys().cloned().collect());
            // A panic is the end of these questions and not of those that come later.
            let answers = tokio::spawn(asked).await;
            let answers = answers.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())));
            for (question, senders) in waiting {
                let answer = answers.as_ref().map(|answers| answers.get(&question).cloned());
                for sender in senders {
                    // An error is a command that has gone.
                    let _ = sender.send(answer.clone().map_err(Clone::clone));
                }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<Q, A>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::join_all};

    use super::*;

    fn doubled(questions: Vec<u32>) -> HashMap<u32, u32> {
        questions.into_iter().filter(|number| number % 2 == 0).map(|number| (number, number * 2)).collect()
    }

    #[tokio::test]
    async fn what_gathers_while_one_question_is_on_its_way_is_asked_at_once_and_equal_questions_are_one() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&asked);
        let questions = Together::new(move |questions: Vec<u32>| {
            note.lock().expect("nobody panicked").push(questions.len());
            async move { Ok(doubled(questions)) }.boxed()
        });
        let answers = join_all([2, 4, 4, 5, 2].map(|number| questions.ask(number))).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
        assert_eq!(answers, [Some(4), Some(8), Some(8), None, Some(4)]);
        assert_eq!(*asked.lock().expect("nobody panicked"), [3], "three questions of five, asked together");
        assert_eq!(questions.ask(2).await.expect("an answer"), Some(4));
        assert_eq!(asked.lock().expect("nobody panicked").len(), 2, "nothing is remembered");
    }

    #[tokio::test]
    async fn an_error_and_a_panic_are_the_answer_of_those_who_asked_and_the_next_question_is_asked() {
        let questions = Together::new(|questions: Vec<u32>| {
            async move {
                assert!(!questions.contains(&1), "a question that is too hard");
                if questions.contains(&3) {
                    Err(StoreError::Unavailable("away".into()))
                } else {
                    Ok(doubled(questions))
                }
            }
            .boxed()
        });
        assert!(questions.ask(1).await.is_err_and(|error| error.is_passing()));
        let both = join_all([3, 2].map(|number| questions.ask(number))).await;
        assert!(both.into_iter().all(|answer| answer.is_err()), "they were asked together");
        assert_eq!(questions.ask(2).await.expect("an answer"), Some(4));
    }
}
