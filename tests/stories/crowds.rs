//! Crowds: many commands at once for one process, or for one plugin's state, at several workers.

use std::collections::BTreeSet;

use metagov_sdk::contract::ProcessStatus;
use serde_json::{Value, json};

use crate::{
    support::{Command, Received, World, story, world::COMMUNITY},
    webhooks::{ballot, hook},
};

/// How many commands come at once.
const CROWD: u64 = 300;

fn is_rejected(received: &Received) -> bool {
    received.event.event_type == "org.metagov.command.rejected"
}

/// What the plugin has counted, and its first tick with it.
async fn counted(world: &World) -> u64 {
    let instances = world.store.instances(&World::community()).await.expect("the database answers");
    instances[0].state.as_ref().and_then(Value::as_u64).expect("a count")
}

/// All of them run and count once, each on what the one before has made of the state.
async fn a_crowd_of(action: &str, world: &mut World) {
    world.start_worker().await;
    world.start_worker().await;
    world.with_puppet().await;
    let body = json!({ "community": COMMUNITY, "parameters": {} });
    let commands: Vec<_> = (0..CROWD).map(|_| Command::new(&format!("action.puppet.{action}"), &body)).collect();
    world.send_all(&commands).await;
    let ended = |r: &Received| is_rejected(r) || r.event.event_type.starts_with("org.metagov.action.");
    let ended = world.mail.wait_for(commands.len(), "an outcome for each", ended).await;
    for received in &ended {
        assert_eq!(received.event.event_type, "org.metagov.action.completed", "{}", received.event.data);
        assert_eq!(received.event.data["attempts"], 1, "a lost race is no attempt");
    }
    let outputs: BTreeSet<_> = ended.iter().filter_map(|received| received.event.data["output"].as_u64()).collect();
    assert_eq!(outputs.len(), commands.len(), "no two have counted from the same state");
    let kept = counted(world).await;
    assert!((CROWD..=CROWD + 1).contains(&kept), "{kept}");
}

story! {
    async fn a_crowd_of_votes_is_counted_to_the_last_one_and_told_in_a_few_events(world: World) {
        world.start_worker().await;
        world.start_worker().await;
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 2 * CROWD })).await;
        let votes: Vec<_> = (0..CROWD).map(|_| hook(&json!([]))).collect();
        world.send_all(&votes).await;
        let ended = |r: &Received| r.event.event_type == "org.metagov.process.completed" || is_rejected(r);
        let ended = world.mail.wait_for(1, "the end", ended).await.remove(0);
        assert_eq!(ended.event.data["outcome"]["votes"], 2 * CROWD, "{}", ended.event.data);
        assert_eq!(World::record(&ended).id, id);
        // What the plugin kept at each vote is kept with it.
        let kept = counted(world).await;
        assert!((CROWD..=CROWD + 1).contains(&kept), "{kept}");
        let version = ended.event.sequence.expect("a process event has one");
        let of_process = |r: &Received| r.event.event_type.starts_with("org.metagov.process.");
        let told = usize::try_from(version).expect("a small number");
        let told = world.mail.wait_for(told, "every version is told", of_process).await;
        let sequences: BTreeSet<_> = told.iter().filter_map(|received| received.event.sequence).collect();
        assert_eq!(sequences, (1..=version).collect(), "no version is left out, and none is told twice");
        assert!(version < i64::try_from(CROWD).expect("a small number") / 2, "{version} versions for {CROWD} votes");
    }

    async fn a_close_in_a_crowd_counts_exactly_what_was_accepted_before_it(world: World) {
        world.start_worker().await;
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 1_000_000, "closable": true })).await;
        let votes: Vec<_> = (0..CROWD).map(|_| hook(&json!([]))).collect();
        let (before, after) = votes.split_at(votes.len() / 2);
        world.send_all(before).await;
        let close = Command::new("process.puppet.ballot.close", &json!({ "community": COMMUNITY, "process_id": id }));
        world.send(&close).await;
        world.send_all(after).await;
        let told = world.answer(&close).await;
        assert_eq!(told.event.event_type, "org.metagov.process.completed", "{}", told.event.data);
        // One more that finds it closed, and everything before it is through.
        let stored = world.store.process(&World::community(), id).await.expect("it answers").expect("it is there");
        assert_eq!((stored.record.status, &stored.record.outcome), (ProcessStatus::Completed, &told.event.data["outcome"]));
        let counted = counted(world).await;
        let of_votes = stored.record.outcome["votes"].as_u64().expect("a number") / 2;
        assert!((of_votes..=of_votes + 1).contains(&counted), "{of_votes} in the outcome, {counted} by the plugin");
        assert!(world.mail.all().iter().all(|received| !is_rejected(received)), "no vote is refused");
    }

    async fn actions_that_change_one_state_all_count(world: World) {
        a_crowd_of("count", world).await;
    }

    async fn keyed_actions_that_change_one_state_all_count(world: World) {
        a_crowd_of("keyed-count", world).await;
    }
}
