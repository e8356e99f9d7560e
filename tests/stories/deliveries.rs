//! Deliveries: repeated, conflicting, without a key, answered to a queue, in numbers.

use std::collections::HashMap;

use metagov_sdk::contract::ProcessStatus;
use serde_json::json;

use crate::support::{Command, Received, World, puppet, story, world::COMMUNITY};

story! {
    async fn the_same_key_has_one_effect_and_one_event_id(world: World) {
        world.with_puppet().await;
        for effect in ["idempotent-act", "keyed-act", "unsafe-act"] {
            let tag = format!("once {} {effect}", world.prefix);
            let command = World::act(effect, &tag, &["answer"]);
            let first = world.ask(&command).await;
            world.send(&command).await;
            let id = command.id();
            let told = world
                .mail
                .wait_for(2, "both answers", |r| r.event.causationid.as_deref() == Some(&id))
                .await;
            assert_eq!(told[0].event, told[1].event, "the stored event is told again, byte for byte");
            assert_eq!(told[1].event.id, first.event.id);
            if effect != "idempotent-act" {
                assert_eq!(puppet::calls(&tag), 1, "{effect}");
            }
        }
    }

    async fn the_same_key_with_another_body_is_a_conflict(world: World) {
        world.with_puppet().await;
        for effect in ["pure-act", "keyed-act"] {
            let command = World::act(effect, &format!("a {}", world.prefix), &["answer"]);
            let first = world.ask(&command).await;
            let mut other = World::act(effect, &format!("b {}", world.prefix), &["answer"]);
            other.properties.message_id.clone_from(&command.properties.message_id);
            world.send(&other).await;
            let id = command.id();
            let told = world
                .mail
                .wait_for(1, "the conflict", |r| {
                    r.event.causationid.as_deref() == Some(&id) && r.event.event_type.ends_with(".rejected")
                })
                .await
                .remove(0);
            assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/conflict");
            assert_ne!(told.event.id, first.event.id);
        }
    }

    async fn what_was_done_stays_done_when_its_plugin_is_gone(world: World) {
        world.with_puppet().await;
        for effect in ["pure-act", "keyed-act", "unsafe-act"] {
            let command = World::act(effect, &format!("done {} {effect}", world.prefix), &["answer"]);
            let first = world.ask(&command).await;
            world.tell("plugin.puppet.disable", &json!({ "community": COMMUNITY })).await;
            world.send(&command).await;
            let id = command.id();
            let told = world
                .mail
                .wait_for(2, "the second answer", |r| r.event.causationid.as_deref() == Some(&id))
                .await;
            assert_eq!(told[1].event, first.event, "{effect}");
            world.with_puppet().await;
        }
    }

    async fn the_same_key_in_two_communities_is_two_commands(world: World) {
        world.with_puppet().await;
        let others = json!({ "slug": "others", "plugins": [{ "name": "puppet", "config": {} }] });
        world.tell("community.apply", &others).await;
        let command = World::act("pure-act", "here", &["answer"]);
        let here = world.ask(&command).await;
        let body = json!({ "community": "others", "parameters": { "tag": "there", "script": [] } });
        let mut there = Command::new("action.puppet.pure-act", &body);
        there.properties.message_id.clone_from(&command.properties.message_id);
        world.send(&there).await;
        let told = world.mail.wait_for(1, "the other", |r| r.event.community == "others" && r.event.event_type.ends_with("action.completed")).await;
        assert_ne!(told[0].event.id, here.event.id);
    }

    async fn a_command_without_a_key_is_handled(world: World) {
        world.with_puppet().await;
        for effect in ["pure-act", "unsafe-act"] {
            let mut command = World::act(effect, &format!("anonymous {effect}"), &["answer"]);
            command.properties.message_id = None;
            command.properties.correlation_id = Some(format!("anonymous {effect}"));
            world.send(&command).await;
            let told = world
                .mail
                .wait_for(1, "its outcome", |r| r.event.correlationid == command.properties.correlation_id)
                .await
                .remove(0);
            assert_eq!(told.event.event_type, "org.metagov.action.completed");
            assert_eq!(told.event.causationid, None);
        }
    }

    async fn the_answer_also_goes_to_the_queue_that_asked(world: World) {
        world.with_puppet().await;
        let mut commands = vec![
            World::act("pure-act", "replied", &["answer"]),
            World::act("pure-act", "refused", &["reject"]),
            Command::new("process.puppet.ballot.start", &json!({ "community": COMMUNITY, "parameters": { "quorum": 0 } })),
            Command::raw("action.puppet.pure-act", "not json"),
            Command::new("community.apply", &json!({ "slug": "third" })),
        ];
        for command in &mut commands {
            command.properties.reply_to = Some(world.reply_queue.clone());
            command.properties.correlation_id = Some(format!("reply to {}", command.id()));
            let told = world.ask(command).await;
            let reply = world
                .replies
                .wait_for(1, "the reply", |r| r.message.properties.correlation_id == command.properties.correlation_id)
                .await
                .remove(0);
            assert_eq!(reply.event, told.event);
            assert_eq!(reply.message.body, told.message.body);
        }
        let finals: Vec<_> = world.replies.all().into_iter().map(|r| r.event.event_type).collect();
        assert_eq!(
            finals,
            [
                "org.metagov.action.completed",
                "org.metagov.command.rejected",
                "org.metagov.process.started",
                "org.metagov.command.rejected",
                "org.metagov.community.applied"
            ]
        );
    }

    async fn fifty_equal_commands_at_once_are_one(world: World) {
        world.start_worker().await;
        world.with_puppet().await;
        let tag = format!("fifty {}", world.prefix);
        let command = World::act("keyed-act", &tag, &["answer"]);
        for _ in 0..50 {
            world.send(&command).await;
        }
        let id = command.id();
        let told = world.mail.wait_for(50, "fifty answers", |r| r.event.causationid.as_deref() == Some(&id)).await;
        assert!(told.iter().all(|r| r.event == told[0].event));
        assert_eq!(puppet::calls(&tag), 1);
    }

    async fn two_workers_and_two_schedulers_lose_and_double_nothing(world: World) {
        world.start_worker().await;
        world.start_scheduler().await;
        world.with_plugins(&json!([{ "name": "randomness", "config": { "default_low": 1, "default_high": 7 } }])).await;
        let votes: Vec<_> = (0..200)
            .map(|_| {
                let parameters = json!({ "options": ["a", "b"], "delay": 0 });
                let body = json!({ "community": COMMUNITY, "parameters": parameters });
                Command::new("process.randomness.delayed-stochastic-vote.start", &body)
            })
            .collect();
        let actions: Vec<_> = (0..2000)
            .map(|_| Command::new("action.randomness.random-int", &json!({ "community": COMMUNITY, "parameters": {} })))
            .collect();
        for command in votes.iter().chain(&actions) {
            world.send(command).await;
        }
        let completed = |r: &Received| r.event.event_type == "org.metagov.action.completed";
        let told = world.mail.wait_for(2000, "2000 outcomes", completed).await;
        let ended = |r: &Received| r.event.event_type == "org.metagov.process.completed";
        let ends = world.mail.wait_for(200, "200 ends", ended).await;
        let mut ids: HashMap<_, Vec<_>> = HashMap::new();
        for received in world.mail.all().iter().filter(|r| completed(r)) {
            ids.entry(received.event.causationid.clone()).or_default().push(received.event.id);
        }
        let lost = actions.iter().filter(|command| !ids.contains_key(&Some(command.id()))).count();
        let several = ids.values().filter(|ids| ids.iter().any(|id| id != &ids[0])).count();
        let doubled = ids.values().filter(|ids| ids.len() > 1).count();
        println!("attempted 2000, ok {}, lost {lost}, doubled {doubled}, commands with several ids {several}", told.len());
        assert_eq!((lost, doubled, several), (0, 0, 0));
        let winners: std::collections::HashSet<_> = ends.iter().map(|r| r.event.subject.clone()).collect();
        assert_eq!(winners.len(), 200, "each process ends once");
        let filter = metagov::store::ProcessFilter { limit: 1000, ..Default::default() };
        let stored = world.store.processes(&World::community(), filter).await.expect("it answers");
        assert_eq!(stored.iter().filter(|p| p.record.status == ProcessStatus::Completed).count(), 200);
    }

    async fn a_command_line_that_would_wait_for_ever_says_why(world: World) {
        // The queues stand with 100, and the broker refuses to have them declared otherwise.
        let other = [("METAGOV__BROKER__DELIVERY_LIMIT", "20")];
        let act = ["action", "run", "randomness.random-int", "--community", COMMUNITY];
        let (code, _, words) = world.metagov_with(&act, &other).await;
        assert_eq!(code, 5, "{words}");
        let queue = format!("{}.", world.prefix);
        assert!(words.contains(&queue) && words.contains("delete it once it is empty"), "{words}");
    }
}
