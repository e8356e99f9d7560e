//! Steps: what a handler has finished is not done again, whatever becomes of its worker.

use metagov_sdk::contract::{MessageId, ProcessRecord, ProcessStatus};
use serde_json::json;

use crate::support::{Command, Received, World, poster, puppet, story, until, world::COMMUNITY};

fn start(tag: &str, post: &[&str], pin: &[&str]) -> Command {
    let parameters = json!({ "tag": tag, "post": post, "pin": pin });
    Command::new("process.poster.notice.start", &json!({ "community": COMMUNITY, "parameters": parameters }))
}

async fn with_poster(world: &World) {
    world.with_plugins(&json!([{ "name": "poster", "config": {} }])).await;
}

/// A notice whose time is over when it is put up.
async fn closing(world: &World, tag: &str, take_down: &[&str]) -> ProcessRecord {
    with_poster(world).await;
    let parameters = json!({ "tag": tag, "take_down": take_down, "is_over": true });
    let body = json!({ "community": COMMUNITY, "parameters": parameters });
    World::record(&world.tell("process.poster.notice.start", &body).await)
}

/// How it ended.
async fn ended(world: &World, record: &ProcessRecord) -> ProcessRecord {
    let is = |told: &Received| {
        told.event.event_type == "org.metagov.process.completed" && told.event.subject == Some(record.id.to_string())
    };
    World::record(&world.mail.wait_for(1, "the end", is).await.remove(0))
}

/// How many steps are kept for this command.
async fn kept(world: &World, command: &Command) -> usize {
    let id: MessageId = command.id().parse().expect("it is a key");
    world.store.steps(&World::community(), &id).await.expect("the database answers").len()
}

story! {
    async fn a_start_whose_worker_died_goes_on_after_what_it_has_finished(world: World) {
        with_poster(world).await;
        let tag = format!("died {}", world.prefix);
        let command = start(&tag, &[], &["hang", "answer"]);
        world.send(&command).await;
        until("the notice is being pinned", || poster::seen(&tag, "pin") == 1).await;
        assert_eq!(kept(world, &command).await, 1, "what is finished is kept before the next thing begins");
        world.crash().await;
        world.run_out(&command).await;
        world.start_worker().await;
        let told = world.answer(&command).await;
        assert_eq!(told.event.event_type, "org.metagov.process.started");
        assert_eq!(World::record(&told).outcome, json!(format!("{tag} post #1, {tag} pin #2")));
        assert_eq!((poster::seen(&tag, "post"), poster::seen(&tag, "pin")), (1, 2));
        let (post, pin) = (poster::keys(&tag, "post"), poster::keys(&tag, "pin"));
        assert!(pin[0] == pin[1] && pin[0] != post[0], "each step has one key for all its attempts: {post:?} {pin:?}");
        assert_eq!(kept(world, &command).await, 0, "steps go with the end of their command");
    }

    async fn a_retry_does_not_repeat_what_is_finished(world: World) {
        with_poster(world).await;
        for action in ["keyed-post", "unsafe-post", "idempotent-post"] {
            let tag = format!("{action} {}", world.prefix);
            let command = World::post(action, &tag, &[], &["retry", "answer"]);
            let told = world.ask(&command).await;
            assert_eq!(told.event.event_type, "org.metagov.action.completed", "{action}: {:?}", told.event.data);
            assert_eq!(told.event.data["output"], json!(format!("{tag} post #1, {tag} pin #2")));
            assert_eq!(told.event.data["attempts"], 2, "{action}");
            assert_eq!(kept(world, &command).await, 0, "{action}");
        }
        let tag = format!("start {}", world.prefix);
        let told = world.ask(&start(&tag, &[], &["retry", "answer"])).await;
        assert_eq!(World::record(&told).outcome, json!(format!("{tag} post #1, {tag} pin #2")));
        let tag = format!("start for good {}", world.prefix);
        let told = world.ask(&start(&tag, &[], &["retry"])).await;
        assert_eq!(told.event.event_type, "org.metagov.process.failed", "the attempts of a start are counted too");
        assert_eq!((poster::seen(&tag, "post"), poster::seen(&tag, "pin")), (1, 2));
    }

    async fn closing_a_process_has_steps_too(world: World) {
        with_poster(world).await;
        let tag = format!("closed {}", world.prefix);
        let parameters = json!({ "tag": tag, "take_down": ["retry", "answer"] });
        let body = json!({ "community": COMMUNITY, "parameters": parameters });
        let record = World::record(&world.tell("process.poster.notice.start", &body).await);
        let body = json!({ "community": COMMUNITY, "process_id": record.id });
        let closed = World::record(&world.tell("process.poster.notice.close", &body).await);
        assert_eq!(closed.status, ProcessStatus::Completed);
        assert_eq!(closed.outcome, json!(format!("{tag} thank #1, {tag} take-down #2")));
    }

    async fn what_the_clock_closes_is_closed_once_however_many_polls_it_takes(world: World) {
        let tag = format!("over {}", world.prefix);
        let record = closing(world, &tag, &["retry", "fail", "answer"]).await;
        let closed = ended(world, &record).await;
        assert_eq!(closed.outcome, json!(format!("{tag} thank #1, {tag} take-down #3")));
        let keys = poster::keys(&tag, "take-down");
        assert!(keys.iter().all(|key| *key == keys[0]), "one key for all its polls: {keys:?}");
        assert_eq!(world.rows().await[6], ("steps", 0), "its steps have gone with it");
    }

    async fn a_closing_by_the_clock_whose_worker_died_goes_on_after_what_it_has_finished(world: World) {
        let tag = format!("died closing {}", world.prefix);
        let record = closing(world, &tag, &["hang", "answer"]).await;
        until("the notice is being taken down", || poster::seen(&tag, "take-down") == 1).await;
        world.crash().await;
        world.sql("UPDATE inbox SET lease_until = '2000-01-01 00:00:00+00:00' WHERE status = 'running'").await;
        world.start_worker().await;
        let closed = ended(world, &record).await;
        assert_eq!(closed.outcome, json!(format!("{tag} thank #1, {tag} take-down #2")));
    }

    async fn an_idempotent_action_whose_worker_died_goes_on_too(world: World) {
        with_poster(world).await;
        let tag = format!("died {}", world.prefix);
        let command = World::post("idempotent-post", &tag, &[], &["hang", "answer"]);
        world.send(&command).await;
        until("the notice is being pinned", || poster::seen(&tag, "pin") == 1).await;
        world.crash().await;
        world.run_out(&command).await;
        world.start_worker().await;
        let told = world.answer(&command).await;
        assert_eq!(told.event.data["output"], json!(format!("{tag} post #1, {tag} pin #2")));
    }

    async fn an_attempt_that_needs_no_step_ends_the_one_that_had_some(world: World) {
        with_poster(world).await;
        let tag = format!("fickle {}", world.prefix);
        let body = json!({ "community": COMMUNITY, "parameters": { "tag": tag } });
        let command = Command::new("action.poster.fickle", &body);
        let told = world.ask(&command).await;
        assert_eq!(told.event.data["output"], "nothing is left to do", "{:?}", told.event.data);
        assert_eq!(kept(world, &command).await, 0);
    }

    async fn a_worker_that_lost_its_command_keeps_no_step_and_its_outcome_is_dropped(world: World) {
        with_poster(world).await;
        for (action, post) in [("keyed-post", ["wait", "answer"]), ("idempotent-post", ["wait", "answer"])] {
            let tag = format!("lost {action} {}", world.prefix);
            let command = World::post(action, &tag, &post, &[]);
            world.send(&command).await;
            until("the notice is being posted", || poster::seen(&tag, "post") == 1).await;
            // As if another worker had taken it over and given up.
            let taken = format!(
                "UPDATE inbox SET fence = fence + 1, lease_until = NULL WHERE message_id = '{}'",
                command.id()
            );
            world.sql(&taken).await;
            puppet::open_gate(&format!("{tag} post"));
            let told = world.answer(&command).await;
            assert_eq!(told.event.data["output"], json!(format!("{tag} post #2, {tag} pin #1")), "{action}");
            let outcomes = world.mail.all().into_iter().filter(|r| r.event.causationid == Some(command.id()));
            assert_eq!(outcomes.count(), 1, "{action}");
        }
    }

    async fn a_start_that_is_refused_leaves_its_answer_and_no_step(world: World) {
        with_poster(world).await;
        let before = world.rows().await;
        let tag = format!("refused {}", world.prefix);
        let command = start(&tag, &[], &["reject", "answer"]);
        let told = world.ask(&command).await;
        assert_eq!(told.event.event_type, "org.metagov.command.rejected");
        let answers = |table: &str| i64::from(matches!(table, "inbox" | "outbox"));
        for ((table, before), (_, after)) in before.iter().zip(&world.rows().await) {
            assert_eq!(after - before, answers(table), "{table}");
        }
        world.send(&command).await;
        let id = command.id();
        let told = world.mail.wait_for(2, "the same answer", |r| r.event.causationid.as_deref() == Some(&id)).await;
        assert_eq!(told[0].message.body, told[1].message.body);
        assert_eq!(poster::seen(&tag, "post"), 1);
    }

    async fn without_a_message_id_there_is_nothing_to_keep_a_step_with(world: World) {
        with_poster(world).await;
        let tag = format!("anonymous {}", world.prefix);
        let mut command = World::post("keyed-post", &tag, &[], &["retry", "answer"]);
        command.properties.message_id = None;
        command.properties.correlation_id = Some(tag.clone());
        world.send(&command).await;
        let is = |r: &Received| r.event.correlationid.as_deref() == Some(&tag);
        let told = world.mail.wait_for(1, "the outcome", is).await.remove(0);
        assert_eq!(told.event.data["output"], json!(format!("{tag} post #2, {tag} pin #2")));
    }
}
