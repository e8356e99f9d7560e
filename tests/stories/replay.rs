//! What a driver lost is published again: `metagov events replay`, as an operator runs it.

use std::process::Command as Process;

use bytes::Bytes;
use metagov::{bus::REPLAYED_HEADER, store::Selection};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Received, World, mailbox::Mailbox, story};

/// How a run of the command line ended.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("one JSON object for each line")).collect()
    }

    fn assert_replayed(&self, code: i32, replayed: usize, unrouted: usize) {
        let summary = json!({ "replayed": replayed, "unrouted": unrouted, "refused": 0 });
        assert_eq!((self.code, self.lines()), (code, vec![summary]), "{}", self.stderr);
    }
}

async fn replay(world: &World, arguments: &[&str]) -> Ran {
    let mut process = Process::new(env!("CARGO_BIN_EXE_metagov"));
    process.args(["events", "replay", "--json", "--community", "acme"]).args(arguments).envs(world.settings());
    let output = tokio::task::spawn_blocking(move || process.output()).await.expect("it ends").expect("it was built");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn is_replayed(received: &Received) -> bool {
    received.message.properties.headers.get(REPLAYED_HEADER).is_some_and(|value| value == "true")
}

fn words(received: &Received) -> (String, Option<String>, Bytes) {
    let message = &received.message;
    (message.routing_key.clone(), message.properties.message_id.clone(), message.body.clone())
}

async fn act(world: &World, tag: &str) -> Received {
    world.ask(&World::act("pure-act", &format!("{tag} {}", world.prefix), &[])).await
}

story! {
    async fn what_a_driver_lost_comes_again_byte_for_byte_in_its_order(world: World) {
        world.with_puppet().await;
        for n in 0..5 {
            act(world, &n.to_string()).await;
        }
        // What the plugin says by itself, once; from here on nothing comes that nobody asked for.
        world.mail.wait_for(1, "the first tick", |r: &Received| r.event.event_type.contains(".announced")).await;
        let first = world.mail.all();
        assert!(first.len() >= 6 && !first.iter().any(is_replayed), "{first:?}");
        replay(world, &["--since", "1h"]).await.assert_replayed(0, first.len(), 0);
        let again = world.mail.wait_for(first.len(), "every event again", is_replayed).await;
        let past = world.store.events(&World::community(), &Selection::default(), None, 100).await.expect("it answers");
        let stored: Vec<_> = past
            .into_iter()
            .map(|past| past.event)
            .map(|event| (event.routing_key, Some(event.id.to_string()), Bytes::copy_from_slice(event.body.as_bytes())))
            .collect();
        assert_eq!(again.iter().map(words).collect::<Vec<_>>(), stored);
        let sorted = |all: &[Received]| {
            let mut words: Vec<_> = all.iter().map(words).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&again), sorted(&first));
    }

    async fn only_what_is_asked_for_is_replayed(world: World) {
        world.with_puppet().await;
        let (one, two) = (act(world, "one").await.event.id.to_string(), act(world, "two").await.event.id.to_string());
        replay(world, &["--id", &one]).await.assert_replayed(0, 1, 0);
        replay(world, &["--since", "1h", "--type", "action.completed"]).await.assert_replayed(0, 2, 0);
        replay(world, &["--since", "2000-01-01T00:00:00Z", "--until", "1h"]).await.assert_replayed(0, 0, 0);
        replay(world, &["--since", "1h", "--plugin", "core"]).await.assert_replayed(0, 1, 0);
        let seen = world.mail.wait_for(4, "what was asked for", is_replayed).await;
        let ids: Vec<String> = seen.iter().map(|received| received.event.id.to_string()).collect();
        assert_eq!(ids[..3], [one.clone(), one.clone(), two.clone()]);
        assert_eq!(seen[3].event.plugin, "core");

        let listed = replay(world, &["--since", "1h", "--type", "org.metagov.action.completed", "--dry-run"]).await;
        let ids: Vec<Value> = listed.lines().iter().map(|line| line["id"].clone()).collect();
        assert_eq!((listed.code, ids), (0, vec![json!(one), json!(two)]));
        let missing = Uuid::new_v4().to_string();
        let ran = replay(world, &["--id", &missing]).await;
        assert!(ran.code == 3 && ran.stderr.contains(&missing), "{}", ran.stderr);
        let core = format!("{}.core", world.prefix);
        let wrong: [&[&str]; 4] =
            [&[], &["--since", "yesterday"], &["--since", "1h", "--to-queue", "amq.topic"], &["--since", "1h", "--to-queue", &core]];
        for arguments in wrong {
            assert_eq!(replay(world, arguments).await.code, 2, "{arguments:?}");
        }
        assert_eq!(world.mail.all().into_iter().filter(is_replayed).count(), 4, "nothing else was published");
    }

    async fn into_one_queue_nobody_else_sees_it_again(world: World) {
        world.with_puppet().await;
        let lost = act(world, "one").await;
        let driver = world.driver.subscribe(&[]).await.expect("a queue");
        let queue = driver.queue().to_owned();
        let mailbox = Mailbox::of(driver);
        replay(world, &["--since", "1h", "--type", "action.completed", "--to-queue", &queue]).await.assert_replayed(0, 1, 0);
        let again = mailbox.wait_for(1, "the lost event", |_| true).await;
        assert!(is_replayed(&again[0]));
        assert_eq!(words(&again[0]), (queue, Some(lost.event.id.to_string()), lost.message.body));
        // What others had been sent would have arrived before what is published now.
        act(world, "two").await;
        assert!(!world.mail.all().iter().any(is_replayed), "others have seen it again");
    }

    async fn what_no_queue_wanted_is_found_and_loses_its_mark_when_one_does(world: World) {
        world.with_puppet().await;
        let id = act(world, "unheard").await.event.id;
        act(world, "heard").await;
        // As the committer marks what comes back.
        world.store.mark_published(&[(id, true)]).await.expect("the database answers");
        let unheard = async || {
            let unrouted = Selection { unrouted: true, ..Selection::default() };
            let past = world.store.events(&World::community(), &unrouted, None, 10).await.expect("the database answers");
            past.into_iter().map(|past| past.event.id).collect::<Vec<_>>()
        };
        let gone = replay(world, &["--unrouted", "--to-queue", "no-such-queue"]).await;
        gone.assert_replayed(1, 0, 1);
        assert!(gone.stderr.contains(&id.to_string()), "{}", gone.stderr);
        assert_eq!(unheard().await, [id], "nobody was there, so it keeps its mark");
        replay(world, &["--unrouted", "--dry-run"]).await;
        assert_eq!(unheard().await, [id], "a look changes nothing");

        replay(world, &["--unrouted"]).await.assert_replayed(0, 1, 0);
        assert_eq!(world.mail.wait_for(1, "the unheard event", is_replayed).await[0].event.id, id);
        assert!(unheard().await.is_empty(), "it has found a queue");
        replay(world, &["--unrouted"]).await.assert_replayed(0, 0, 0);
    }
}
