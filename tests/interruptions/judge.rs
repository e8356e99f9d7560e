//! What must hold at the end, however often a worker was ended or refused.

use std::collections::BTreeSet;

use metagov::store::Store;
use metagov_sdk::contract::Event;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use crate::{heard::answers, play::Play, puppet};

/// How a schedule went.
pub(crate) struct Performance {
    /// Everything that a driver heard.
    pub(crate) events: Vec<Event>,
    /// How many dead letters there are.
    pub(crate) dead: usize,
    /// Whether a worker was ended, or stood still for so long that others took it for dead.
    pub(crate) deaths: bool,
}

/// Panics over a promise that was broken.
pub(crate) async fn judge(store: &Store, raw: &DatabaseConnection, play: &Play, performance: &Performance) {
    let Performance { events, dead, deaths } = performance;
    answers_are_final(play, events, *deaths);
    copies_are_the_same(events);
    assert_eq!(*dead, 0, "dead letters");
    calls_are_as_promised();

    let left = store.unpublished(std::time::Duration::ZERO, 10).await.expect("the database answers");
    assert!(left.is_empty(), "events are stored but not published: {left:?}");
    let polls = figure(raw, "SELECT json_extract(outcome, '$.polls') FROM processes").await;
    let of_refused = play.refused.as_ref().and_then(|id| answers(events).remove(id)).unwrap_or_default();
    let unknown = i64::from(of_refused.iter().any(|(kind, _)| kind == "action.uncertain"));
    // Polls that are written together are one change, and one event says so.
    let updated = answers(events).into_values().flatten().filter(|(kind, _)| kind == "process.updated").count();
    assert!(polls >= 1 && i64::try_from(updated).is_ok_and(|updated| updated <= polls), "{updated} of {polls} polls");
    let version = figure(raw, "SELECT version FROM processes").await;
    let sequences: BTreeSet<_> = events.iter().filter_map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=version).collect(), "a driver hears of every version of the process");
    let figures = [
        (
            "actions, each stored once",
            "SELECT COUNT(*) FROM action_runs WHERE status NOT IN ('running', 'retrying')",
            5 + unknown,
        ),
        ("actions without an end", "SELECT COUNT(*) FROM action_runs WHERE status IN ('running', 'retrying')", 0),
        ("keys without an end", "SELECT COUNT(*) FROM inbox WHERE status <> 'finished'", 0),
        // Community, six actions, start, webhook, conflict, close; each has its answer, a rejection too.
        ("keys", "SELECT COUNT(*) FROM inbox", 11 + polls),
        ("processes", "SELECT COUNT(*) FROM processes WHERE status = 'completed'", 1),
        ("votes that count", "SELECT json_extract(outcome, '$.votes') FROM processes", 1),
    ];
    for (what, sql, expected) in figures {
        assert_eq!(figure(raw, sql).await, expected, "{what}");
    }
}

fn answers_are_final(play: &Play, events: &[Event], deaths: bool) {
    let answers = answers(events);
    for (id, expected) in &play.expected {
        let answers: Vec<_> = answers[id].iter().collect();
        assert_eq!(answers.len(), expected.len(), "one final event id for each command: {answers:?}");
        for kinds in expected {
            assert!(answers.iter().any(|(kind, _)| kinds.contains(&kind.as_str())), "{answers:?}, not {kinds:?}");
        }
    }
    for id in [&play.dangerous, &play.refused].into_iter().flatten().filter(|_| !deaths) {
        let certain = answers[id].iter().all(|(kind, _)| kind != "action.uncertain");
        assert!(certain, "nobody died, and yet {:?}", answers[id]);
    }
}

fn copies_are_the_same(events: &[Event]) {
    let ids: BTreeSet<_> = events.iter().map(|event| event.id.to_string()).collect();
    let bodies: BTreeSet<_> = events.iter().map(|event| serde_json::to_string(event).expect("it is JSON")).collect();
    assert_eq!(bodies.len(), ids.len(), "an event that comes twice is the same event");
}

fn calls_are_as_promised() {
    let calls = puppet::calls();
    let keys = |kind| calls.keys().filter(|(of, _)| *of == kind).count();
    assert_eq!(keys("keyed"), 2, "keys at the platform, one for each keyed command: {calls:?}");
    assert!(calls.iter().all(|((kind, _), count)| *kind != "unsafe" || *count <= 1), "unsafe: {calls:?}");
}

async fn figure(raw: &DatabaseConnection, sql: &str) -> i64 {
    let statement = Statement::from_string(raw.get_database_backend(), sql);
    let row = raw.query_one_raw(statement).await.expect("the table is there").expect("one row");
    row.try_get_by_index(0).expect("a number")
}
