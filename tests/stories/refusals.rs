//! Refused webhooks: whatever strangers send, drivers hear nothing of it, and it costs no platform a delivery.

use metagov::telemetry::measures;
use metagov_sdk::contract::ProcessStatus;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    support::{Command, Received, World, story, world::COMMUNITY},
    webhooks::{TWO_VOTES, ballot, delivery, hook},
};

const REJECTED: &str = "org.metagov.command.rejected";

/// Sends a webhook that is refused: the problem, as it is told to whom the sender named. Drivers hear nothing.
async fn refused(world: &World, command: &Command) -> Value {
    let mut command = command.clone();
    command.properties.reply_to = Some(world.reply_queue.clone());
    world.send(&command).await;
    let id = command.id();
    let is = |r: &Received| r.event.causationid.as_deref() == Some(&id);
    let told = world.replies.wait_for(1, "the refusal", is).await.remove(0);
    assert_eq!(told.event.event_type, REJECTED, "{}", told.event.data);
    // What would have been published with the reply comes before what is published now.
    world.tell("community.apply", &json!({ "slug": COMMUNITY })).await;
    assert!(!world.mail.all().iter().any(is), "a refused webhook makes no event");
    told.event.data["problem"].clone()
}

/// How the votes in this process stand.
async fn votes(world: &World, id: Uuid) -> Value {
    let stored = world.store.process(&World::community(), id).await.expect("it answers").expect("it is there");
    stored.record.outcome["votes"].clone()
}

async fn counted(world: &World, votes: u64) {
    let is = |r: &Received| r.event.data["outcome"]["votes"] == votes;
    world.mail.wait_for(1, "the vote", is).await;
}

/// How many webhooks of this plugin were refused because it is not enabled.
fn strangers(plugin: &str) -> u64 {
    let line = format!("{}{{plugin=\"{plugin}\",reason=\"plugin-not-enabled\"}} ", measures::WEBHOOKS_REFUSED);
    let figures = measures::record().render();
    let found = figures.lines().find_map(|figure| figure.strip_prefix(&line));
    found.map_or(0, |count| count.parse().expect("a count"))
}

story! {
    async fn a_forged_webhook_counts_nothing_and_does_not_spend_the_delivery_that_it_names(world: World) {
        world.with_plugins(&json!([{ "name": "puppet", "config": { "secret": "hunter2" } }])).await;
        let id = ballot(world, &json!({ "quorum": 9 })).await;
        let rows = world.rows().await;
        let genuine = json!([["x-puppet-secret", "hunter2"]]);
        for headers in [json!([]), json!([["x-puppet-secret", "guessed"]])] {
            for forged in [delivery(Some("7"), &headers), delivery(None, &headers)] {
                let problem = refused(world, &forged).await;
                assert_eq!(problem["type"], "https://metagov.org/problems/invalid-signature");
            }
        }
        assert_eq!(votes(world, id).await, Value::Null);
        // The sentinels of this story are all that was kept.
        let kept = |rows: &[(&str, i64)], table: &str| rows.iter().find(|(name, _)| *name == table).expect("a table").1;
        assert_eq!(kept(&world.rows().await, "inbox"), kept(&rows, "inbox") + 4);

        world.send(&delivery(Some("7"), &genuine)).await;
        counted(world, 2).await;
        world.send(&delivery(None, &genuine)).await;
        counted(world, 4).await;
        // Who learns the id of a true delivery cannot have its events told once more either.
        let told = world.mail.all().len();
        for forged in [delivery(Some("7"), &json!([])), delivery(None, &json!([]))] {
            refused(world, &forged).await;
        }
        assert_eq!(world.mail.all().len(), told + 2, "the answers to the sentinels");
    }

    async fn a_webhook_for_nobody_is_counted_and_makes_no_event(world: World) {
        world.with_plugins(&json!([{ "name": "puppet", "config": { "team": "T1" } }])).await;
        let before = strangers("poster");
        let elsewhere = |key: &str, value: &str| {
            let mut command = hook(&json!([]));
            let mut body: Value = serde_json::from_slice(&command.body).expect("it is JSON");
            body.as_object_mut().expect("an object").remove("community");
            body[key] = json!(value);
            command.body = body.to_string().into();
            command
        };
        let problem = refused(world, &elsewhere("community_platform_id", "T9")).await;
        assert_eq!(problem["type"], "https://metagov.org/problems/plugin-not-enabled");
        let problem = refused(world, &elsewhere("community", "nowhere")).await;
        assert_eq!(problem["type"], "https://metagov.org/problems/unknown-community");
        let mut not_enabled = hook(&json!([]));
        "webhook.poster".clone_into(&mut not_enabled.routing_key);
        let problem = refused(world, &not_enabled).await;
        assert_eq!(problem["type"], "https://metagov.org/problems/plugin-not-enabled");
        assert!(strangers("poster") > before);
    }

    async fn a_webhook_that_makes_its_plugin_crash_is_refused_and_the_next_one_is_heard(world: World) {
        world.with_puppet().await;
        ballot(world, &json!({ "quorum": 2 })).await;
        let problem = refused(world, &hook(&json!([["x-puppet-panic", "now"]]))).await;
        assert_eq!(problem["type"], "https://metagov.org/problems/plugin-panicked");
        world.send(&hook(&json!([]))).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        world.mail.wait_for(1, "the vote", completed).await;
    }

    async fn a_webhook_that_no_process_can_take_is_refused_and_its_next_delivery_counts(world: World) {
        world.with_puppet().await;
        let id = ballot(world, &json!({ "quorum": 2, "key": "one" })).await;
        // It looks at every webhook, and none is for it.
        ballot(world, &json!({ "quorum": 2, "key": "deaf" })).await;
        let problem = refused(world, &delivery(Some("the vote"), &json!([["x-puppet-lost", "one"]]))).await;
        assert_eq!(problem["detail"], "the puppet lost a ballot");
        // The platform delivers it once more, now that its plugin is mended.
        world.send(&delivery(Some("the vote"), &json!([["x-puppet-kept", "one"]]))).await;
        let completed = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        let ended = World::record(&world.mail.wait_for(1, "the vote", completed).await.remove(0));
        assert_eq!((ended.id, ended.status), (id, ProcessStatus::Completed));
    }

    async fn what_is_no_webhook_is_its_senders_fault_and_answered(world: World) {
        world.with_puppet().await;
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut command = hook(&json!([]));
            let mut body: Value = serde_json::from_slice(&command.body).expect("it is JSON");
            change(&mut body);
            command.body = body.to_string().into();
            command
        };
        let broken = |body: &mut Value| {
            let text = body.to_string().replace(TWO_VOTES, "%%%");
            *body = serde_json::from_str(&text).expect("it is JSON");
        };
        let mut nobodys = hook(&json!([]));
        "webhook.nobody".clone_into(&mut nobodys.routing_key);
        let mut unusable = hook(&json!([]));
        unusable.properties.message_id = Some("two words".to_owned());
        let cases = [
            (Command { body: "{".into(), ..hook(&json!([])) }, "invalid-json"),
            (changed(&|body| body["surprise"] = json!(1)), "invalid-command"),
            (changed(&|body| _ = body.as_object_mut().expect("an object").remove("community")), "invalid-command"),
            (changed(&broken), "invalid-command"),
            (nobodys, "unknown-plugin"),
            (unusable, "invalid-property"),
        ];
        for (command, slug) in cases {
            let told = world.ask(&command).await;
            assert_eq!(told.event.event_type, REJECTED, "{slug}");
            assert_eq!(told.event.data["problem"]["type"], format!("https://metagov.org/problems/{slug}"));
        }
    }
}
