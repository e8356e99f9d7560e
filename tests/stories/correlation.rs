//! What belongs together: every event of a process is recognised by what started it, whatever has caused it.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    support::{Command, Received, World, story, world::COMMUNITY},
    webhooks::hook,
};

/// What the driver of these stories recognises its process by.
const OURS: &str = "vote 17";

/// Starts a process under a correlation id of the driver's own.
async fn start(world: &World, kind: &str, parameters: &Value) -> Uuid {
    let body = json!({ "community": COMMUNITY, "parameters": parameters });
    let mut start = Command::new(&format!("process.{kind}.start"), &body);
    start.properties.correlation_id = Some(OURS.to_owned());
    let told = world.ask(&start).await;
    assert_eq!(told.event.event_type, "org.metagov.process.started", "{}", told.event.data);
    assert_eq!(told.event.correlationid.as_deref(), Some(OURS));
    World::record(&told).id
}

/// The event that says this of a process. It belongs to the start; its cause comes back, which is another command.
async fn cause_of(world: &World, id: Uuid, kind: &str) -> String {
    let wanted = format!("org.metagov.process.{kind}");
    let is = |r: &Received| r.event.event_type == wanted && r.event.subject == Some(id.to_string());
    let told = world.mail.wait_for(1, &wanted, is).await.remove(0);
    assert_eq!(told.event.correlationid.as_deref(), Some(OURS), "{kind}");
    assert_eq!(told.message.properties.correlation_id.as_deref(), Some(OURS), "{kind}");
    told.event.causationid.expect("a cause")
}

story! {
    async fn what_a_poll_finds_belongs_to_the_start(world: World) {
        world.with_puppet().await;
        let script = json!({ "quorum": 9, "tag": world.prefix, "script": ["answer"] });
        let id = start(world, "puppet.ballot", &script).await;
        let cause = cause_of(world, id, "updated").await;
        assert!(cause.parse::<Uuid>().is_ok(), "the scheduler's poll has caused it: {cause}");
    }

    async fn what_the_clock_closes_belongs_to_the_start_and_names_the_poll_as_its_cause(world: World) {
        world.with_plugins(&json!([{ "name": "randomness", "config": { "default_low": 1, "default_high": 7 } }])).await;
        let a_day = json!({ "options": ["a", "b"], "delay": 60 * 24 });
        let id = start(world, "randomness.delayed-stochastic-vote", &a_day).await;
        let stored = world.store.process(&World::community(), id).await.expect("it answers").expect("it is there");
        let due_at = stored.record.closes_at.expect("a time");
        let body = json!({ "community": COMMUNITY, "process_id": id, "due_at": due_at });
        let poll = Command::new("poll.randomness.delayed-stochastic-vote", &body);
        world.send(&poll).await;
        assert_eq!(cause_of(world, id, "completed").await, poll.id());
    }

    async fn what_a_webhook_counts_belongs_to_the_start(world: World) {
        world.with_puppet().await;
        let id = start(world, "puppet.ballot", &json!({ "quorum": 4 })).await;
        let vote = hook(&json!([]));
        world.send(&vote).await;
        assert_eq!(cause_of(world, id, "updated").await, vote.id());
    }

    async fn what_a_driver_closes_belongs_to_the_start_and_answers_the_close(world: World) {
        world.with_puppet().await;
        let id = start(world, "puppet.ballot", &json!({ "quorum": 1, "closable": true })).await;
        let body = json!({ "community": COMMUNITY, "process_id": id });
        let mut close = Command::new("process.puppet.ballot.close", &body);
        close.properties.correlation_id = Some("my close".to_owned());
        close.properties.reply_to = Some(world.reply_queue.clone());
        world.send(&close).await;
        assert_eq!(cause_of(world, id, "completed").await, close.id());
        // Whoever waits for the reply knows its command.
        let reply = world.replies.wait_for(1, "the reply", |_| true).await.remove(0);
        assert_eq!(reply.message.properties.correlation_id.as_deref(), Some("my close"));
        assert_eq!(reply.event.correlationid.as_deref(), Some(OURS), "it is the same event, byte for byte");
    }

    async fn what_ends_with_its_plugin_or_community_belongs_to_the_start(world: World) {
        world.with_puppet().await;
        let id = start(world, "puppet.ballot", &json!({ "quorum": 1 })).await;
        let disable = Command::new("plugin.puppet.disable", &json!({ "community": COMMUNITY }));
        world.send(&disable).await;
        assert_eq!(cause_of(world, id, "failed").await, disable.id());

        world.with_puppet().await;
        let id = start(world, "puppet.ballot", &json!({ "quorum": 1 })).await;
        let delete = Command::new("community.delete", &json!({ "slug": COMMUNITY }));
        world.send(&delete).await;
        assert_eq!(cause_of(world, id, "failed").await, delete.id());
    }

    async fn a_process_that_a_version_before_has_started_goes_on_as_it_was(world: World) {
        world.with_puppet().await;
        let id = start(world, "puppet.ballot", &json!({ "quorum": 4 })).await;
        world.sql("UPDATE processes SET correlation_id = NULL").await;
        let vote = hook(&json!([]));
        world.send(&vote).await;
        let updated = |r: &Received| r.event.event_type == "org.metagov.process.updated";
        let told = world.mail.wait_for(1, "the vote", updated).await.remove(0);
        assert_eq!(told.event.subject, Some(id.to_string()));
        assert_eq!(told.event.correlationid, Some(vote.id()));
    }
}
