//! What strangers throw at the service: floods of documents that no reader should trust, and words that would like to be
//! routed somewhere else. It answers each, stays up, and publishes nowhere but where it always does.

use std::collections::BTreeSet;

use bytes::Bytes;
use metagov::bus::{Destination, Message, Outgoing, Published};
use metagov_sdk::contract::Problem;
use serde_json::{Value, json};

use crate::support::{Command, Received, World, puppet, story, world::COMMUNITY};

const ACT: &str = "action.puppet.pure-act";

fn problem(told: &Received) -> Problem {
    assert_eq!(told.event.event_type, "org.metagov.command.rejected", "{:?}", told.event.data);
    serde_json::from_value(told.event.data["problem"].clone()).expect("a rejection carries its problem")
}

/// A command for the puppet of exactly so many bytes.
fn command_of(bytes: usize) -> Command {
    let body = |tag: &str| json!({ "community": COMMUNITY, "parameters": { "tag": tag, "script": [] } }).to_string();
    let frame = body("").len();
    let command = Command::raw(ACT, body(&"x".repeat(bytes - frame)));
    assert_eq!(command.body.len(), bytes);
    command
}

/// Documents that no reader should trust, each with the problem that it is answered with.
fn hostile_documents() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let with = |parameters: &str| format!("{{\"community\":\"{COMMUNITY}\",\"parameters\":{parameters}}}").into_bytes();
    let nested = |depth: usize| with(&format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)));
    let members = |count: usize| (0..count).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",");
    vec![
        ("nested 100 000 deep", nested(100_000), "invalid-json"),
        ("nested 129 deep", nested(127), "invalid-json"),
        ("nested 128 deep", nested(124), "invalid-parameters"),
        ("a million members", with(&format!("{{{}}}", members(1_000_000))), "too-large"),
        ("as many members as fit", with(&format!("{{{}}}", members(80_000))), "invalid-parameters"),
        ("a member twice", with("{\"tag\":\"a\",\"tag\":\"b\"}"), "invalid-json"),
        ("a member twice, once escaped", with("{\"tag\":\"a\",\"t\\u0061g\":\"b\"}"), "invalid-json"),
        ("a number without end", with("{\"tag\":1e400}"), "invalid-json"),
        ("a NUL", with("{\"tag\":\"a\\u0000\"}"), "invalid-json"),
        ("half a character", with("{\"tag\":\"\\ud800\"}"), "invalid-json"),
        ("no UTF-8", [b"{\"community\":\"\xff\"}".as_slice()].concat(), "invalid-json"),
        ("a byte order mark", [b"\xef\xbb\xbf".as_slice(), &with("{}")].concat(), "invalid-json"),
        ("more behind the end", [with("{}"), b"{}".to_vec()].concat(), "invalid-json"),
        ("nothing", Vec::new(), "invalid-json"),
    ]
}

story! {
    async fn a_body_is_refused_by_its_size_before_anything_reads_it(world: World) {
        world.with_puppet().await;
        for accepted in [64 * 1024, 1024 * 1024] {
            let told = world.ask(&command_of(accepted)).await;
            assert_eq!(told.event.event_type, "org.metagov.action.completed", "{accepted} bytes");
        }
        // No JSON at all: whoever had read them would say so.
        let garbage = Command::raw(ACT, vec![b'{'; 10_000_000]);
        for refused in [command_of(1024 * 1024 + 1), garbage] {
            let told = problem(&world.ask(&refused).await);
            assert_eq!(told.kind.slug(), "too-large", "{} bytes", refused.body.len());
            assert!(told.detail.contains(&refused.body.len().to_string()), "{}", told.detail);
        }
    }

    async fn a_flood_of_hostile_documents_is_answered_one_by_one(world: World) {
        world.with_puppet().await;
        for (what, body, expected) in hostile_documents() {
            // Of the large ones a few, for the sake of the test's own time.
            let each = if body.len() > 300_000 { 2 } else { 50 };
            let flood: Vec<_> = (0..each).map(|_| Command::raw(ACT, Bytes::from(body.clone()))).collect();
            for command in &flood {
                world.send(command).await;
            }
            for command in &flood {
                let told = world.answer(command).await;
                let length = told.message.body.len();
                assert!(length < 8 * 1024, "{what} is answered with {length} bytes");
                assert_eq!(problem(&told).kind.slug(), expected, "{what}");
            }
        }
        let told = world.ask(&World::act("pure-act", "still there", &[])).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed");
    }

    async fn words_of_ten_kilobytes_and_members_of_the_future_are_refused_in_few_words(world: World) {
        world.with_puppet().await;
        let long = "x".repeat(10 * 1024);
        let bodies = [
            ("process.puppet.ballot.close", json!({ "community": COMMUNITY, "process_id": long })),
            (ACT, json!({ "community": long, "parameters": {} })),
            (ACT, json!({ "community": COMMUNITY, "parameters": {}, "version": 2 })),
            (ACT, json!({ "community": COMMUNITY, "parameters": {}, &*long: 2 })),
            (ACT, json!({ "community": COMMUNITY, "parameters": { "tag": "x", "script": [], &*long: 2 } })),
            (ACT, json!({ "community": COMMUNITY, "parameters": { "tag": "x", "script": [&long] } })),
        ];
        for (key, body) in bodies {
            let told = world.tell(key, &body).await;
            let refused = problem(&told);
            assert!(["invalid-command", "invalid-parameters"].contains(&refused.kind.slug()), "{refused}");
            assert!(told.message.body.len() < 4 * 1024, "{} bytes", told.message.body.len());
            assert!(!refused.errors.is_empty(), "{refused}");
        }
        let future = world.tell(ACT, &json!({ "community": COMMUNITY, "parameters": {}, "version": 2 })).await;
        assert!(problem(&future).errors[0].message.contains("'version'"), "{}", problem(&future));
    }

    async fn fifty_equal_commands_at_once_are_one(world: World) {
        world.with_puppet().await;
        for _ in 0..3 {
            world.start_worker().await;
        }
        for effect in ["keyed-act", "unsafe-act"] {
            let tag = format!("once {} {effect}", world.prefix);
            let command = World::act(effect, &tag, &["answer"]);
            let Command { routing_key, body, properties } = command.clone();
            let message = Message { routing_key, body, properties };
            let copies = vec![Outgoing { to: Destination::Commands, message }; 50];
            let published = world.driver.publish(copies).await.expect("the broker confirms");
            assert_eq!(published, [Published::Routed; 50]);
            let id = command.id();
            let told = world.mail.wait_for(50, "fifty answers", |r| r.event.causationid.as_ref() == Some(&id)).await;
            let outcomes: BTreeSet<_> = told.iter().map(|r| (r.event.id.to_string(), r.event.data.to_string())).collect();
            assert_eq!(outcomes.len(), 1, "{outcomes:?}");
            assert_eq!(told[0].event.event_type, "org.metagov.action.completed");
            assert_eq!(puppet::calls(&tag), 1);

            // The same key for something else is nobody's outcome.
            let mut other = World::act(effect, &format!("another {tag}"), &["answer"]);
            other.properties = command.properties.clone();
            world.send(&other).await;
            let refused = |r: &Received| r.event.causationid.as_ref() == Some(&id) && r.event.event_type.ends_with("rejected");
            let told = world.mail.wait_for(1, "the conflict", refused).await.remove(0);
            assert_eq!(problem(&told).kind.slug(), "conflict");
            assert_eq!(puppet::calls(&format!("another {tag}")), 0);
        }
    }

    async fn answers_go_nowhere_but_to_events_and_to_a_drivers_own_queue(world: World) {
        world.with_puppet().await;
        let prefix = world.prefix.clone();
        let ours = ["commands", "events", "unrouted", "dead", "core", "delay.1s", "plugin.puppet", "poll.puppet"];
        let mut refused: Vec<String> = ours.iter().map(|name| format!("{prefix}.{name}")).collect();
        refused.extend(["amq.topic", "amq.direct", "amq.genuine", "amq.", "amq.rabbitmq.trace"].map(str::to_owned));
        for queue in refused {
            let mut command = World::act("pure-act", "never runs", &[]);
            command.properties.reply_to = Some(queue.clone());
            assert_eq!(problem(&world.ask(&command).await).kind.slug(), "invalid-reply-to", "{queue}");
        }
        // Words that mean something in a binding mean nothing as the name of a queue: the reply is lost, not spread.
        for queue in ["#", "*", "acme.#", "*.*.*", " ", &"q".repeat(255)] {
            let mut command = World::act("pure-act", "runs", &[]);
            command.properties.reply_to = Some(queue.to_owned());
            let told = world.ask(&command).await;
            assert_eq!(told.event.event_type, "org.metagov.action.completed", "{queue}");
        }
        assert!(world.replies.all().is_empty(), "a queue that nobody named got an answer");

        // A key that AMQP has no room for never gets as far as the broker.
        let message = Message { routing_key: format!("action.{}.x", "p".repeat(300)), body: Bytes::new(), properties: Command::raw(ACT, "").properties };
        let out = vec![Outgoing { to: Destination::Commands, message }];
        assert_eq!(world.driver.publish(out).await.expect("it is decided"), [Published::Unrouted]);

        let longest = format!("action.{}", "p".repeat(248));
        let told = world.tell(&longest, &json!({})).await;
        assert_eq!(problem(&told).kind.slug(), "unknown-command");
        assert_eq!(told.event.data["routing_key"], Value::from(longest));
        assert_eq!(told.message.routing_key, "_.core.command.rejected");
    }
}
