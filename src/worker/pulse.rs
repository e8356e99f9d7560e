//! The pulse: keeps the runtime awake while a handler blocks one of its threads.
//!
//! Of tokio's threads one waits for the network and the timers, the others wait to be woken. Where that one is handed a
//! handler that blocks, and nobody is woken at that moment, nobody waits for the network any more: every deadline and
//! every connection of the process stands still with one plugin. A wake-up from outside makes some idle thread look
//! around, and before it sleeps again it takes over the waiting. It ends no handler; that is what [`super::guard`] names
//! them for. Up: [`super::Worker`], which lives as long. Down: tokio's scheduler.

use std::{
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use tokio::runtime::Handle;

/// How long a blocked thread may stop the others.
const BEAT: Duration = Duration::from_millis(50);

/// Beats until it is dropped.
#[derive(Debug)]
pub(super) struct Pulse(#[expect(dead_code, reason = "what is held is what counts")] Arc<()>);

impl Pulse {
    /// Starts the pulse of the runtime that this is called on.
    ///
    /// # Errors
    /// Where the operating system has no thread for it.
    pub(super) fn start() -> std::io::Result<Self> {
        let life = Arc::new(());
        let alive: Weak<()> = Arc::downgrade(&life);
        let runtime = Handle::current();
        thread::Builder::new().name("pulse".to_owned()).spawn(move || {
            while alive.strong_count() > 0 {
                thread::sleep(BEAT);
                runtime.spawn(async {});
            }
        })?;
        Ok(Self(life))
    }
}
