//! What bad input gets: an answer within one attempt that says what is wrong, and nothing stored.

use std::time::Duration;

use bytes::Bytes;
use metagov::bus::{Destination, Message, Outgoing, Published};
use metagov_sdk::contract::Problem;
use serde_json::{Value, json};

use crate::support::{Command, Received, World, story, world::COMMUNITY};

fn problem(told: &Received) -> Problem {
    assert_eq!(told.event.event_type, "org.metagov.command.rejected", "{:?}", told.event.data);
    serde_json::from_value(told.event.data["problem"].clone()).expect("a rejection carries its problem")
}

fn act(parameters: &Value) -> Value {
    json!({ "community": COMMUNITY, "parameters": parameters })
}

story! {
    async fn what_is_not_json_is_refused_and_never_repeated_in_the_answer(world: World) {
        world.with_puppet().await;
        let bodies: Vec<Bytes> = vec![
            Bytes::from_static(b""),
            Bytes::from_static(b"hunter2"),
            Bytes::from_static(b"{\"community\":\"acme\",\"community\":\"acme\",\"parameters\":{}}"),
            Bytes::from_static(b"{\"community\":\"acme\",\"parameters\":{\"tag\":\"a\",\"tag\":\"b\"}}"),
            Bytes::from("[".repeat(100_000)),
            Bytes::from_static(b"\xff\xfe"),
            Bytes::from_static(b"{} {}"),
        ];
        for body in bodies {
            let told = world.ask(&Command::raw("action.puppet.pure-act", body)).await;
            assert_eq!(problem(&told).kind.slug(), "invalid-json");
            assert_eq!(told.message.routing_key, "_.puppet.command.rejected");
            assert!(!told.event.data.to_string().contains("hunter2"));
        }
    }

    async fn what_nobody_could_be_answered_about_is_kept_as_a_dead_letter(world: World) {
        let mut anonymous = Command::raw("action.puppet.pure-act", "not json");
        anonymous.properties.message_id = None;
        world.send(&anonymous).await;
        let rejected = |r: &Received| r.event.event_type == "org.metagov.command.rejected";
        world.mail.wait_for(1, "the rejection", rejected).await;
        let kept = async {
            loop {
                let dead = world.dead_letters().await;
                if !dead.is_empty() {
                    return dead;
                }
            }
        };
        let dead = tokio::time::timeout(Duration::from_mins(1), kept).await.expect("it is kept");
        assert_eq!(dead[0].0, "action.puppet.pure-act");
        assert_eq!(dead[0].1.get("x-metagov-reason").map(String::as_str), Some("invalid-json"));
    }

    async fn a_body_over_the_limit_is_refused_by_its_size(world: World) {
        world.with_puppet().await;
        let body = format!("{{\"community\":\"acme\",\"parameters\":{{\"tag\":\"{}\"}}}}", "x".repeat(1024 * 1024));
        let told = world.ask(&Command::raw("action.puppet.pure-act", body)).await;
        assert_eq!(problem(&told).kind.slug(), "too-large");
    }

    async fn a_message_id_that_cannot_be_used_is_named_and_its_sender_can_match_the_answer(world: World) {
        world.with_puppet().await;
        let long = "k".repeat(140);
        for (id, kind, shown) in [
            ("two words", "holds a space", Some("two words")),
            (long.as_str(), "has 140 characters", Some(long.as_str())),
            ("Schlüssel", "holds a character beyond ASCII", Some("Schlüssel")),
            ("a\u{7}b", "holds a control character", None),
            ("", "is empty", None),
        ] {
            let mut command = World::act("pure-act", "never", &["answer"]);
            command.properties.message_id = Some(id.to_owned());
            command.properties.correlation_id = Some(format!("mine {kind}"));
            command.properties.reply_to = Some(world.reply_queue.clone());
            world.send(&command).await;
            let ours = |r: &Received| r.message.properties.correlation_id == command.properties.correlation_id;
            for mailbox in [&world.mail, &world.replies] {
                let told = mailbox.wait_for(1, kind, ours).await.remove(0);
                let problem = problem(&told);
                assert_eq!(problem.kind.slug(), "invalid-property");
                assert!(problem.detail.starts_with(&format!("message_id {kind};")), "{}", problem.detail);
                assert_eq!(told.event.causationid.as_deref(), shown);
                assert_eq!(told.event.data["routing_key"], "action.puppet.pure-act");
            }
            // Without a correlation id of its own the driver knows it by what it sent, as ever.
            command.properties.correlation_id = None;
            command.properties.reply_to = None;
            if shown.is_some() {
                world.send(&command).await;
                let ours = |r: &Received| r.event.correlationid.as_deref() == shown;
                world.mail.wait_for(1, kind, ours).await;
            }
        }
    }

    async fn numbers_are_what_json_schema_says_and_refusals_speak_of_members(world: World) {
        world.with_plugins(&json!([{ "name": "randomness", "config": { "default_low": 1.0, "default_high": 1e1 } }])).await;
        for (low, high) in [("1.0", "2"), ("-0", "1e0"), ("4e1", "41.0")] {
            let body = format!(r#"{{"community":"{COMMUNITY}","parameters":{{"low":{low},"high":{high}}}}}"#);
            let told = world.ask(&Command::raw("action.randomness.random-int", body)).await;
            assert_eq!(told.event.event_type, "org.metagov.action.completed", "{:?}", told.event.data);
        }
        let body = json!({ "community": COMMUNITY, "parameters": { "low": "1", "high": 1.5, "hihg": 2 } });
        let refused = problem(&world.tell("action.randomness.random-int", &body).await);
        let errors: Vec<_> = refused.errors.iter().map(|e| (e.pointer.as_str(), e.message.as_str())).collect();
        for expected in [
            ("/parameters/low", "must be an integer or nothing, not a string"),
            ("/parameters/high", "must be an integer or nothing, not a number with a fraction"),
            ("/parameters/hihg", "'hihg' is unknown; did you mean 'high'?"),
        ] {
            assert!(errors.contains(&expected), "{expected:?}: {errors:?}");
        }
        let vote = json!({ "community": COMMUNITY, "parameters": {} });
        let refused = problem(&world.tell("action.randomness.delayed-stochastic-vote", &vote).await);
        assert!(refused.detail.contains("is a governance process, not an action"), "{}", refused.detail);
    }

    async fn what_is_refused_leaves_its_answer_in_the_database_and_nothing_else(world: World) {
        world.with_puppet().await;
        let before = world.rows().await;
        let refused = [
            Command::raw("action.puppet.pure-act", "not json"),
            Command::new("action.puppet.pure-act", &json!({ "community": COMMUNITY })),
            Command::new("action.puppet.nothing", &act(&json!({}))),
            Command::new("action.randomness.random-int", &act(&json!({}))),
            Command::new("community.apply", &json!({ "slug": "new", "plugins": [{ "name": "nobody", "config": {} }] })),
            Command::new("plugin.nobody.enable", &json!({ "community": COMMUNITY, "config": {} })),
            Command::new("process.puppet.ballot.start", &act(&json!({ "quorum": "many" }))),
            Command::new("process.puppet.ballot.close", &json!({ "community": COMMUNITY, "process_id": uuid::Uuid::nil() })),
            World::act("keyed-act", &format!("refused {}", world.prefix), &["reject"]),
            World::act("unsafe-act", &format!("refused too {}", world.prefix), &["reject"]),
        ];
        for command in &refused {
            let told = world.ask(command).await;
            assert_eq!(told.event.event_type, "org.metagov.command.rejected", "{}", command.routing_key);
        }
        let after = world.rows().await;
        // What is no JSON, and what would create a community, name none that exists.
        let kept = |table: &str| if matches!(table, "inbox" | "outbox") { 8 } else { 0 };
        for ((table, before), (_, after)) in before.iter().zip(&after) {
            assert_eq!(after - before, kept(table), "{table}");
        }
    }

    async fn unknown_words_are_refused_with_the_nearest_known_one(world: World) {
        world.with_puppet().await;
        let told = world.tell("action.pupet.pure-act", &act(&json!({}))).await;
        assert_eq!(problem(&told).kind.slug(), "unknown-plugin");
        assert!(problem(&told).detail.contains("did you mean 'puppet'?"), "{}", problem(&told).detail);
        let told = world.tell("action.puppet.pure-atc", &act(&json!({}))).await;
        assert_eq!(problem(&told).kind.slug(), "unknown-action");
        assert!(problem(&told).detail.contains("did you mean 'pure-act'?"), "{}", problem(&told).detail);
        let told = world.tell("process.puppet.balot.start", &act(&json!({}))).await;
        assert_eq!(problem(&told).kind.slug(), "unknown-process");
        assert!(problem(&told).detail.contains("did you mean 'ballot'?"), "{}", problem(&told).detail);
        for key in ["action.puppet.pure-act.now", "nonsense", "community.explode"] {
            let told = world.tell(key, &json!({ "community": COMMUNITY })).await;
            assert_eq!(problem(&told).kind.slug(), "unknown-command", "{key}");
        }
        let told = world
            .tell("action.puppet.pure-act", &json!({ "community": "nobody", "parameters": { "tag": "x", "script": [] } }))
            .await;
        assert_eq!(problem(&told).kind.slug(), "unknown-community");
    }

    async fn a_plugin_that_is_not_enabled_is_named(world: World) {
        world.with_puppet().await;
        let told = world.tell("action.randomness.random-int", &act(&json!({}))).await;
        assert_eq!(problem(&told).kind.slug(), "plugin-not-enabled");
        assert!(problem(&told).detail.contains("plugin.randomness.enable"));
    }

    async fn every_wrong_parameter_is_named_at_once(world: World) {
        world.with_puppet().await;
        let told = world.tell("action.puppet.pure-act", &act(&json!({ "script": "answer", "tga": 1 }))).await;
        let refused = problem(&told);
        assert_eq!(refused.kind.slug(), "invalid-parameters");
        let all = format!("{:?}", refused.errors);
        assert!(all.contains("/parameters/script"), "{all}");
        assert!(all.contains("did you mean 'tag'?"), "{all}");
        assert!(refused.errors.iter().any(|error| error.keyword == "required"), "{all}");
    }

    async fn config_that_breaks_its_schema_changes_nothing(world: World) {
        let body = json!({ "slug": COMMUNITY, "plugins": [{ "name": "randomness", "config": { "default_low": "1" } }] });
        let told = world.tell("community.apply", &body).await;
        let refused = problem(&told);
        assert_eq!(refused.kind.slug(), "invalid-config");
        assert!(refused.errors.iter().any(|error| error.pointer == "/plugins/0/config/default_low"), "{refused:?}");
        assert!(world.store.community(&World::community()).await.expect("it answers").is_none());
    }

    async fn a_community_slug_of_300_characters_is_refused(world: World) {
        let told = world.tell("community.apply", &json!({ "slug": "a".repeat(300) })).await;
        let refused = problem(&told);
        assert_eq!(refused.kind.slug(), "invalid-command");
        assert_eq!(refused.errors[0].pointer, "/slug");
    }

    async fn unknown_members_of_the_envelope_are_refused(world: World) {
        world.with_puppet().await;
        let body = json!({ "community": COMMUNITY, "parameters": { "tag": "x", "script": [] }, "params": {} });
        let told = world.tell("action.puppet.pure-act", &body).await;
        assert_eq!(problem(&told).kind.slug(), "invalid-command");
    }

    async fn a_message_id_that_is_no_key_is_refused(world: World) {
        world.with_puppet().await;
        for id in ["with spaces", &"x".repeat(129)] {
            let mut command = World::act("pure-act", "never runs", &[]);
            command.properties.message_id = Some(id.to_owned());
            command.properties.correlation_id = Some(format!("about {}", id.len()));
            world.send(&command).await;
            let told = world
                .mail
                .wait_for(1, "the rejection", |r| r.event.correlationid == command.properties.correlation_id)
                .await
                .remove(0);
            assert_eq!(problem(&told).kind.slug(), "invalid-property");
        }
    }

    async fn replies_go_only_to_queues_of_the_drivers_own(world: World) {
        world.with_puppet().await;
        for queue in ["amq.topic".to_owned(), format!("{}.core", world.prefix)] {
            let mut command = World::act("pure-act", "never runs", &[]);
            command.properties.reply_to = Some(queue.clone());
            let told = world.ask(&command).await;
            assert_eq!(problem(&told).kind.slug(), "invalid-reply-to", "{queue}");
        }
        // A queue that does not exist costs the reply, not the command.
        let mut command = World::act("pure-act", "runs", &[]);
        command.properties.reply_to = Some("nobody-has-declared-this".to_owned());
        let told = world.ask(&command).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed");
    }

    async fn hostile_routing_keys_reach_no_plugin(world: World) {
        for key in ["action.#.*", "action..", "webhook.*", "poll.puppet.ballot.#"] {
            let message = Message { routing_key: key.to_owned(), body: Bytes::from_static(b"{}"), properties: Command::raw(key, "").properties };
            let out = vec![Outgoing { to: Destination::Commands, message: message.clone() }];
            assert_eq!(world.driver.publish(out).await.expect("confirmed"), [Published::Routed]);
            let id = message.properties.message_id;
            let told = world.mail.wait_for(1, key, |r| r.event.causationid == id).await.remove(0);
            assert_eq!(problem(&told).kind.slug(), "unknown-command", "{key}");
        }
    }
}
