//! Webhooks and ticks: what platforms tell, counted once and never unverified.

use metagov::config;
use metagov_sdk::contract::ProcessStatus;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Command, Received, World, story,
    world::{COMMUNITY, settings},
};

/// `{"votes": 2}` in base64.
pub(crate) const TWO_VOTES: &str = "eyJ2b3RlcyI6IDJ9";

/// A delivery of its own: two votes for whom it concerns.
pub(crate) fn hook(headers: &Value) -> Command {
    delivery(Some(&Uuid::new_v4().to_string()), headers)
}

/// What a platform sends under this id of its own, in a command of its own each time.
pub(crate) fn delivery(id: Option<&str>, headers: &Value) -> Command {
    let body = json!({
        "community": COMMUNITY,
        "delivery_id": id,
        "received_at": chrono::Utc::now(),
        "request": { "method": "POST", "path": "/hooks/puppet", "query": "", "headers": headers, "body_base64": TWO_VOTES }
    });
    Command::new("webhook.puppet", &body)
}

pub(crate) async fn ballot(world: &World, parameters: &Value) -> Uuid {
    let body = json!({ "community": COMMUNITY, "parameters": parameters });
    World::record(&world.tell("process.puppet.ballot.start", &body).await).id
}

story! {
    async fn a_vote_is_counted_with_the_webhook_that_brings_it(world: World) {
        world.with_puppet().await;
        let (one, other) = (
            ballot(world, &json!({ "quorum": 4, "key": "one" })).await,
            ballot(world, &json!({ "quorum": 4, "key": "other" })).await,
        );
        world.send(&hook(&json!([["X-Puppet-Ballot", "one"]]))).await;
        let updated = |r: &Received| r.event.event_type == "org.metagov.process.updated";
        let told = world.mail.wait_for(1, "the count", updated).await.remove(0);
        assert_eq!(World::record(&told).id, one);
        assert_eq!(told.event.data["outcome"]["votes"], 2);
        world.send(&hook(&json!([]))).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        let told = world.mail.wait_for(1, "the end", completed).await.remove(0);
        assert_eq!(World::record(&told).id, one, "a hook for every process reaches this one as well");
        let stored = world.store.process(&World::community(), other).await.expect("it answers").expect("it is there");
        assert_eq!((stored.record.status, &stored.record.outcome["votes"]), (ProcessStatus::Pending, &json!(2)));
    }

    async fn a_webhook_of_the_whole_platform_finds_its_community(world: World) {
        world.with_plugins(&json!([{ "name": "puppet", "config": { "team": "T1" } }])).await;
        let id = ballot(world, &json!({ "quorum": 2 })).await;
        let mut command = hook(&json!([]));
        let mut body: Value = serde_json::from_slice(&command.body).expect("it is JSON");
        body.as_object_mut().expect("an object").remove("community");
        body["community_platform_id"] = json!("T1");
        command.body = body.to_string().into();
        world.send(&command).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        let told = world.mail.wait_for(1, "the end", completed).await.remove(0);
        assert_eq!(World::record(&told).id, id);
        assert_eq!(told.event.causationid, Some(command.id()));
    }

    async fn a_process_that_cannot_take_a_webhook_costs_the_others_nothing(world: World) {
        world.with_puppet().await;
        let one = ballot(world, &json!({ "quorum": 9, "key": "one" })).await;
        let other = ballot(world, &json!({ "quorum": 9, "key": "other" })).await;
        world.send(&hook(&json!([["x-puppet-lost", "one"]]))).await;
        let updated = |r: &Received| r.event.event_type == "org.metagov.process.updated";
        let told = world.mail.wait_for(2, "both are told", updated).await;
        let record = |id| told.iter().map(World::record).find(|record| record.id == id).expect("each is told");
        assert_eq!(record(other).outcome["votes"], 2);
        assert_eq!(record(one).errors[0].detail, "the puppet lost a ballot");
    }

    async fn a_webhook_that_its_plugin_has_no_time_for_comes_again(world: World) {
        world.stop().await;
        world.start_worker_with(config::Worker { deadline_seconds: 2, ..settings() }).await;
        world.with_puppet().await;
        ballot(world, &json!({ "quorum": 2 })).await;
        world.send(&hook(&json!([["x-puppet-slow", world.prefix]]))).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        world.mail.wait_for(1, "the vote", completed).await;
    }

    async fn votes_that_come_together_are_all_counted(world: World) {
        world.start_worker().await;
        world.with_puppet().await;
        ballot(world, &json!({ "quorum": 40 })).await;
        for _ in 0..20 {
            world.send(&hook(&json!([]))).await;
        }
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        let told = world.mail.wait_for(1, "forty votes", completed).await.remove(0);
        assert_eq!(told.event.data["outcome"]["votes"], 40);
        // What the plugin kept at each vote is kept with it: 20 hooks, and the tick that came first or in between.
        let instances = world.store.instances(&World::community()).await.expect("it answers");
        let kept = instances[0].state.as_ref().and_then(Value::as_u64).expect("a count");
        assert!((20..=21).contains(&kept), "{kept}");
    }

    async fn a_tick_asks_the_platform_for_news(world: World) {
        world.with_puppet().await;
        let ticked = |r: &Received| r.event.data["data"]["text"] == "first tick";
        world.mail.wait_for(1, "the tick's event", ticked).await;
    }
}
