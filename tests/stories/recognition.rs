//! A platform that is not sure delivers once more: each delivery counts once, whatever command brings it.

use metagov::bus::Queue;
use metagov_sdk::contract::Name;
use serde_json::json;
use uuid::Uuid;

use crate::{
    support::{Command, Received, World, story},
    webhooks::{TWO_VOTES, ballot, delivery, hook},
};

/// How many deliveries a crowd makes, each of them twice.
const CROWD: u64 = 150;

/// The same without a `message_id`.
fn nameless(mut command: Command) -> Command {
    command.properties.message_id = None;
    command
}

/// How many votes this process has counted once everything that was sent is done with.
async fn counted_in_the_end(world: &mut World, id: Uuid) -> u64 {
    let queue = Queue::Plugin(Name::new("puppet").expect("a name"));
    let taken = async {
        while world.driver.depth(&queue).await.expect("the broker tells").waiting > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), taken).await.expect("everything is taken");
    // In good order: what was taken is done with.
    world.stop().await;
    let stored = world.store.process(&World::community(), id).await.expect("it answers").expect("it is there");
    stored.record.outcome["votes"].as_u64().expect("a count")
}

async fn counted(world: &World, votes: u64) {
    let is = |r: &Received| r.event.data["outcome"]["votes"] == votes;
    world.mail.wait_for(1, "the votes", is).await;
}

story! {
    async fn a_delivery_counts_once_under_whatever_message_ids(world: World) {
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 99 })).await;
        let first = delivery(Some("7"), &json!([]));
        world.send(&first).await;
        counted(world, 2).await;
        world.send_all(&[first, delivery(Some("7"), &json!([])), nameless(delivery(Some("7"), &json!([])))]).await;
        world.send_all(&[nameless(delivery(Some("8"), &json!([]))), nameless(delivery(Some("8"), &json!([])))]).await;
        assert_eq!(counted_in_the_end(world, id).await, 4);
    }

    async fn a_delivery_without_an_id_is_recognised_by_its_body(world: World) {
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 99 })).await;
        let other = |mut command: Command| {
            let body = String::from_utf8(command.body.to_vec()).expect("text");
            command.body = body.replace(TWO_VOTES, "eyJ2b3RlcyI6IDN9").into();
            command
        };
        let headers = json!([["x-attempt", "2"]]);
        world.send_all(&[delivery(None, &json!([])), delivery(None, &headers), nameless(delivery(None, &json!([])))]).await;
        world.send_all(&[other(delivery(None, &json!([]))), nameless(other(delivery(Some(""), &headers)))]).await;
        assert_eq!(counted_in_the_end(world, id).await, 2 + 3);
    }

    async fn two_deliveries_under_one_message_id_both_count(world: World) {
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 99 })).await;
        let (one, mut other) = (hook(&json!([])), hook(&json!([])));
        other.properties.message_id.clone_from(&one.properties.message_id);
        world.send_all(&[one.clone(), other]).await;
        counted(world, 4).await;
        // Nor is it the key of anything else.
        let mut action = World::act("pure-act", "t", &["answer"]);
        action.properties.message_id = one.properties.message_id;
        world.send(&action).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.action.completed";
        world.mail.wait_for(1, "the action", completed).await;
        assert_eq!(counted_in_the_end(world, id).await, 4);
    }

    async fn one_delivery_to_two_instances_counts_at_each(world: World) {
        world.with_plugins(&json!([
            { "name": "puppet", "config": { "team": "T1" } }, { "name": "puppet", "config": { "team": "T2" } }
        ])).await;
        for team in ["T1", "T2"] {
            let body = json!({ "community": "acme", "community_platform_id": team, "parameters": { "quorum": 2 } });
            let id = World::record(&world.tell("process.puppet.ballot.start", &body).await).id;
            let mut command = delivery(Some("7"), &json!([]));
            let mut body: serde_json::Value = serde_json::from_slice(&command.body).expect("it is JSON");
            body["community_platform_id"] = json!(team);
            command.body = body.to_string().into();
            world.send(&command).await;
            let ended = |r: &Received| r.event.event_type == "org.metagov.process.completed" && World::record(r).id == id;
            world.mail.wait_for(1, "the vote", ended).await;
        }
    }

    async fn a_delivery_is_known_after_the_worker_that_counted_it_has_died(world: World) {
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 99 })).await;
        world.send(&delivery(Some("7"), &json!([]))).await;
        counted(world, 2).await;
        world.crash().await;
        world.start_worker().await;
        world.send(&delivery(Some("7"), &json!([]))).await;
        assert_eq!(counted_in_the_end(world, id).await, 2);
    }

    async fn a_crowd_of_which_each_delivers_twice_counts_each_once(world: World) {
        world.start_worker().await;
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 1_000_000 })).await;
        let ids: Vec<_> = (0..CROWD).map(|n| n.to_string()).collect();
        let once: Vec<_> = ids.iter().map(|id| delivery(Some(id), &json!([]))).collect();
        let again: Vec<_> = ids.iter().map(|id| delivery(Some(id), &json!([]))).collect();
        let mixed: Vec<_> = once.into_iter().zip(again).flat_map(|(one, other)| [one, other]).collect();
        world.send_all(&mixed).await;
        counted(world, 2 * CROWD).await;
        assert_eq!(counted_in_the_end(world, id).await, 2 * CROWD);
    }
}
