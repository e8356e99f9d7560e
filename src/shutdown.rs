//! How a process ends: asked once it finishes its work, asked twice it goes at once.
//!
//! The *soft* token tells loops to take on nothing new, the *hard* token tells what still runs that its time is up. A
//! hard end loses nothing: what was not acknowledged is delivered again. This module knows no loop. Up: signals of the
//! operating system. Down: `src/app.rs`, which hands the tokens out and waits for the tasks.

use std::{
    future::Future,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The end of a process, shared by everything that has to know of it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

/// How the wait for the running tasks ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All of them finished.
    Completely,
    /// The time was up; this many were told to stop at once.
    Partly(usize),
}

impl Shutdown {
    /// A process that nobody has asked to end yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when nothing new may be taken on.
    #[must_use]
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Cancelled when what still runs has to stop where it is.
    #[must_use]
    pub fn hard(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// The tasks that are waited for.
    #[must_use]
    pub const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Asks for the end, as the first signal does.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Runs one of the process's loops. A loop that fails, or ends before the process was asked to, ends the process,
    /// and [`Shutdown::has_failed`] says so: half a process is worse than one that its platform starts again.
    pub fn supervise<F>(&self, name: &'static str, run: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = self.clone();
        self.tasks.spawn(async move {
            let result = tokio::spawn(run).await.unwrap_or_else(|panic| Err(panic.into()));
            match result {
                Ok(()) if shutdown.soft.is_cancelled() => return,
                Ok(()) => tracing::error!(role = name, "it ended although nobody asked it to"),
                Err(error) => tracing::error!(role = name, error = format!("{error:#}"), "it failed"),
            }
            shutdown.failed.store(true, Ordering::Relaxed);
            shutdown.begin();
        });
    }

    /// Whether the end began because something of ours failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Listens for SIGTERM and SIGINT: the first begins the end, the second is the end, with the exit code of that
    /// signal.
    ///
    /// # Errors
    /// Where the operating system refuses the handlers.
    pub fn listen(&self) -> std::io::Result<()> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = self.clone();
        tokio::spawn(async move {
            let code = shutdown.on_signals(terminate, interrupt).await;
            process::exit(code);
        });
        Ok(())
    }

    async fn on_signals(&self, mut terminate: Signal, mut interrupt: Signal) -> i32 {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("finishing what runs; a second signal ends it at once");
        self.begin();
        let code = either(&mut terminate, &mut interrupt).await;
        self.hard.cancel();
        code
    }

    /// Waits for the end to be asked for, then for the tasks, at most this long after the asking.
    pub async fn drained(&self, budget: Duration) -> Drained {
        self.soft.cancelled().await;
        self.tasks.close();
        let done = tokio::time::timeout(budget, self.tasks.wait()).await.is_ok();
        let left = self.tasks.len();
        self.hard.cancel();
        if done { Drained::Completely } else { Drained::Partly(left) }
    }
}

/// The exit code that says which signal ended a process: 128 and the signal's number.
async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> i32 {
    tokio::select! {
        _ = terminate.recv() => 128 + 15,
        _ = interrupt.recv() => 128 + 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_what_runs() {
        let shutdown = Shutdown::new();
        let soft = shutdown.soft();
        shutdown.supervise("loop", async move {
            soft.cancelled().await;
            Ok(())
        });
        shutdown.begin();
        assert_eq!(shutdown.drained(Duration::from_mins(1)).await, Drained::Completely);
        assert!(!shutdown.has_failed());
        assert!(shutdown.hard().is_cancelled());
    }

    #[tokio::test]
    async fn a_loop_that_ends_by_itself_ends_the_process_as_failed() {
        let shutdown = Shutdown::new();
        shutdown.supervise("loop", async { Ok(()) });
        assert_eq!(shutdown.drained(Duration::from_mins(1)).await, Drained::Completely);
        assert!(shutdown.has_failed());
    }

    #[tokio::test]
    async fn a_loop_that_panics_ends_the_process_as_failed() {
        let shutdown = Shutdown::new();
        shutdown.supervise("loop", async { panic!("on purpose") });
        assert_eq!(shutdown.drained(Duration::from_mins(1)).await, Drained::Completely);
        assert!(shutdown.has_failed());
    }

    #[tokio::test]
    async fn what_does_not_finish_in_time_is_told_to_stop() {
        let shutdown = Shutdown::new();
        let hard = shutdown.hard();
        let stuck = shutdown.tasks().spawn(async move { hard.cancelled().await });
        shutdown.begin();
        assert_eq!(shutdown.drained(Duration::ZERO).await, Drained::Partly(1));
        stuck.await.expect("the hard token ended it");
    }
}
