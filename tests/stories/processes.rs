//! Governance processes: started, polled, closed, failed.

use std::time::Duration;

use metagov::bus::Queue;
use metagov_sdk::contract::{Name, ProcessStatus};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Command, Received, World, puppet, story, until, world::COMMUNITY};

fn start(parameters: &Value) -> Command {
    Command::new("process.puppet.ballot.start", &json!({ "community": COMMUNITY, "parameters": parameters }))
}

fn close(id: Uuid) -> Command {
    Command::new("process.puppet.ballot.close", &json!({ "community": COMMUNITY, "process_id": id }))
}

async fn next(world: &World, id: Uuid, kind: &str) -> Received {
    let wanted = format!("org.metagov.process.{kind}");
    let is = |r: &Received| r.event.event_type == wanted && r.event.subject == Some(id.to_string());
    world.mail.wait_for(1, &wanted, is).await.remove(0)
}

story! {
    async fn a_process_is_started_and_closed_by_its_driver(world: World) {
        world.with_puppet().await;
        let told = world.ask(&start(&json!({ "quorum": 3, "closable": true }))).await;
        assert_eq!(told.event.event_type, "org.metagov.process.started");
        assert_eq!(told.message.routing_key, "acme.puppet.process.ballot.started");
        let record = World::record(&told);
        assert_eq!(record.name, "puppet.ballot");
        assert_eq!((record.status, record.version, told.event.sequence), (ProcessStatus::Pending, 1, Some(1)));
        assert_eq!(record.url.as_deref(), Some("https://puppet.example/ballot"));
        assert_eq!(told.event.subject, Some(record.id.to_string()));
        // Whoever acts on an event never finds an older state.
        let stored = world.store.process(&World::community(), record.id).await.expect("it answers").expect("it is there");
        assert_eq!(stored.record, record);

        let told = world.ask(&close(record.id)).await;
        assert_eq!(told.event.event_type, "org.metagov.process.completed");
        let closed = World::record(&told);
        assert_eq!(closed.status, ProcessStatus::Completed);
        assert_eq!(closed.outcome, json!({ "votes": 0, "polls": 0 }));
        assert!(closed.closed_at.is_some() && told.event.sequence > Some(1));

        let told = world.ask(&close(record.id)).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/already-completed");
    }

    async fn the_driver_may_choose_the_process_id_once(world: World) {
        world.with_puppet().await;
        let id = Uuid::new_v4();
        let body = json!({ "community": COMMUNITY, "parameters": { "quorum": 1 }, "process_id": id });
        let told = world.tell("process.puppet.ballot.start", &body).await;
        assert_eq!(World::record(&told).id, id);
        let told = world.tell("process.puppet.ballot.start", &body).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/already-exists");
    }

    async fn a_start_without_a_key_that_comes_again_gets_the_answer_of_the_first(world: World) {
        world.with_puppet().await;
        let id = Uuid::new_v4();
        let of = |quorum: u32| {
            let body = json!({ "community": COMMUNITY, "parameters": { "quorum": quorum }, "process_id": id });
            let mut command = Command::new("process.puppet.ballot.start", &body);
            command.properties.message_id = None;
            command.properties.correlation_id = Some(format!("{} {quorum}", world.prefix));
            command
        };
        let answers = async |quorum: u32, count: usize| {
            let asked = of(quorum).properties.correlation_id;
            world.mail.wait_for(count, "its answers", |r| r.event.correlationid == asked).await
        };
        // As the broker delivers it once more whose worker died before it was acknowledged.
        for count in 1..=3 {
            world.send(&of(1)).await;
            let told = answers(1, count).await;
            assert!(told.iter().all(|r| r.event.event_type == "org.metagov.process.started"), "{told:?}");
            assert!(told.iter().all(|r| r.message.body == told[0].message.body), "byte for byte");
        }
        // Another start of the same process is another command.
        world.send(&of(2)).await;
        let told = answers(2, 1).await.remove(0);
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/already-exists");
    }

    async fn a_start_is_not_repeated_because_a_config_changed_meanwhile(world: World) {
        world.with_puppet().await;
        let tag = format!("starting {}", world.prefix);
        let command = start(&json!({ "quorum": 1, "start": "wait", "tag": tag }));
        world.send(&command).await;
        until("the start waits", || puppet::calls(&tag) > 0).await;
        world.tell("plugin.puppet.enable", &json!({ "community": COMMUNITY, "config": { "secret": "new" } })).await;
        puppet::open_gate(&tag);
        assert_eq!(world.answer(&command).await.event.event_type, "org.metagov.process.started");
        assert_eq!(puppet::calls(&tag), 1);
    }

    async fn a_process_may_end_as_it_starts(world: World) {
        world.with_puppet().await;
        let told = world.ask(&start(&json!({ "quorum": 0 }))).await;
        let record = World::record(&told);
        assert_eq!(told.event.event_type, "org.metagov.process.started");
        let ended = next(world, record.id, "completed").await;
        assert!(ended.event.sequence > told.event.sequence);
    }

    async fn a_start_that_fails_leaves_a_failed_record_and_one_that_is_refused_leaves_none(world: World) {
        world.with_puppet().await;
        let told = world.ask(&start(&json!({ "quorum": 1, "start": "fail" }))).await;
        assert_eq!(told.event.event_type, "org.metagov.process.failed");
        let record = World::record(&told);
        assert_eq!(record.problem.expect("why").detail, "the puppet has no ballot box");
        let told = world.ask(&start(&json!({ "quorum": 1, "start": "reject" }))).await;
        assert_eq!(told.event.event_type, "org.metagov.command.rejected");
    }

    async fn the_scheduler_polls_an_open_process_and_every_visible_change_is_told(world: World) {
        world.with_puppet().await;
        let script = json!({ "quorum": 9, "tag": world.prefix, "script": ["retry", "answer", "fail", "answer"] });
        let record = World::record(&world.ask(&start(&script)).await);
        let is = |r: &Received| {
            r.event.event_type == "org.metagov.process.updated" && r.event.subject == Some(record.id.to_string())
        };
        let told = world.mail.wait_for(3, "three updates", is).await;
        let records: Vec<_> = told.iter().map(World::record).collect();
        assert_eq!(records[0].outcome["polls"], 1, "a poll that is to be retried keeps nothing");
        assert_eq!(records[1].errors[0].detail, "the puppet lost a ballot");
        assert!(records[2].errors.is_empty(), "the next poll that succeeds clears the errors");
        assert!(told.windows(2).all(|pair| pair[0].event.sequence < pair[1].event.sequence));
    }

    async fn a_platform_that_asks_for_time_is_not_polled_before(world: World) {
        world.with_puppet().await;
        let tag = format!("patient {}", world.prefix);
        let script = json!({ "quorum": 9, "tag": tag, "script": ["retry-in6500-ms", "answer"] });
        let record = World::record(&world.ask(&start(&script)).await);
        until("it is polled", || puppet::calls(&tag) == 1).await;
        let asked = std::time::Instant::now();
        next(world, record.id, "updated").await;
        assert!(asked.elapsed() > Duration::from_secs(6), "it was polled again after {:?}", asked.elapsed());
    }

    async fn while_no_worker_runs_what_is_due_waits_in_the_database_and_not_in_the_queue(world: World) {
        world.with_puppet().await;
        world.crash().await;
        world.start_scheduler().await;
        let queue = Queue::Poll(Name::new("puppet").expect("a name"));
        // The puppet is ticked each second, and would be five times.
        let watched = async {
            loop {
                let depth = world.driver.depth(&queue).await.expect("the broker tells");
                assert_eq!((depth.waiting, depth.consumers), (0, 0));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _five_seconds_over = tokio::time::timeout(Duration::from_secs(5), watched).await;
        assert!(!world.store.due_plugins().await.expect("the database answers").is_empty(), "it is still due");

        world.start_worker().await;
        let caught_up = async {
            while !world.store.due_plugins().await.expect("the database answers").is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), caught_up).await.expect("it is caught up with");
    }

    async fn a_vote_with_a_delay_is_closed_by_the_clock(world: World) {
        world.with_plugins(&json!([{ "name": "randomness", "config": { "default_low": 1, "default_high": 7 } }])).await;
        let body = json!({ "community": COMMUNITY, "parameters": { "options": ["a", "b"], "delay": 0 } });
        let told = world.tell("process.randomness.delayed-stochastic-vote.start", &body).await;
        let record = World::record(&told);
        assert!(record.closes_at.is_some());
        let ended = World::record(&next(world, record.id, "completed").await);
        assert!(["a", "b"].contains(&ended.outcome["winner"].as_str().expect("a winner")));
    }

    async fn what_cannot_be_closed_says_so_and_stays_open(world: World) {
        world.with_puppet().await;
        let record = World::record(&world.ask(&start(&json!({ "quorum": 1 }))).await);
        let told = world.ask(&close(record.id)).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/not-closable");
        let stored = world.store.process(&World::community(), record.id).await.expect("it answers").expect("it is there");
        assert_eq!(stored.record.status, ProcessStatus::Pending);
    }

    async fn a_process_of_another_community_is_not_found(world: World) {
        world.with_puppet().await;
        let record = World::record(&world.ask(&start(&json!({ "quorum": 1, "closable": true }))).await);
        let others = json!({ "slug": "others", "plugins": [{ "name": "puppet", "config": {} }] });
        world.tell("community.apply", &others).await;
        let body = json!({ "community": "others", "process_id": record.id });
        let told = world.tell("process.puppet.ballot.close", &body).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/not-found");
        assert_eq!(told.message.routing_key, "others.puppet.command.rejected");
    }
}
