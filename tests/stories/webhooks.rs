//! Webhooks and ticks: what platforms tell, counted once and never unverified.

use metagov::config;
use metagov_sdk::contract::ProcessStatus;
use serde_json::{Value, json};

use crate::support::{
    Command, Received, World, story,
    world::{COMMUNITY, settings},
};

/// `{"votes": 2}` in base64.
const TWO_VOTES: &str = "eyJ2b3RlcyI6IDJ9";

pub(crate) fn hook(delivery: Option<&str>, headers: &Value) -> Command {
    let body = json!({
        "community": COMMUNITY,
        "delivery_id": delivery,
        "received_at": chrono::Utc::now(),
        "request": { "method": "POST", "path": "/hooks/puppet", "query": "", "headers": headers, "body_base64": TWO_VOTES }
    });
    let mut command = Command::new("webhook.puppet", &body);
    if delivery.is_some() {
        command.properties.message_id = None;
    }
    command
}

pub(crate) async fn ballot(world: &World, parameters: &Value) -> uuid::Uuid {
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
        world.send(&hook(None, &json!([["X-Puppet-Ballot", "one"]]))).await;
        let updated = |r: &Received| r.event.event_type == "org.metagov.process.updated";
        let told = world.mail.wait_for(1, "the count", updated).await.remove(0);
        assert_eq!(World::record(&told).id, one);
        assert_eq!(told.event.data["outcome"]["votes"], 2);
        world.send(&hook(None, &json!([]))).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        let told = world.mail.wait_for(1, "the end", completed).await.remove(0);
        assert_eq!(World::record(&told).id, one, "a hook for every process reaches this one as well");
        let stored = world.store.process(&World::community(), other).await.expect("it answers").expect("it is there");
        assert_eq!((stored.record.status, &stored.record.outcome["votes"]), (ProcessStatus::Pending, &json!(2)));
    }

    async fn a_webhook_of_the_whole_platform_finds_its_community(world: World) {
        world.with_plugins(&json!([{ "name": "puppet", "config": { "team": "T1" } }])).await;
        let id = ballot(world, &json!({ "quorum": 2 })).await;
        let mut command = hook(Some("delivery 1"), &json!([]));
        let address = |key: &str, value: &str| {
            let mut body: Value = serde_json::from_slice(&command.body).expect("it is JSON");
            body.as_object_mut().expect("an object").remove("community");
            body[key] = json!(value);
            body.to_string()
        };
        let (known, unknown) = (address("community_platform_id", "T1"), address("community_platform_id", "T9"));
        command.properties.message_id = Some("hook-1".to_owned());
        command.body = unknown.into();
        let told = world.ask(&command).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/plugin-not-enabled");
        command.properties.message_id = Some("hook-2".to_owned());
        command.body = known.into();
        world.send(&command).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        let told = world.mail.wait_for(1, "the end", completed).await.remove(0);
        assert_eq!(World::record(&told).id, id);
        assert_eq!(told.event.causationid.as_deref(), Some("hook-2"));
    }

    async fn a_webhook_that_is_delivered_twice_is_counted_once(world: World) {
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 9 })).await;
        world.send(&hook(Some("delivery 1"), &json!([]))).await;
        world.send(&hook(Some("delivery 1"), &json!([]))).await;
        world.send(&hook(Some("delivery 2"), &json!([]))).await;
        let four = |r: &Received| r.event.data["outcome"]["votes"] == 4;
        let told = world.mail.wait_for(1, "four votes", four).await.remove(0);
        assert_eq!(World::record(&told).id, id);
        let stored = world.store.process(&World::community(), id).await.expect("it answers").expect("it is there");
        assert_eq!(stored.record.outcome["votes"], 4);
    }

    async fn a_webhook_that_makes_its_plugin_crash_is_answered_and_the_next_one_is_heard(world: World) {
        world.with_puppet().await;
        ballot(world, &json!({ "quorum": 2 })).await;
        let told = world.ask(&hook(None, &json!([["x-puppet-panic", "now"]]))).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/plugin-panicked");
        world.send(&hook(None, &json!([]))).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        world.mail.wait_for(1, "the vote", completed).await;
    }

    async fn a_webhook_that_no_process_can_take_is_refused_and_its_next_delivery_counts(world: World) {
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 2, "key": "one" })).await;
        // It looks at every webhook, and none is for it.
        ballot(world, &json!({ "quorum": 2, "key": "deaf" })).await;
        let mut lost = hook(Some("the vote"), &json!([["x-puppet-lost", "one"]]));
        world.send(&lost).await;
        let rejected = |r: &Received| r.event.event_type == "org.metagov.command.rejected";
        let told = world.mail.wait_for(1, "the rejection", rejected).await.remove(0);
        assert_eq!(told.event.event_type, "org.metagov.command.rejected");
        assert_eq!(told.event.data["problem"]["detail"], "the puppet lost a ballot");
        // The platform delivers it once more, now that its plugin is mended.
        lost.body = String::from_utf8(lost.body.to_vec()).expect("text").replace("x-puppet-lost", "x-puppet-kept").into();
        world.send(&lost).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        assert_eq!(World::record(&world.mail.wait_for(1, "the vote", completed).await.remove(0)).id, id);
    }

    async fn a_process_that_cannot_take_a_webhook_costs_the_others_nothing(world: World) {
        world.with_puppet().await;
        let one = ballot(world, &json!({ "quorum": 9, "key": "one" })).await;
        let other = ballot(world, &json!({ "quorum": 9, "key": "other" })).await;
        world.send(&hook(None, &json!([["x-puppet-lost", "one"]]))).await;
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
        world.send(&hook(None, &json!([["x-puppet-slow", world.prefix]]))).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        world.mail.wait_for(1, "the vote", completed).await;
    }

    async fn a_forged_webhook_counts_nothing(world: World) {
        world.with_plugins(&json!([{ "name": "puppet", "config": { "secret": "hunter2" } }])).await;
        let id = ballot(world, &json!({ "quorum": 9 })).await;
        for headers in [json!([]), json!([["x-puppet-secret", "guessed"]])] {
            let told = world.ask(&hook(None, &headers)).await;
            assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/invalid-signature");
        }
        let stored = world.store.process(&World::community(), id).await.expect("it answers").expect("it is there");
        assert_eq!(stored.record.outcome, Value::Null);
        world.send(&hook(None, &json!([["x-puppet-secret", "hunter2"]]))).await;
        let updated = |r: &Received| r.event.event_type == "org.metagov.process.updated";
        world.mail.wait_for(1, "the genuine vote", updated).await;
    }

    async fn votes_that_come_together_are_all_counted(world: World) {
        world.start_worker().await;
        world.with_puppet().await;
        ballot(world, &json!({ "quorum": 40 })).await;
        for _ in 0..20 {
            world.send(&hook(None, &json!([]))).await;
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

    async fn a_webhook_whose_body_is_not_base64_is_refused(world: World) {
        world.with_puppet().await;
        let mut command = hook(None, &json!([]));
        command.body = String::from_utf8(command.body.to_vec()).expect("text").replace(TWO_VOTES, "%%%").into();
        let told = world.ask(&command).await;
        assert_eq!(told.event.event_type, "org.metagov.command.rejected");
    }
}
