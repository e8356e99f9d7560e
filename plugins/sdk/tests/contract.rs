//! The wire contract as drivers rely on it: published schemas, and events of every kind that must still be readable.
//!
//! A change of a snapshot here is a change of what goes over the wire. A sample is never edited: a new shape gets a new
//! sample beside the old one.

use metagov_sdk::{
    contract::{
        ActionCompleted, ActionFailed, Command, CommandKey, CommandRejected, Community, Event, InstanceRecord,
        PlatformEvent, Problem, ProblemKind, ProcessRecord, asyncapi, event::SCHEMA_BASE, schemas,
    },
    schema::{LARGEST_EXACT, Schema, Unknown},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Every kind of event, as it went over the wire when it was first published.
const SAMPLES: &str = include_str!("samples/events.v1.json");

/// The `AsyncAPI` document of a service without plugins.
fn document() -> Value {
    asyncapi::document(&asyncapi::Service {
        commands: "metagov.commands",
        events: "metagov.events",
        protocol: "amqp",
        host: "localhost:5672",
        vhost: "/",
        plugins: &[],
    })
}

fn samples() -> Vec<Value> {
    serde_json::from_str(SAMPLES).expect("the samples are a JSON array")
}

#[test]
fn the_published_schemas_are_the_reviewed_ones() {
    for (name, schema) in schemas::published() {
        insta::assert_json_snapshot!(name, schema);
    }
}

#[test]
fn the_published_problem_kinds_are_the_reviewed_ones() {
    let kinds: Vec<_> =
        ProblemKind::ALL.iter().map(|kind| json!([kind.slug(), kind.status(), kind.title()]).to_string()).collect();
    insta::assert_snapshot!(kinds.join("\n"));
}

#[test]
fn every_published_schema_compiles() {
    for (name, schema) in schemas::published() {
        Schema::compile(schema, Unknown::AsDeclared).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn there_is_a_sample_of_every_kind_of_event() {
    let mut found: Vec<_> =
        samples().iter().map(|sample| sample["type"].as_str().expect("it has a type").to_owned()).collect();
    found.sort_unstable();
    let expected = [
        "action.completed",
        "action.failed",
        "action.uncertain",
        "command.rejected",
        "community.applied",
        "community.deleted",
        "platform.slack.message",
        "plugin.disabled",
        "plugin.enabled",
        "plugin.updated",
        "process.completed",
        "process.failed",
        "process.started",
        "process.updated",
    ];
    assert_eq!(found, expected.map(|kind| format!("org.metagov.{kind}")));
}

#[test]
fn every_sample_is_read_and_written_without_loss() {
    for sample in samples() {
        let event: Event = serde_json::from_value(sample.clone()).expect("it is an event");
        let written: Value = serde_json::from_str(&event.to_json()).expect("it is JSON");
        assert_eq!(written, sample);
        let data = event.data.clone();
        let kept = match event.event_type.trim_start_matches("org.metagov.") {
            "action.completed" => through::<ActionCompleted>(&data),
            "action.failed" | "action.uncertain" => through::<ActionFailed>(&data),
            "command.rejected" => through::<CommandRejected>(&data),
            "community.applied" | "community.deleted" => through::<Community>(&data),
            kind if kind.starts_with("plugin.") => through::<InstanceRecord>(&data),
            kind if kind.starts_with("process.") => through::<ProcessRecord>(&data),
            _ => through::<PlatformEvent>(&data),
        };
        assert_eq!(kept, data, "{}", event.event_type);
    }
}

fn through<T: Serialize + DeserializeOwned>(data: &Value) -> Value {
    let typed: T = serde_json::from_value(data.clone()).expect("the data is of its type");
    serde_json::to_value(typed).expect("it is plain data")
}

#[test]
fn every_sample_holds_to_the_published_schemas() {
    let published = schemas::published();
    let compiled = |name: &str| {
        let (_, schema) = published.iter().find(|(known, _)| *known == name).expect("it is published");
        Schema::compile(schema.clone(), Unknown::AsDeclared).expect("it compiles")
    };
    let event = compiled("event");
    for sample in samples() {
        assert_eq!(event.violations(&sample, ""), []);
        let name = sample["dataschema"].as_str().expect("it names the schema of its data");
        let name = name.strip_prefix(SCHEMA_BASE).and_then(|name| name.strip_suffix(".json")).expect("one of ours");
        assert_eq!(compiled(name).violations(&sample["data"], "/data"), [], "{name}");
    }
}

/// The schema of a message's payload in the `AsyncAPI` document.
fn payload(key: &str) -> Schema {
    let mut document = document();
    assert!(document["components"]["messages"][key]["payload"].is_object(), "{key}: there is no such message");
    document["$ref"] = format!("#/components/messages/{key}/payload").into();
    Schema::compile(document, Unknown::AsDeclared).unwrap_or_else(|error| panic!("{key}: {error}"))
}

#[test]
fn the_asyncapi_document_is_the_reviewed_one() {
    insta::assert_json_snapshot!("asyncapi", document());
}

#[test]
fn every_reference_in_the_asyncapi_document_leads_somewhere() {
    fn references<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                into.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, into));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, into)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 24, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("the document stands alone");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_sample_is_a_message_of_the_asyncapi_document() {
    for sample in samples() {
        let kind = sample["type"].as_str().expect("it has a type").trim_start_matches("org.metagov.");
        let key = if kind.starts_with("platform.") { "platform".to_owned() } else { kind.replace('.', "-") };
        assert_eq!(payload(&key).violations(&sample, ""), [], "{key}");
    }
    let mut wrong = samples().swap_remove(0);
    wrong["data"] = json!({});
    assert_ne!(payload("action-completed").violations(&wrong, ""), []);
}

#[test]
fn every_command_of_the_asyncapi_document_is_one_of_the_contract() {
    let document = document();
    let channels = document["channels"].as_object().expect("an object");
    let commands: Vec<_> = channels
        .values()
        .filter(|channel| channel["bindings"]["amqp"]["exchange"]["name"] == "metagov.commands")
        .map(|channel| channel["address"].as_str().expect("a text").replace(['{', '}'], ""))
        .collect();
    assert_eq!(commands.len(), 10, "{commands:?}");
    for key in commands {
        assert_eq!(CommandKey::parse(&key).map(|read| read.to_string()), Some(key));
    }
}

#[test]
fn every_command_of_the_contract_is_read_and_written_without_loss() {
    const NAMES: [&str; 4] = ["randomness", "slack", "random-int", "delayed-stochastic-vote"];
    let id = "018f6f9e-0000-7000-8000-000000000001";
    let due = "2026-01-01T00:00:00Z";
    let request = json!({"method": "POST", "path": "/", "query": "", "headers": [["A", "b"]], "body_base64": "e30="});
    for (key, body) in [
        ("community.apply", json!({"slug": "acme"})),
        (
            "community.apply",
            json!({"slug": "acme", "readable_name": "Acme", "plugins": [{"name": "randomness", "config": {"default_low": 1}}]}),
        ),
        ("community.delete", json!({"slug": "acme"})),
        ("plugin.randomness.enable", json!({"community": "acme", "config": {}})),
        ("plugin.randomness.disable", json!({"community": "acme", "community_platform_id": "T1"})),
        (
            "action.randomness.random-int",
            json!({"community": "acme", "parameters": {}, "initiator": {"user_id": "U", "provider": "slack", "x": 1}}),
        ),
        (
            "process.randomness.delayed-stochastic-vote.start",
            json!({"community": "acme", "parameters": {}, "callback_url": "https://driver.example/", "process_id": id}),
        ),
        ("process.randomness.delayed-stochastic-vote.close", json!({"community": "acme", "process_id": id})),
        ("webhook.slack", json!({"delivery_id": "d", "received_at": due, "request": request})),
        ("poll.randomness.delayed-stochastic-vote", json!({"community": "acme", "process_id": id, "due_at": due})),
        ("tick.randomness", json!({"community": "acme", "instance_id": id, "due_at": due})),
    ] {
        let command =
            Command::decode(key, body.to_string().as_bytes()).unwrap_or_else(|refused| panic!("{key}: {refused:?}"));
        assert_eq!(command.key().to_string(), key);
        let written: Value = serde_json::from_slice(&command.body()).expect("it is JSON");
        assert_eq!(written, body, "{key}");
        let words = key.split('.').filter(|word| !NAMES.contains(word)).collect::<Vec<_>>();
        assert_eq!(payload(&words.join("-")).violations(&body, ""), [], "{key}");
    }
}

#[test]
fn a_problem_of_an_older_service_is_still_read() {
    let old = json!({
        "type": "https://metagov.org/problems/timeout", "title": "The handler ran out of time", "status": 504,
        "detail": "it took longer than 30 s"
    });
    let problem: Problem = serde_json::from_value(old.clone()).expect("it is a problem");
    assert_eq!(serde_json::to_value(problem).expect("it is plain data"), old);
}

/// Calls `look` with everything in a document.
fn walk(value: &Value, look: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            look(members);
            members.values().for_each(|member| walk(member, look));
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, look)),
        _ => {}
    }
}

/// What drivers read; the other schemas are those of what they send.
const READ: [&str; 9] = [
    "event",
    "action-completed",
    "action-failed",
    "process-record",
    "platform-event",
    "plugin-instance",
    "community",
    "command-rejected",
    "problem",
];

#[test]
fn what_drivers_read_may_grow_and_what_they_send_is_checked_to_the_last_member() {
    for (name, schema) in schemas::published() {
        let mut closed = false;
        walk(&schema, &mut |members| closed |= members.get("additionalProperties") == Some(&Value::Bool(false)));
        assert_eq!(closed, !READ.contains(&name), "{name}");
    }
    for sample in samples() {
        let mut newer = sample;
        newer["invented"] = json!({"later": true});
        newer["data"]["invented"] = json!(1);
        assert_eq!(payload_of(&newer).violations(&newer, ""), []);
        serde_json::from_value::<Event>(newer).expect("what is new is passed over");
    }
    let later = json!({
        "type": "https://metagov.org/problems/invented-later", "title": "T", "status": 400, "detail": "d"
    });
    let (_, problem) = schemas::published().pop().expect("the last one is the problem");
    assert_eq!(Schema::compile(problem, Unknown::AsDeclared).expect("it compiles").violations(&later, ""), []);
}

fn payload_of(event: &Value) -> Schema {
    let kind = event["type"].as_str().expect("it has a type").trim_start_matches("org.metagov.");
    payload(&if kind.starts_with("platform.") { "platform".to_owned() } else { kind.replace('.', "-") })
}

#[test]
fn every_integer_is_exact_for_every_reader_and_every_format_is_registered() {
    let all = schemas::published().into_iter().map(|(name, schema)| (name.to_owned(), schema));
    for (name, schema) in all.chain([("asyncapi".to_owned(), document())]) {
        walk(&schema, &mut |members| {
            if let Some(Value::String(format)) = members.get("format") {
                assert!(["date-time", "uri", "uuid", "int32", "int64"].contains(&format.as_str()), "{name}: {format}");
            }
            let is_integer = |kind: &Value| kind == "integer" || kind[0] == "integer";
            if members.get("type").is_some_and(is_integer) {
                let most = members.get("maximum").and_then(Value::as_u64).expect("it says where it ends");
                assert!(most <= LARGEST_EXACT, "{name}: {members:?}");
            }
        });
    }
}

#[test]
fn where_anything_may_be_null_may_be() {
    let mut record = samples().into_iter().find(|sample| sample["type"] == "org.metagov.process.started").expect("one");
    record["data"]["outcome"] = Value::Null;
    assert_eq!(payload("process-started").violations(&record, ""), []);
    for (name, member) in [("process-record", "outcome"), ("event", "data"), ("action-completed", "output")] {
        let (_, schema) = schemas::published().into_iter().find(|(known, _)| *known == name).expect("it is published");
        let kinds = schema["properties"][member]["type"].as_array().expect("it says which kinds there are");
        assert!(kinds.contains(&json!("null")), "{name}/{member}");
    }
}
