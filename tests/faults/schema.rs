//! The database is not as the migrations made it, or the service may not write to it any more, for a while and under load.
//! Nothing of it is a command's fault: all of them wait, and none is refused.

use std::time::Duration;

use sea_orm::{ConnectionTrait, Database};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    dead::dead_letters,
    mix::Mix,
    ready::{free_address, report, says},
    rig::{QUIET, Rig, Setup, Size},
    table::Row,
    workers::Role,
};

/// What an operator does, and undoes.
struct Trouble {
    take: &'static str,
    give: &'static str,
    /// Whether it lasts until it is undone; a statement that was prepared for another schema heals by itself.
    lasts: bool,
}

const TROUBLES: [Trouble; 4] = [
    Trouble { take: "ALTER TABLE outbox RENAME TO away", give: "ALTER TABLE away RENAME TO outbox", lasts: true },
    Trouble {
        take: "ALTER TABLE inbox RENAME COLUMN message_id TO away",
        give: "ALTER TABLE inbox RENAME COLUMN away TO message_id",
        lasts: true,
    },
    Trouble { take: "REVOKE pg_write_all_data FROM clerk", give: "GRANT pg_write_all_data TO clerk", lasts: true },
    Trouble {
        take: "ALTER TABLE inbox ALTER COLUMN routing_key TYPE varchar(1000); \
               ALTER TABLE plugin_instances ALTER COLUMN plugin TYPE varchar(1000)",
        give: "ALTER TABLE inbox ALTER COLUMN routing_key TYPE text; \
               ALTER TABLE plugin_instances ALTER COLUMN plugin TYPE text",
        lasts: false,
    },
];

/// A table and a column are renamed, a right is taken away, and prepared statements go stale, one after the other, while
/// commands come and a community lives on.
pub(crate) async fn t71(rig: &mut Rig, size: Size) -> Row {
    const PER_SECOND: u32 = 50;
    let time = size.of(Duration::from_mins(1), Duration::from_secs(2));
    let count = size.of(5_000, 300);
    // A superuser may do everything, whatever is taken from it.
    let clerk = "CREATE ROLE clerk LOGIN IN ROLE pg_read_all_data, pg_write_all_data";
    rig.database.sql(&[clerk]).expect("the rig may do everything there");
    let database_url = Some(rig.database.url.replace("postgres@", "clerk@"));
    let mut service = rig.service(Setup { schedulers: 1, database_url, ..Setup::default() }).await;
    let health = free_address();
    service.set("METAGOV__HEALTH__ADDRESS", Some(&health.to_string()));
    service.start(Role::Worker);
    says(health, 200, QUIET).await.expect("the worker becomes ready");
    let operator = Database::connect(&service.database_url).await.expect("the database answers");
    let operate = async |what: &str| operator.execute_unprepared(what).await.map(drop).expect("an operator may do it");

    let mixing = Mix::begin(rig, &service).await.go_on();
    let mut commands = Vec::new();
    let (mut noticed, mut goes_on, mut asked, mut called_ready) = (Some(Duration::ZERO), Duration::ZERO, 0, 0);
    for Trouble { take, give, lasts } in TROUBLES {
        let part = service.commands(count, "keyed", &json!({ "deeds": ["succeed"], "calls": true }));
        let sending = service.driver.send_at_in_background(PER_SECOND, &part);
        service.answered(&part, count / 10).await;
        let taken = Instant::now();
        operate(take).await;
        if lasts {
            noticed = noticed.max(says(health, 503, QUIET).await).filter(|_| noticed.is_some());
            while taken.elapsed() < time {
                asked += 1;
                called_ready += usize::from(report(health).await.is_some_and(|(said, _)| said == 200));
                sleep(Duration::from_millis(250)).await;
            }
        } else {
            // Each session has met it by then.
            let early = service.driver.answered(&part);
            service.answered(&part, (early + count / 4).min(count)).await;
        }
        let early = service.driver.answered(&part);
        operate(give).await;
        let given = Instant::now();
        service.answered(&part, (early + 1).min(count)).await;
        goes_on = goes_on.max(given.elapsed());
        sending.done().await;
        service.answered(&part, count).await;
        commands.extend(part);
    }
    let ready = says(health, 200, QUIET).await;
    let (tally, mixed) = mixing.end().await.settle(&mut service, &commands, &["action.completed"]).await;
    let (keys, sent, dead) = (tally.keys, commands.len(), dead_letters(rig, &service).await.len());
    let row = Row::new(
        "T71",
        format!("a table, a column and a right missing for {} s each, then plans that are stale", time.as_secs()),
    )
    .counts(tally)
    .exactly("keys at the platform", keys, sent)
    .exactly("dead letters", dead, 0)
    .within("not ready after", noticed, Duration::from_secs(5))
    .at_least("asked meanwhile", asked, 3)
    .exactly("answered that it is ready", called_ready, 0)
    .within("committing again after", goes_on, Duration::from_secs(15))
    .within("ready in the end", ready, Duration::from_secs(15));
    mixed.judge(row)
}
