//! Actions: `action.<plugin>.<action>`, with every outcome that they can have.

use std::time::Instant;

use metagov::store::Seen;
use serde_json::json;

use crate::support::{Command, World, puppet, story, until, world::COMMUNITY};

story! {
    async fn a_completed_action_is_told_with_its_output(world: World) {
        world.with_plugins(&json!([{ "name": "randomness", "config": { "default_low": 1, "default_high": 7 } }])).await;
        let mut command = Command::new(
            "action.randomness.random-int",
            &json!({
                "community": COMMUNITY,
                "parameters": { "low": 4, "high": 5 },
                "initiator": { "user_id": "U1", "provider": "slack", "team": "T1" }
            }),
        );
        command.properties.correlation_id = Some("my correlation".to_owned());
        command.properties.headers.insert(
            "traceparent".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        );
        let told = world.ask(&command).await;
        assert_eq!(told.message.routing_key, "acme.randomness.action.random-int.completed");
        assert_eq!(told.message.properties.content_type.as_deref(), Some("application/cloudevents+json"));
        assert_eq!(told.message.properties.message_type.as_deref(), Some("org.metagov.action.completed"));
        assert_eq!(told.message.properties.message_id, Some(told.event.id.to_string()));
        assert_eq!(told.message.properties.correlation_id.as_deref(), Some("my correlation"));
        assert_eq!(told.message.properties.headers.get("traceparent"), told.event.traceparent.as_ref());
        let event = told.event;
        assert_eq!(event.specversion, "1.0");
        assert_eq!(event.source, "/communities/acme/plugins/randomness");
        assert_eq!(event.event_type, "org.metagov.action.completed");
        assert_eq!(event.subject.as_deref(), Some("randomness.random-int"));
        assert_eq!((event.community.as_str(), event.plugin.as_str()), ("acme", "randomness"));
        assert_eq!(event.correlationid.as_deref(), Some("my correlation"));
        assert_eq!(event.causationid, Some(command.id()));
        assert_eq!(event.dataschema, "https://metagov.org/schemas/v1/action-completed.json");
        assert!(event.traceparent.expect("a trace").starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert_eq!(
            event.data,
            json!({
                "action": "random-int",
                "output": { "value": 4 },
                "initiator": { "user_id": "U1", "provider": "slack", "team": "T1" },
                "attempts": 1
            })
        );
    }

    async fn a_failed_action_is_told_with_its_problem(world: World) {
        world.with_puppet().await;
        for effect in ["pure-act", "idempotent-act", "keyed-act", "unsafe-act"] {
            let told = world.ask(&World::act(effect, &format!("fails {} {effect}", world.prefix), &["fail"])).await;
            assert_eq!(told.event.event_type, "org.metagov.action.failed");
            assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/platform-error");
            assert_eq!(told.event.data["problem"]["detail"], "the puppet broke");
        }
    }

    async fn a_platform_that_names_a_time_is_asked_again_at_that_time(world: World) {
        world.with_puppet().await;
        for effect in ["pure-act", "keyed-act"] {
            let begun = Instant::now();
            let command = World::act(effect, &format!("patient {} {effect}", world.prefix), &["retry-in6500-ms", "answer"]);
            let told = world.ask(&command).await;
            assert_eq!(told.event.event_type, "org.metagov.action.completed", "{:?}", told.event.data);
            assert_eq!(told.event.data["attempts"], 2, "the stops on the way are no attempts");
            let waited = begun.elapsed();
            println!("asked again after {waited:?}");
            // A step of the ladder that is long enough would take half a minute.
            assert!((6500..30_000).contains(&waited.as_millis()), "{waited:?}");
        }
    }

    async fn an_action_that_its_plugin_refuses_is_rejected_and_stays_so(world: World) {
        world.with_puppet().await;
        for effect in ["pure-act", "keyed-act", "unsafe-act"] {
            let tag = format!("refused {} {effect}", world.prefix);
            let command = World::act(effect, &tag, &["reject", "answer"]);
            let told = world.ask(&command).await;
            assert_eq!(told.event.event_type, "org.metagov.command.rejected");
            assert_eq!(told.event.data["problem"]["detail"], "the puppet refuses");
            // Its script would answer now: the key has its answer.
            world.send(&command).await;
            let id = command.id();
            let told = world.mail.wait_for(2, "the second answer", |r| r.event.causationid.as_deref() == Some(&id)).await;
            assert_eq!(told[0].message.body, told[1].message.body, "byte for byte");
            // A pure one is called before anybody looks, and what it says then does not count.
            assert!(puppet::calls(&tag) == 1 || effect == "pure-act", "{effect}");
        }
    }

    async fn an_action_whose_platform_is_away_is_tried_again_and_the_attempts_are_told(world: World) {
        world.with_puppet().await;
        for effect in ["pure-act", "keyed-act", "unsafe-act"] {
            let tag = format!("away {} {effect}", world.prefix);
            let told = world.ask(&World::act(effect, &tag, &["retry", "answer"])).await;
            assert_eq!(told.event.event_type, "org.metagov.action.completed", "{effect}: {:?}", told.event.data);
            assert_eq!(told.event.data["attempts"], 2, "{effect}");
            // A pure action also runs again where the instance changed meanwhile, here by a tick.
            assert!(puppet::calls(&tag) == 2 || effect == "pure-act", "{effect}");
        }
        let tag = format!("away for good {}", world.prefix);
        let told = world.ask(&World::act("pure-act", &tag, &["retry"])).await;
        assert_eq!(told.event.event_type, "org.metagov.action.failed");
        assert_eq!(told.event.data["problem"]["detail"], "the puppet is away");
        assert_eq!(told.event.data["attempts"], 2);
    }

    async fn a_panic_or_an_endless_handler_is_an_outcome_and_the_worker_goes_on(world: World) {
        world.with_puppet().await;
        let told = world.ask(&World::act("pure-act", &format!("panics {}", world.prefix), &["panic"])).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/plugin-panicked");
        let told = world.ask(&World::act("pure-act", &format!("hangs {}", world.prefix), &["hang"])).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/timeout");
        let told = world.ask(&World::act("unsafe-act", &format!("cut {}", world.prefix), &["hang"])).await;
        assert_eq!(told.event.event_type, "org.metagov.action.uncertain");
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/outcome-uncertain");
        let told = world.ask(&World::act("pure-act", &format!("fine {}", world.prefix), &["answer"])).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed");
    }

    async fn what_a_handler_emits_is_told_under_a_safe_key(world: World) {
        world.with_puppet().await;
        let body = json!({ "community": COMMUNITY, "parameters": { "text": "hear, hear" } });
        let command = Command::new("action.puppet.announce", &body);
        world.send(&command).await;
        let id = command.id();
        let told = world
            .mail
            .wait_for(1, "the platform event", |r| {
                r.event.event_type.contains(".platform.") && r.event.causationid.as_deref() == Some(&id)
            })
            .await
            .remove(0);
        assert_eq!(told.message.routing_key, "acme.puppet.platform.announced__loud");
        assert_eq!(told.event.event_type, "org.metagov.platform.puppet.announced__loud");
        assert_eq!(told.event.data, json!({ "event_type": "announced.#loud", "data": { "text": "hear, hear" } }));
    }

    async fn an_unsafe_action_is_not_repeated_because_a_config_changed_meanwhile(world: World) {
        world.with_puppet().await;
        for keyed in [true, false] {
            let tag = format!("meanwhile {} {keyed}", world.prefix);
            let mut command = World::act("patient-act", &tag, &["wait", "answer"]);
            command.properties.correlation_id = Some(tag.clone());
            if !keyed {
                command.properties.message_id = None;
            }
            world.send(&command).await;
            until("the handler waits", || puppet::calls(&tag) > 0).await;
            let config = json!({ "secret": format!("changed {keyed}") });
            world.tell("plugin.puppet.enable", &json!({ "community": COMMUNITY, "config": config })).await;
            puppet::open_gate(&tag);
            let told = world
                .mail
                .wait_for(1, "the outcome", |r| r.event.correlationid.as_deref() == Some(&tag))
                .await
                .remove(0);
            assert_eq!(told.event.event_type, "org.metagov.action.completed");
            assert_eq!(puppet::calls(&tag), 1);
        }
    }

    async fn an_unsafe_action_whose_worker_died_ends_as_uncertain_and_a_keyed_one_is_repeated(world: World) {
        world.with_puppet().await;
        let (unsafe_tag, keyed_tag) = (format!("dies {}", world.prefix), format!("dies keyed {}", world.prefix));
        let unsafe_act = World::act("unsafe-act", &unsafe_tag, &["hang", "answer"]);
        let keyed_act = World::act("keyed-act", &keyed_tag, &["hang", "answer"]);
        world.send(&unsafe_act).await;
        world.send(&keyed_act).await;
        until("both handlers hang", || puppet::calls(&unsafe_tag) > 0 && puppet::calls(&keyed_tag) > 0).await;
        world.crash().await;
        world.start_worker().await;
        let told = world.answer(&unsafe_act).await;
        assert_eq!(told.event.event_type, "org.metagov.action.uncertain");
        assert_eq!(puppet::calls(&unsafe_tag), 1, "an unsafe action is never repeated");
        let told = world.answer(&keyed_act).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed");
        assert_eq!(puppet::calls(&keyed_tag), 2);
    }

    async fn a_plugin_that_panics_when_it_is_only_asked_something_is_an_answer_and_ends_its_attempt(world: World) {
        let gate = format!("brittle-{}", world.prefix);
        world.with_plugins(&json!([{ "name": "puppet", "config": { "brittle": gate } }])).await;
        puppet::open_gate(&gate);
        for action in ["idempotent-act", "keyed-act", "unsafe-act"] {
            let command = World::act(action, &format!("{gate}-{action}"), &["answer"]);
            let told = world.ask(&command).await;
            assert_eq!(told.event.event_type, "org.metagov.command.rejected", "{action}");
            assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/plugin-panicked", "{action}");
            let id = command.id().parse().expect("a key");
            let seen = world.store.seen(&World::community(), &id).await.expect("the database answers");
            assert!(matches!(seen, Some(Seen::Finished { .. })), "{action}: nothing is left to be attempted again");
        }
    }
}
