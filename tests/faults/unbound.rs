//! Events that no queue is bound for: they are no error, and they are not lost.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    rig::{QUIET, Rig, Setup, Size},
    table::Row,
};

/// Nobody listens while commands are handled. Each event comes back, is kept with that mark, and is heard once somebody
/// listens and sends the command again.
pub(crate) async fn t16(rig: &mut Rig, size: Size) -> Row {
    const MARKED: &str = "SELECT COUNT(*) FROM outbox WHERE unrouted AND published_at IS NOT NULL \
        AND event_type = 'org.metagov.action.completed'";
    let count = size.of(1_000, 100);
    let mut service = rig.service(Setup::default()).await;
    let script = |calls: bool| json!({ "deeds": ["succeed"], "calls": calls });
    let commands = [("pure", script(false)), ("keyed", script(true))]
        .map(|(action, script)| service.commands(count / 2, action, &script))
        .concat();
    service.driver.listens(false).await;
    service.driver.send(&commands).await;
    let until = Instant::now() + QUIET;
    while service.sql(MARKED).await < count && Instant::now() < until {
        sleep(Duration::from_millis(100)).await;
    }
    let marked = service.sql(MARKED).await;
    let early = service.driver.answered(&commands);
    service.driver.listens(true).await;
    service.driver.send(&commands).await;
    let tally = service.settle(&commands, &["action.completed"]).await;
    let (keys, again) = (tally.keys, tally.extra_calls);
    Row::new("T16", format!("{count} commands while no queue is bound for events, then the same once more"))
        .counts(tally)
        .exactly("kept with the mark", marked, count)
        .exactly("heard while nobody listened", early, 0)
        .exactly("keys at the platform", keys, count / 2)
        .exactly("calls repeated", again, 0)
}
