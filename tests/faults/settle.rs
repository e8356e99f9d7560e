//! The end of a scenario: waits until everything is answered and at its end, and counts.
//!
//! Up: scenarios, through [`Service`]. Down: [`crate::checker`], the driver's book, and the rows of the service.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    checker::{self, Stored, Tally},
    driver::Command,
    rig::{QUIET, Service},
    rows,
};

impl Service {
    /// Waits until so many commands are answered.
    ///
    /// # Panics
    /// Where nothing comes any more.
    pub(crate) async fn answered(&self, commands: &[Command], count: usize) {
        if !self.driver.wait_for(commands, count, QUIET).await {
            self.tell_lost(commands).await;
            panic!("{} of {count} are answered, and nothing came for {QUIET:?}", self.driver.answered(commands));
        }
    }

    /// Waits until everything is answered and every row is at its end, or until nothing comes any more; then counts.
    /// `allowed` are the kinds of outcome that are expected.
    pub(crate) async fn settle(&mut self, commands: &[Command], allowed: &[&str]) -> Tally {
        self.driver.wait_for(commands, commands.len(), QUIET).await;
        let until = Instant::now() + QUIET;
        let mut stored = self.stored().await;
        while stored.stuck + stored.unheard > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(250)).await;
            stored = self.stored().await;
        }
        for process in &mut self.processes {
            if process.has_died() {
                eprintln!("{} has ended although nobody asked it to", process.name);
                stored.stuck += 1;
            }
        }
        self.tell_lost(commands).await;
        checker::count(&self.driver.book(), commands, &self.platform.calls(), stored, allowed)
    }

    /// Says of some commands that have no answer how far they came.
    async fn tell_lost(&self, commands: &[Command]) {
        let unanswered: Vec<_> = {
            let book = self.driver.book();
            let is_lost = |command: &&Command| {
                book.entries.get(&command.id).is_some_and(|entry| entry.acknowledged && entry.answered.is_none())
            };
            commands.iter().filter(is_lost).map(|command| command.id.clone()).take(5).collect()
        };
        if unanswered.is_empty() {
            return;
        }
        let queues = ["plugin.puppet", "core", "unrouted", "dead", "driver"];
        let delays = ["delay.1s", "delay.5s", "delay.30s", "delay.2m", "delay.10m"];
        for queue in queues.into_iter().chain(delays) {
            let waiting = self.driver.waiting(&format!("{}.{queue}", self.prefix)).await;
            eprintln!("{queue}: {waiting} messages wait");
        }
        for id in unanswered {
            let keys = self.sql(&format!("SELECT COUNT(*) FROM inbox WHERE message_id = '{id}'")).await;
            let events = self.sql(&format!("SELECT COUNT(*) FROM outbox WHERE inbox_key = '{id}'")).await;
            eprintln!("no answer to {id}: {keys} rows in the inbox, {events} events");
        }
    }

    async fn stored(&self) -> Stored {
        const DUPLICATED: &str = "SELECT \
            (SELECT COUNT(*) FROM (SELECT 1 FROM action_runs WHERE message_id IS NOT NULL \
             GROUP BY community, message_id HAVING COUNT(*) > 1) AS runs) + \
            (SELECT COUNT(*) FROM (SELECT 1 FROM outbox WHERE last AND inbox_key IS NOT NULL \
             GROUP BY community, inbox_key HAVING COUNT(*) > 1) AS events)";
        const STUCK: &str = "SELECT \
            (SELECT COUNT(*) FROM inbox WHERE status <> 'finished') + \
            (SELECT COUNT(*) FROM action_runs WHERE status NOT IN ('completed', 'failed', 'uncertain')) + \
            (SELECT COUNT(*) FROM outbox WHERE published_at IS NULL)";
        let stuck = self.sql(STUCK).await;
        // What is not published yet cannot have been heard.
        let events = if stuck == 0 { rows::events(&self.database_url).await } else { Vec::new() };
        let unheard = self.driver.book().heard.missing(&events);
        Stored { duplicated: self.sql(DUPLICATED).await, stuck, unheard }
    }
}
