use metagov_sdk::contract::{CommunitySlug, ProcessRecord};
use serde_json::Value;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

fn now() -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000, 0).expect("a time")
}

fn process(poll_every: Option<Duration>, closes_at: Option<Timestamp>) -> Process {
    let name: Name = "p".parse().expect("a name");
    Process {
        record: ProcessRecord {
            id: Uuid::nil(),
            name: "p.p".into(),
            community: CommunitySlug::new("a").expect("a slug"),
            community_platform_id: None,
            status: ProcessStatus::Pending,
            url: None,
            parameters: Value::Null,
            outcome: Value::Null,
            errors: vec![],
            problem: None,
            initiator: None,
            callback_url: None,
            version: 1,
            created_at: now(),
            updated_at: now(),
            closes_at,
            closed_at: None,
        },
        plugin: name.clone(),
        process: name,
        instance_id: Uuid::nil(),
        state: Value::Null,
        poll_every,
        webhook_key: None,
        correlation_id: None,
    }
}

#[test]
fn the_first_look_is_at_the_interval_or_when_it_closes() {
    let soon = Some(now() + MINUTE / 2);
    let late = Some(now() + MINUTE * 2);
    assert_eq!(first(&process(None, None), now()), None);
    assert_eq!(first(&process(Some(MINUTE), None), now()), Some(now() + MINUTE));
    assert_eq!(first(&process(Some(MINUTE), soon), now()), soon);
    assert_eq!(first(&process(Some(MINUTE), late), now()), Some(now() + MINUTE));
    assert_eq!(first(&process(None, late), now()), late);
    let over = Some(now() - MINUTE);
    assert_eq!(first(&process(None, over), now()), over, "at once");
}

#[test]
fn a_process_that_was_claimed_to_be_closed_is_not_due_again_at_once() {
    let over = Some(now() - MINUTE);
    let claimed = after_claim(now(), None, over);
    assert_eq!(claimed, Some(now() + CLOSE_AGAIN));
    let before = Before { due_at: claimed, closes_at: over };
    assert_eq!(next(&process(None, over), before, now()), claimed, "closing it failed, and only its errors changed");
    assert_eq!(next(&process(Some(MINUTE), over), before, now()), claimed);
}

#[test]
fn a_claim_moves_to_the_next_interval_and_never_past_the_closing() {
    let soon = Some(now() + MINUTE / 2);
    assert_eq!(after_claim(now(), Some(MINUTE), None), Some(now() + MINUTE));
    assert_eq!(after_claim(now(), Some(MINUTE), soon), soon);
    assert_eq!(after_claim(now(), None, soon), soon, "nothing is to be done before");
    assert_eq!(after_claim(now(), Some(MINUTE), Some(now() - MINUTE)), Some(now() + MINUTE));
}

#[test]
fn a_change_moves_a_poll_nearer_but_never_off() {
    let coming = Before { due_at: Some(now() + MINUTE / 2), closes_at: None };
    assert_eq!(next(&process(Some(MINUTE), None), coming, now()), coming.due_at);
    assert_eq!(next(&process(Some(MINUTE / 4), None), coming, now()), Some(now() + MINUTE / 4));
    assert_eq!(next(&process(None, None), coming, now()), None, "it waits for nothing any more");
}

#[test]
fn a_new_closing_time_counts() {
    let before = Before { due_at: Some(now() + MINUTE), closes_at: Some(now() + MINUTE) };
    let later = Some(now() + MINUTE * 5);
    assert_eq!(next(&process(None, later), before, now()), later);
    let over = Some(now() - MINUTE);
    assert_eq!(next(&process(None, over), before, now()), over, "closed early: at once");
    let mut ended = process(Some(MINUTE), later);
    ended.record.status = ProcessStatus::Completed;
    assert_eq!(next(&ended, before, now()), None);
}
