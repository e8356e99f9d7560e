//! What a broker in trouble does to the bus: alarms, hanging, refusals, late acknowledgements, missing dead letters.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use lapin::options::QueueDeleteOptions;
use metagov::bus::{Bus, DeadVerdict, Outgoing, Published, Queue, Refusal, Settings};
use secrecy::SecretString;

use super::{
    broker::Broker,
    rig::{amqp_url, command, connect, event, id, next, plugin, raw_channel_to, remove, settings, soon},
};

/// Waits until what is asked for holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn sized(id: &str, bytes: usize) -> Outgoing {
    let mut outgoing = event("wanted.by.me", id);
    outgoing.message.body = Bytes::from(vec![b'x'; bytes]);
    outgoing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_for_the_broker_is_answered_for_and_nothing_waits_behind_it() {
    let broker = Broker::start();
    broker.set("max_message_size", "65536");
    let bus = connect(&broker.settings()).await;
    let mut events = soon("a subscription", bus.subscribe(&["wanted.#".to_owned()])).await.expect("a subscription");

    let mut messages: Vec<Outgoing> = (0..50).map(|n| event("wanted.by.me", n)).collect();
    messages.insert(20, sized("huge", 65_537));
    messages.insert(40, sized("huge too", 100_000));
    messages.insert(30, event("nobody.wants.it", "unwanted"));
    let fates = soon("publishing", bus.publish(messages.clone())).await.expect("it is open");
    for (message, fate) in messages.iter().zip(fates) {
        let expected = match id(&message.message) {
            "huge" | "huge too" => Published::Refused(Refusal::Unacceptable),
            "unwanted" => Published::Unrouted,
            _ => Published::Routed,
        };
        assert_eq!(fate, expected, "{}", id(&message.message));
    }
    let mut missing: BTreeSet<String> = (0..50).map(|n: i32| n.to_string()).collect();
    while !missing.is_empty() {
        missing.remove(id(&soon("an event", events.recv()).await.expect("it goes on")));
    }
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_brokers_user_may_not_publish_is_answered_for() {
    let broker = Broker::start();
    let settings = broker.settings();
    // Who owns the broker declares everything; the service may read, and publish commands only.
    let owner = connect(&settings).await;
    soon("declaring", owner.apply_topology(&[plugin()])).await.expect("it is declared");
    broker.ctl(&["add_user", "service", "secret"]);
    let commands = format!("^{}\\.commands$", settings.prefix);
    broker.ctl(&["set_permissions", "service", "^$", &commands, ".*"]);
    let url = SecretString::from(broker.url.replace("guest:guest", "service:secret"));
    let bus = connect(&Settings { url, declare: false, ..settings.clone() }).await;

    let mixed = vec![command("one"), event("some.event", "two"), command("three")];
    let fates = soon("publishing", bus.publish(mixed)).await.expect("it is open");
    assert_eq!(fates, [Published::Routed, Published::Refused(Refusal::Forbidden), Published::Routed]);
    bus.close().await;
    owner.close().await;
}

/// A bus that consumes with everything that was published to it in hand.
async fn busy(settings: &Settings, commands: usize) -> (Bus, metagov::bus::Deliveries, Vec<metagov::bus::Delivery>) {
    let bus = connect(settings).await;
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 100);
    soon("consuming", bus.wait_until_consuming()).await;
    bus.publish((0..commands).map(command).collect()).await.expect("it is open");
    let mut held = Vec::new();
    for _ in 0..commands {
        held.push(next(&mut deliveries).await);
    }
    (bus, deliveries, held)
}

async fn an_alarm_stops_publishing_and_nothing_else(raise: &[&str], clear: &[&str]) {
    let broker = Broker::start();
    let settings = broker.settings();
    let (bus, mut deliveries, held) = busy(&settings, 50).await;
    assert_eq!(bus.standing().broker, Ok(()));
    broker.ctl(raise);
    let publishing = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish((50..100).map(command).collect()).await }
    });
    until("the alarm being told", || bus.standing().broker.is_err()).await;
    let told = bus.standing().broker.expect_err("it is told");
    assert!(told.contains("short of memory or disk"), "{told}");

    for delivery in held {
        delivery.receipt.ack();
    }
    let queue = format!("{}.plugin.randomness", settings.prefix);
    until("the acknowledgements", || {
        broker
            .ctl(&["list_queues", "name", "messages_unacknowledged"])
            .lines()
            .any(|line| line.split_whitespace().eq([queue.as_str(), "0"]))
    })
    .await;
    assert!(!publishing.is_finished(), "nothing is published while the alarm lasts");

    let cleared = Instant::now();
    broker.ctl(clear);
    let published = soon("publishing", publishing).await.expect("no panic").expect("it is open");
    assert!(published.iter().all(|published| *published == Published::Routed));
    println!("all published {:?} after the alarm", cleared.elapsed());
    let mut missing: BTreeSet<String> = (50..100).map(|n: i32| n.to_string()).collect();
    while !missing.is_empty() {
        let delivery = next(&mut deliveries).await;
        missing.remove(id(&delivery.message));
        delivery.receipt.ack();
    }
    until("readiness", || bus.standing().broker.is_ok()).await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_memory_takes_acknowledgements_and_later_the_rest() {
    let low = ["set_vm_memory_high_watermark", "0"];
    an_alarm_stops_publishing_and_nothing_else(&low, &["set_vm_memory_high_watermark", "0.6"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_disk_takes_acknowledgements_and_later_the_rest() {
    let low = ["set_disk_free_limit", "100000GB"];
    an_alarm_stops_publishing_and_nothing_else(&low, &["set_disk_free_limit", "10MB"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_is_noticed_and_found_again() {
    let broker = Broker::start();
    let settings = Settings { heartbeat: Duration::from_secs(1), delivery_limit: 1000, ..broker.settings() };
    let (bus, mut deliveries, held) = busy(&settings, 10).await;
    broker.tell("pause", &[]);
    let publishing = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(vec![command("meanwhile")]).await }
    });
    let paused = Instant::now();
    until("noticing", || bus.standing().broker.is_err() && bus.standing().queues.is_err()).await;
    println!("noticed after {:?}; two heartbeats of a second, and a look each second", paused.elapsed());
    drop(held);

    broker.tell("resume", &[]);
    let resumed = Instant::now();
    soon("publishing", publishing).await.expect("no panic").expect("it is open");
    let mut missing: BTreeSet<String> = (0..10).map(|n: i32| n.to_string()).chain(["meanwhile".to_owned()]).collect();
    while !missing.is_empty() {
        let delivery = next(&mut deliveries).await;
        missing.remove(id(&delivery.message));
        delivery.receipt.ack();
    }
    println!("all delivered {:?} after the broker went on", resumed.elapsed());
    until("readiness", || bus.standing().broker.is_ok() && bus.standing().queues.is_ok()).await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_acknowledgement_costs_its_consumer_one_channel_and_others_nothing() {
    const ACKNOWLEDGED_WITHIN_MS: &str = "3000";
    let broker = Broker::start();
    broker.set("consumer_timeout", ACKNOWLEDGED_WITHIN_MS);
    broker.set("channel_tick_interval", "500");
    let settings = Settings { delivery_limit: 1000, ..broker.settings() };
    let bus = connect(&settings).await;
    let mut slow = bus.consume(Queue::Plugin(plugin()), 10);
    let mut other = bus.consume(Queue::Poll(plugin()), 10);
    soon("consuming", bus.wait_until_consuming()).await;
    bus.publish((0..3).map(command).collect()).await.expect("it is open");
    let first = next(&mut slow).await;

    soon("the broker's patience", async {
        while !first.receipt.is_stale() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let lost = Instant::now();
    let again = next(&mut slow).await;
    println!("a new channel took {:?}", lost.elapsed());
    assert!(again.redelivered);
    first.receipt.ack();
    let mut times = vec![id(&again.message).to_owned()];
    again.receipt.ack();
    while times.len() < 3 {
        let delivery = next(&mut slow).await;
        times.push(id(&delivery.message).to_owned());
        delivery.receipt.ack();
    }
    // What the lost channel had fetched is not handed out besides its redelivery.
    times.sort();
    assert_eq!(times, ["0", "1", "2"]);

    let mut tick = command("tick");
    tick.message.routing_key = "tick.randomness".to_owned();
    bus.publish(vec![tick]).await.expect("it is open");
    let tick = next(&mut other).await;
    assert_eq!(tick.delivery_count.unwrap_or(0), 0);
    tick.receipt.ack();
    assert!(slow.try_recv().is_none(), "nothing came twice");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_leave_to_declare_a_deleted_queue_is_told_with_its_remedy_until_it_is_back() {
    let broker = Broker::start();
    let settings = Settings { declare: false, ..broker.settings() };
    let bus = connect(&settings).await;
    bus.apply_topology(&[plugin()]).await.expect("it is asked for by name");
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 10);
    soon("consuming", bus.wait_until_consuming()).await;
    assert_eq!(bus.standing().queues, Ok(()));

    let (_connection, channel) = raw_channel_to(&broker.url).await;
    let queue = format!("{}.plugin.randomness", settings.prefix);
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.expect("it goes");
    let deleted = Instant::now();
    until("the remedy", || {
        bus.standing()
            .queues
            .err()
            .is_some_and(|told| told.contains(&queue) && told.contains("`metagov topology apply`"))
    })
    .await;
    println!("noticed {:?} after the queue was deleted", deleted.elapsed());

    // Long enough for the pauses to have grown to their longest.
    tokio::time::sleep(Duration::from_secs(6)).await;
    bus.apply_topology(&[plugin()]).await.expect("it is asked for by name");
    let applied = Instant::now();
    until("consuming", || bus.standing().queues.is_ok()).await;
    println!("consuming {:?} after the queue was declared", applied.elapsed());
    bus.publish(vec![command("after")]).await.expect("it is open");
    assert_eq!(id(&next(&mut deliveries).await.message), "after");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_wait_for_their_queue_where_it_is_missing() {
    const DEAD: usize = 100;
    let broker = Broker::start();
    // How long the broker waits before it tries again to hand a dead letter on: three minutes, otherwise.
    broker.set("dead_letter_worker_publisher_confirm_timeout", "1000");
    let settings = Settings { delivery_limit: 1, ..broker.settings() };
    let bus = connect(&settings).await;
    bus.apply_topology(&[plugin()]).await.expect("it is declared");
    let (_connection, channel) = raw_channel_to(&broker.url).await;
    let dead = format!("{}.dead", settings.prefix);
    bus.publish((0..DEAD).map(command).collect()).await.expect("it is open");
    // Without leave to declare, or the consumers would bring the queue back.
    let killers = connect(&Settings { declare: false, ..settings.clone() }).await;
    channel.queue_delete(dead.as_str().into(), QueueDeleteOptions::default()).await.expect("it goes");
    for _ in 0..2 {
        let mut deliveries = killers.consume(Queue::Plugin(plugin()), 100);
        for _ in 0..DEAD {
            drop(next(&mut deliveries).await);
        }
    }
    let mut survivors = killers.consume(Queue::Plugin(plugin()), 100);
    soon("consuming", killers.wait_until_consuming()).await;
    assert!(survivors.try_recv().is_none(), "all are dead");
    drop(survivors);

    bus.apply_topology(&[plugin()]).await.expect("it is declared again");
    let mut missing: BTreeSet<String> = (0..DEAD).map(|n| n.to_string()).collect();
    soon("every dead letter", async {
        while !missing.is_empty() {
            for letter in bus.dead_letters(&mut |_| DeadVerdict::Discard).await.expect("they can be read") {
                missing.remove(&letter.id());
            }
        }
    })
    .await;
    killers.close().await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_tells_how_much_waits_and_for_how_many() {
    let settings = settings(&amqp_url());
    let bus = connect(&settings).await;
    let memory = Bus::in_process("depth");
    for bus in [&bus, &memory] {
        let queue = Queue::Poll(plugin());
        let nothing = metagov::bus::Depth::default();
        assert_eq!(soon("looking", bus.depth(&queue)).await.expect("it is open"), nothing, "there is no such queue");
        bus.apply_topology(&[plugin()]).await.expect("it is declared");
        let polls = |from: u32, to: u32| {
            (from..to)
                .map(|n| {
                    let mut poll = command(n);
                    poll.message.routing_key = "poll.randomness.vote".to_owned();
                    poll
                })
                .collect()
        };
        bus.publish(polls(0, 3)).await.expect("it is open");
        let depth = bus.depth(&queue).await.expect("it is open");
        assert_eq!((depth.waiting, depth.consumers), (3, 0));
        let mut deliveries = bus.consume(queue.clone(), 2);
        soon("consuming", bus.wait_until_consuming()).await;
        let held = [next(&mut deliveries).await, next(&mut deliveries).await];
        let depth = bus.depth(&queue).await.expect("it is open");
        assert_eq!((depth.waiting, depth.consumers), (1, 1));
        drop(held);
    }
    memory.close().await;
    bus.close().await;
    remove(&settings.prefix).await;
}
