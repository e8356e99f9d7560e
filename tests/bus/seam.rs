//! What the seam promises, told by the same code on every bus behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use metagov::bus::{
    ATTEMPT_HEADER, BusError, DeadVerdict, DelayStep, Destination, Outgoing, Properties, Published, Queue,
    REASON_HEADER, has_expired,
};
use rand::seq::SliceRandom;
use tokio::time::Instant;

use super::rig::{On, Rig, command, connect, event, id, message, next, plugin, soon, tell};

macro_rules! on_both {
    ($($story:ident),* $(,)?) => {
        mod on_rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                super::tell(super::On::RabbitMq, super::$story).await;
            })*
        }
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $story() {
                super::tell(super::On::InProcess, super::$story).await;
            })*
        }
    };
}

on_both!(
    a_command_is_delivered_once_and_gone_when_it_is_acknowledged,
    commands_keep_the_order_of_their_publishing,
    everything_that_the_contract_names_survives_the_way,
    a_command_that_was_not_acknowledged_comes_again,
    no_more_is_delivered_than_was_asked_for,
    acknowledging_in_any_order_takes_nothing_else_along,
    a_message_that_nobody_wants_is_told_from_its_neighbours,
    a_command_that_no_plugin_wants_reaches_the_unrouted_queue,
    a_delayed_copy_comes_back_to_its_own_queue_and_not_too_early,
    a_message_that_comes_back_too_often_is_set_aside,
    a_command_that_expires_in_its_queue_is_no_dead_letter,
    dead_letters_are_kept_retried_or_discarded_as_decided,
    a_subscription_gets_what_its_patterns_want_and_nothing_else,
    a_reply_reaches_the_queue_that_asked_for_it,
    a_reply_to_a_queue_of_the_brokers_or_of_nobody_is_unrouted,
    stopping_hands_back_what_was_not_begun_and_keeps_receipts_good,
    a_closed_bus_says_so,
);

async fn publish(rig: &Rig, messages: Vec<Outgoing>) -> Vec<Published> {
    soon("publishing", rig.bus.publish(messages)).await.expect("the bus is open")
}

async fn a_command_is_delivered_once_and_gone_when_it_is_acknowledged(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 10);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    assert_eq!(publish(&rig, vec![command("one")]).await, [Published::Routed]);

    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery.message), "one");
    assert_eq!(delivery.message.routing_key, "action.randomness.random-int");
    assert!(!delivery.redelivered);
    delivery.receipt.ack();
    drop(deliveries);

    let mut others = rig.bus.consume(Queue::Plugin(plugin()), 10);
    publish(&rig, vec![command("two")]).await;
    assert_eq!(id(&next(&mut others).await.message), "two", "the first one is gone");
}

async fn commands_keep_the_order_of_their_publishing(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 100);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    publish(&rig, (0..300).map(command).collect()).await;
    publish(&rig, (300..500).map(command).collect()).await;
    for expected in 0..500 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(id(&delivery.message), expected.to_string());
        delivery.receipt.ack();
    }
}

async fn everything_that_the_contract_names_survives_the_way(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 10);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    let mut sent = command("id");
    sent.message.body = vec![0, 159, 146, 150, 255].into();
    sent.message.properties = Properties {
        content_type: Some("application/json".to_owned()),
        message_id: Some("id".to_owned()),
        correlation_id: Some("correlation".to_owned()),
        reply_to: Some("my-queue".to_owned()),
        message_type: Some("org.metagov.action.completed".to_owned()),
        timestamp: Some(1_790_000_000),
        user_id: None,
        expiration: Some(Duration::from_mins(1)),
        headers: BTreeMap::from([("traceparent".to_owned(), "00-aa-bb-01".to_owned())]),
    };
    publish(&rig, vec![sent.clone()]).await;
    assert_eq!(next(&mut deliveries).await.message, sent.message);
}

async fn a_command_that_was_not_acknowledged_comes_again(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 10);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    publish(&rig, vec![command("one")]).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.delivery_count.unwrap_or(0), 0);
    drop(delivery);
    drop(deliveries);

    let mut others = rig.bus.consume(Queue::Plugin(plugin()), 10);
    let again = next(&mut others).await;
    assert_eq!(id(&again.message), "one");
    assert!(again.redelivered);
    assert_eq!(again.delivery_count, Some(1));
}

async fn no_more_is_delivered_than_was_asked_for(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 2);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    publish(&rig, (0..3).map(command).collect()).await;
    let first = next(&mut deliveries).await;
    let _second = next(&mut deliveries).await;
    // What is left goes to somebody else, so it cannot have been fetched.
    let mut others = rig.bus.consume(Queue::Plugin(plugin()), 2);
    let third = next(&mut others).await;
    assert_eq!(id(&third.message), "2");
    assert!(deliveries.try_recv().is_none());
    first.receipt.ack();
    third.receipt.ack();
    publish(&rig, vec![command("4"), command("5"), command("6")]).await;
    assert_ne!(id(&next(&mut deliveries).await.message), "2");
}

async fn acknowledging_in_any_order_takes_nothing_else_along(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 500);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    publish(&rig, (0..500).map(command).collect()).await;
    let mut held = Vec::new();
    for _ in 0..500 {
        held.push(next(&mut deliveries).await);
    }
    held.shuffle(&mut rand::rng());
    let kept: Vec<String> = held.split_off(490).iter().map(|delivery| id(&delivery.message).to_owned()).collect();
    for delivery in held {
        delivery.receipt.ack();
        tokio::task::yield_now().await;
    }
    drop(deliveries);

    // A broker may deliver again what was acknowledged in the last moment, but never forgets what was not.
    let mut others = rig.bus.consume(Queue::Plugin(plugin()), 500);
    let mut missing: BTreeSet<String> = kept.into_iter().collect();
    while !missing.is_empty() {
        let delivery = next(&mut others).await;
        missing.remove(id(&delivery.message));
        delivery.receipt.ack();
    }
}

async fn a_message_that_nobody_wants_is_told_from_its_neighbours(rig: Rig) {
    let mut events = rig.bus.subscribe(&["wanted.#".to_owned()]).await.expect("a subscription");
    let messages: Vec<Outgoing> =
        (0..300).map(|n| event(if n % 3 == 0 { "wanted.a.b" } else { "unwanted.a.b" }, n)).collect();
    let halves = [messages[..150].to_vec(), messages[150..].to_vec()];
    let [first, second] = halves;
    let (first, second) = tokio::join!(publish(&rig, first), publish(&rig, second));
    for (n, published) in first.into_iter().chain(second).enumerate() {
        let expected = if n % 3 == 0 { Published::Routed } else { Published::Unrouted };
        assert_eq!(published, expected, "message {n}");
    }
    for n in (0..300).filter(|n| n % 3 == 0) {
        assert_eq!(id(&soon("an event", events.recv()).await.expect("it is open")), n.to_string());
    }
}

async fn a_command_that_no_plugin_wants_reaches_the_unrouted_queue(rig: Rig) {
    let mut unrouted = rig.bus.consume(Queue::Unrouted, 10);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    let lost = Outgoing { to: Destination::Commands, message: message("action.no-such-plugin.x", "lost") };
    assert_eq!(publish(&rig, vec![lost]).await, [Published::Routed], "nobody is told `unrouted`: it is answered");
    let delivery = next(&mut unrouted).await;
    assert_eq!(delivery.message.routing_key, "action.no-such-plugin.x");
}

async fn a_delayed_copy_comes_back_to_its_own_queue_and_not_too_early(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Poll(plugin()), 10);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    let begun = Instant::now();
    let mut copy = message("tick.randomness", "delayed");
    copy.properties.headers.insert(ATTEMPT_HEADER.to_owned(), "2".to_owned());
    copy.properties.expiration = Some(Duration::from_millis(1));
    let delayed = Outgoing { to: Destination::Delay(DelayStep::OneSecond), message: copy };
    assert_eq!(publish(&rig, vec![delayed]).await, [Published::Routed]);

    let delivery = next(&mut deliveries).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "after {:?}", begun.elapsed());
    assert_eq!(delivery.message.routing_key, "tick.randomness");
    assert_eq!(delivery.message.properties.headers.get(ATTEMPT_HEADER).map(String::as_str), Some("2"));
    assert_eq!(delivery.message.properties.expiration, None, "the next queue would throw it away");
}

async fn a_message_that_comes_back_too_often_is_set_aside(rig: Rig) {
    publish(&rig, vec![]).await;
    let mut seen = 0;
    rig.bus.apply_topology(&[plugin()]).await.expect("it is declared");
    publish(&rig, vec![command("deadly")]).await;
    // The limit of these settings is 2: it may come back twice.
    for expected in 0..=2 {
        let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 1);
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.delivery_count.unwrap_or(0), expected);
        assert_eq!(delivery.last_chance, expected > 0, "it is told before it is too late, and once more");
        seen += 1;
    }
    assert_eq!(seen, 3);

    let dead = soon("a dead letter", async {
        loop {
            let dead = rig.bus.dead_letters(&mut |_| DeadVerdict::Keep).await.expect("they can be read");
            if !dead.is_empty() {
                return dead;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(dead[0].id(), "deadly");
    assert_eq!(dead[0].reason(), Some("delivery_limit"));
    assert_eq!(dead[0].queue(), Some(format!("{}.plugin.randomness", rig.settings.prefix).as_str()));
}

async fn a_command_that_expires_in_its_queue_is_no_dead_letter(rig: Rig) {
    let mut expired = rig.bus.consume(Queue::Expired, 10);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    rig.bus.apply_topology(&[plugin()]).await.expect("it is declared");
    let mut late = command("late");
    late.message.properties.expiration = Some(Duration::from_millis(1));
    let dead = Outgoing { to: Destination::Dead, ..command("dead") };
    publish(&rig, vec![late, dead]).await;

    let delivery = next(&mut expired).await;
    assert_eq!(
        (id(&delivery.message), delivery.message.routing_key.as_str()),
        ("late", "action.randomness.random-int")
    );
    assert!(has_expired(&delivery.message));
    let letters = rig.bus.dead_letters(&mut |_| DeadVerdict::Discard).await.expect("they can be read");
    assert_eq!(letters.iter().map(metagov::bus::DeadLetter::id).collect::<Vec<_>>(), ["dead"]);
}

async fn dead_letters_are_kept_retried_or_discarded_as_decided(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 10);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    let dead = ["keep", "retry", "discard"].map(|id| {
        let mut dead = Outgoing { to: Destination::Dead, ..command(id) };
        dead.message.properties.headers.insert(REASON_HEADER.to_owned(), "unreadable".to_owned());
        dead.message.properties.headers.insert(ATTEMPT_HEADER.to_owned(), "5".to_owned());
        dead
    });
    publish(&rig, dead.to_vec()).await;

    let shown = rig
        .bus
        .dead_letters(&mut |letter| match letter.id().as_str() {
            "retry" => DeadVerdict::Retry,
            "discard" => DeadVerdict::Discard,
            _ => DeadVerdict::Keep,
        })
        .await
        .expect("they can be read");
    let ids: Vec<String> = shown.iter().map(metagov::bus::DeadLetter::id).collect();
    assert_eq!(ids, ["keep", "retry", "discard"]);
    assert!(shown.iter().all(|letter| letter.reason() == Some("unreadable")));

    let retried = next(&mut deliveries).await;
    assert_eq!(id(&retried.message), "retry");
    assert!(retried.message.properties.headers.is_empty(), "it gets all its attempts again");
    let left = rig.bus.dead_letters(&mut |_| DeadVerdict::Keep).await.expect("they can be read");
    assert_eq!(left.iter().map(metagov::bus::DeadLetter::id).collect::<Vec<_>>(), ["keep"]);
}

async fn a_subscription_gets_what_its_patterns_want_and_nothing_else(rig: Rig) {
    let patterns = ["my-town.*.action.#".to_owned(), "#.completed".to_owned()];
    let mut events = rig.bus.subscribe(&patterns).await.expect("a subscription");
    let keys = [
        ("my-town.slack.action.post.failed", true),
        ("my-town.slack.action.post.completed", true),
        ("other.slack.action.post.failed", false),
        ("other.slack.process.vote.completed", true),
        ("my-town.slack.process.vote.updated", false),
        ("my-town.slack.action", true),
        ("end.completed", true),
    ];
    let published = publish(&rig, keys.iter().map(|(key, _)| event(key, key)).collect()).await;
    for ((key, wanted), published) in keys.iter().zip(published) {
        assert_eq!(published == Published::Routed, *wanted, "{key}");
        if *wanted {
            assert_eq!(id(&soon("an event", events.recv()).await.expect("it is open")), *key);
        }
    }
}

async fn a_reply_reaches_the_queue_that_asked_for_it(rig: Rig) {
    let mut replies = rig.bus.subscribe(&[]).await.expect("a subscription");
    let reply = Outgoing {
        to: Destination::Reply { queue: replies.queue().to_owned() },
        message: message("my-town.randomness.action.random-int.completed", "answer"),
    };
    assert_eq!(publish(&rig, vec![reply]).await, [Published::Routed]);
    assert_eq!(id(&soon("a reply", replies.recv()).await.expect("it is open")), "answer");
}

async fn a_reply_to_a_queue_of_the_brokers_or_of_nobody_is_unrouted(rig: Rig) {
    let too_long = "q".repeat(300);
    for queue in ["", "amq.topic", "amq.genuine", "amq.gen-nobodys", "no-such-queue", too_long.as_str()] {
        let reply =
            Outgoing { to: Destination::Reply { queue: queue.to_owned() }, message: message("some.key", "answer") };
        assert_eq!(publish(&rig, vec![reply]).await, [Published::Unrouted], "{queue}");
    }
}

async fn stopping_hands_back_what_was_not_begun_and_keeps_receipts_good(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 10);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    publish(&rig, (0..5).map(command).collect()).await;
    let begun = next(&mut deliveries).await;
    rig.bus.stop_consuming();
    assert!(soon("the end", deliveries.recv()).await.is_none());
    assert!(deliveries.try_recv().is_none());
    begun.receipt.ack();
    rig.bus.close().await;
    if secrecy::ExposeSecret::expose_secret(&rig.settings.url) == "memory" {
        return; // what is in memory ends with its bus
    }

    let another = connect(&rig.settings).await;
    let mut others = another.consume(Queue::Plugin(plugin()), 10);
    for expected in 1..5 {
        assert_eq!(id(&next(&mut others).await.message), expected.to_string());
    }
    another.close().await;
}

async fn a_closed_bus_says_so(rig: Rig) {
    let mut deliveries = rig.bus.consume(Queue::Core, 10);
    soon("consuming", rig.bus.wait_until_consuming()).await;
    let mut events = rig.bus.subscribe(&[]).await.expect("a subscription");
    assert!(rig.bus.is_connected());
    soon("closing", rig.bus.close()).await;
    assert!(!rig.bus.is_connected());
    assert!(soon("the end", deliveries.recv()).await.is_none());
    assert!(soon("the end", events.recv()).await.is_none());
    assert!(matches!(rig.bus.publish(vec![command("late")]).await, Err(BusError::Closed)));
    assert!(matches!(rig.bus.subscribe(&[]).await, Err(BusError::Closed)));
}
