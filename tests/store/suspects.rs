//! Suspects: what has begun and not ended stays, until its command has an outcome.

use uuid::Uuid;

use crate::database::{Database, on_both};

on_both!(what_has_not_ended_is_counted_until_its_command_is_acquitted);

async fn what_has_not_ended_is_counted_until_its_command_is_acquitted(database: &Database) {
    let store = database.store().await;
    let (command, other) = (Uuid::new_v4(), Uuid::new_v4());
    let begin = async |command: Uuid| {
        let run = Uuid::now_v7();
        store.begin_suspect(command, run, "action.puppet.\0act").await.expect("the database answers");
        run
    };
    let count = async |command: Uuid| store.begun_and_not_ended(command).await.expect("the database answers");
    assert_eq!(count(command).await, 0);
    begin(command).await;
    let ended = begin(command).await;
    begin(other).await;
    assert_eq!(count(command).await, 2);
    store.end_suspect(ended).await.expect("the database answers");
    assert_eq!(count(command).await, 1);
    store.acquit(command).await.expect("the database answers");
    assert_eq!((count(command).await, count(other).await), (0, 1));
}
