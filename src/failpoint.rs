//! Places at which a test may end the process or put a refusal in the way: between two steps of a command's handling.
//!
//! Only with the feature `failpoints`; without it [`failpoint!`](crate::failpoint) is nothing at all. A process is armed
//! by the environment, `FAILPOINTS=worker::committed=99*off->return`, in the words of the crate `fail`:
//!
//! | action | at that passage |
//! |---|---|
//! | `return` | the process ends at once, as after `kill -9` |
//! | `return(freeze)` | the process stands still, as after `kill -STOP`, until somebody continues it |
//! | `return(halt)` | this task stands still for ever, until its runtime is dropped |
//! | `return(hold)` | this task stands still until `RELEASED` wakes it |
//! | `return(<text>)` | where the place can refuse it does so with this text; else nothing happens |
//!
//! Up: whoever marks a place. Down: `fail`.

/// Marks a place: `failpoint!("worker::committed")`. With a second argument it is one that can refuse: a function from
/// the text of the refusal to what is returned early.
macro_rules! failpoint {
    ($place:literal) => {
        #[cfg(feature = "failpoints")]
        let _ = $crate::failpoint::pass($place).await;
    };
    ($place:literal, $refusal:expr) => {
        #[cfg(feature = "failpoints")]
        if let Some(text) = $crate::failpoint::pass($place).await {
            return $refusal(text);
        }
    };
}
pub(crate) use failpoint;

/// Told when a place was not simply passed.
#[cfg(feature = "failpoints")]
pub static MET: tokio::sync::Notify = tokio::sync::Notify::const_new();

/// Lets go on what stands still at `return(hold)`.
#[cfg(feature = "failpoints")]
pub static RELEASED: tokio::sync::Notify = tokio::sync::Notify::const_new();

#[cfg(feature = "failpoints")]
thread_local! {
    /// Whether what runs on this thread passes every place unharmed.
    pub static SPARED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Arms the places that `FAILPOINTS` names, until what it returns is dropped.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn arm() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}

/// Passes a place; the text of a refusal where one is asked for.
#[cfg(feature = "failpoints")]
pub(crate) async fn pass(place: &str) -> Option<String> {
    if SPARED.get() {
        return None;
    }
    let text = action_at(place)?;
    MET.notify_one();
    match text.as_str() {
        "freeze" => freeze(),
        "halt" => std::future::pending::<()>().await,
        "hold" => RELEASED.notified().await,
        _ => return Some(text),
    }
    None
}

/// The kernel stops every thread of this process before `kill` is waited for.
#[cfg(feature = "failpoints")]
fn freeze() {
    let id = std::process::id().to_string();
    let stopped = std::process::Command::new("kill").args(["-STOP", &id]).status();
    assert!(stopped.is_ok_and(|status| status.success()), "this process cannot be stopped");
}

#[cfg(feature = "failpoints")]
fn action_at(place: &str) -> Option<String> {
    fail::fail_point!(place, |text: Option<String>| Some(text.unwrap_or_else(|| std::process::abort())));
    None
}
