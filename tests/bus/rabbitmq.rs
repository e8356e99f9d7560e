//! What only a real broker can do to the bus: be away, cut, hang, forget a queue, and speak with foreign clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    BasicProperties,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, LongString},
};
use metagov::bus::{
    Bus, BusError, DeadLetter, DeadVerdict, Destination, Outgoing, Published, Queue, Refusal, Settings,
};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    proxy::Proxy,
    rig::{
        On, Rig, amqp_url, command, connect, event, id, message, next, plugin, raw_channel, raw_channel_to, remove,
        settings, soon, tell,
    },
};

/// Host and port of the test broker, and its URL with these replaced by the proxy's.
fn by_way_of(proxy: &Proxy) -> String {
    amqp_url().replace(&broker_address(), &proxy.address.to_string())
}

fn broker_address() -> String {
    let url = amqp_url();
    let after_credentials = url.rsplit_once('@').map_or(url.as_str(), |(_, rest)| rest);
    let address = after_credentials.trim_start_matches("amqp://").split(['/', '?']).next().unwrap_or_default();
    assert!(address.contains(':'), "METAGOV_TEST_AMQP_URL must name host and port");
    address.to_owned()
}

/// A bus whose connections go through a proxy.
async fn proxied(heartbeat: Duration) -> (Proxy, Settings, Bus) {
    let proxy = Proxy::to(broker_address()).await;
    let settings = Settings { heartbeat, delivery_limit: 1000, ..settings(&by_way_of(&proxy)) };
    let bus = connect(&settings).await;
    (proxy, settings, bus)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_version_has_bound_makes_no_second_copy() {
    tell(On::RabbitMq, |rig: Rig| async move {
        rig.bus.apply_topology(&[plugin()]).await.expect("it is declared");
        let (_connection, channel) = raw_channel().await;
        let dead = format!("{}.dead", rig.settings.prefix);
        let bound = channel.queue_bind(
            dead.as_str().into(),
            dead.as_str().into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.expect("as earlier versions did");
        rig.bus.apply_topology(&[plugin()]).await.expect("an upgrade");
        let letter = Outgoing { to: Destination::Dead, ..command("letter") };
        assert_eq!(rig.bus.publish(vec![letter]).await.expect("it is open"), [Published::Routed]);
        let mut late = command("late");
        late.message.properties.expiration = Some(Duration::from_millis(1));
        rig.bus.publish(vec![late]).await.expect("it is open");
        let mut expired = rig.bus.consume(Queue::Expired, 10);
        assert_eq!(id(&next(&mut expired).await.message), "late");
        let letters = rig.bus.dead_letters(&mut |_| DeadVerdict::Discard).await.expect("they can be read");
        assert_eq!(letters.iter().map(DeadLetter::id).collect::<Vec<_>>(), ["letter"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_connections_are_cut_again_and_again() {
    const COMMANDS: usize = 4000;
    let (proxy, settings, bus) = proxied(Duration::from_secs(10)).await;
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 100);
    soon("consuming", bus.wait_until_consuming()).await;

    let publisher = tokio::spawn({
        let bus = bus.clone();
        async move {
            for batch in 0..COMMANDS / 100 {
                let commands = (batch * 100..(batch + 1) * 100).map(command).collect();
                let published = bus.publish(commands).await.expect("the bus is open");
                assert!(published.iter().all(|published| *published == Published::Routed));
            }
        }
    });
    let mut seen = BTreeSet::new();
    soon("every command", async {
        while seen.len() < COMMANDS {
            let delivery = next(&mut deliveries).await;
            let fresh = seen.insert(id(&delivery.message).to_owned());
            if fresh && seen.len().is_multiple_of(500) {
                proxy.cut();
            }
            delivery.receipt.ack();
        }
    })
    .await;
    soon("the end of publishing", publisher).await.expect("it did not panic");
    bus.close().await;
    remove(&settings.prefix).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_but_never_confirmed_is_published_again_under_the_same_id() {
    const ROUNDS: usize = 25;
    let (proxy, settings, bus) = proxied(Duration::from_secs(10)).await;
    let direct = connect(&Settings { url: SecretString::from(amqp_url()), ..settings.clone() }).await;
    let mut deliveries = direct.consume(Queue::Plugin(plugin()), 100);
    soon("consuming", direct.wait_until_consuming()).await;
    let mut seen = BTreeMap::<String, usize>::new();
    for round in 0..ROUNDS {
        // The connection stands, and has published before.
        bus.publish(vec![command(format!("before {round}"))]).await.expect("it is open");
        proxy.mute();
        let publishing = tokio::spawn({
            let bus = bus.clone();
            async move { bus.publish((0..4).map(|n| command(format!("{round}.{n}"))).collect()).await }
        });
        while (0..4).any(|n| !seen.contains_key(&format!("{round}.{n}"))) {
            let delivery = next(&mut deliveries).await;
            *seen.entry(id(&delivery.message).to_owned()).or_default() += 1;
            delivery.receipt.ack();
        }
        assert!(!publishing.is_finished(), "no confirm has come through");
        // In this order: a confirm that is under way must not slip through in between.
        proxy.cut();
        proxy.pass();
        let fates = soon("publishing", publishing).await.expect("no panic").expect("it is open");
        assert_eq!(fates, [Published::Routed; 4]);
    }
    bus.publish(vec![command("last")]).await.expect("it is open");
    while !seen.contains_key("last") {
        let delivery = next(&mut deliveries).await;
        *seen.entry(id(&delivery.message).to_owned()).or_default() += 1;
        delivery.receipt.ack();
    }
    for (id, times) in seen.iter().filter(|(id, _)| id.contains('.')) {
        assert_eq!(*times, 2, "{id}: once before the cut and once after it");
    }
    bus.close().await;
    direct.close().await;
    remove(&settings.prefix).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_swallows_everything_is_noticed_and_replaced() {
    let (proxy, settings, bus) = proxied(Duration::from_secs(1)).await;
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 10);
    soon("consuming", bus.wait_until_consuming()).await;
    proxy.swallow();
    let publishing = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(vec![command("through")]).await }
    });
    soon("noticing", async {
        while bus.is_connected() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    proxy.pass();
    proxy.cut();
    assert_eq!(soon("publishing", publishing).await.expect("no panic").expect("it is open"), [Published::Routed]);
    assert_eq!(id(&next(&mut deliveries).await.message), "through");
    bus.close().await;
    remove(&settings.prefix).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_at_the_start_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let settings = settings(&amqp_url().replace(&broker_address(), &address.to_string()));
    let bus = connect(&settings).await;
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 10);
    let publishing = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(vec![command("early")]).await }
    });
    assert!(!bus.is_connected());
    let listener = TcpListener::bind(address).await.expect("the port is still free");
    let _proxy = Proxy::on(listener, broker_address());
    soon("consuming", bus.wait_until_consuming()).await;
    assert_eq!(soon("publishing", publishing).await.expect("no panic").expect("it is open"), [Published::Routed]);
    assert_eq!(id(&next(&mut deliveries).await.message), "early");
    bus.close().await;
    remove(&settings.prefix).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_after_its_connection_died_is_dropped_and_the_command_comes_again() {
    let (proxy, settings, bus) = proxied(Duration::from_secs(10)).await;
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 10);
    soon("consuming", bus.wait_until_consuming()).await;
    bus.publish((0..3).map(command).collect()).await.expect("it is open");
    let first = next(&mut deliveries).await;
    proxy.cut();
    soon("the loss", async {
        while !first.receipt.is_stale() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    first.receipt.ack();
    let mut again = BTreeSet::new();
    while again.len() < 3 {
        let delivery = next(&mut deliveries).await;
        again.insert(id(&delivery.message).to_owned());
        delivery.receipt.ack();
    }
    assert_eq!(again, ["0", "1", "2"].map(str::to_owned).into());
    bus.close().await;
    remove(&settings.prefix).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_under_its_consumer_is_declared_again() {
    tell(On::RabbitMq, |rig: Rig| async move {
        let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 10);
        let mut others = rig.bus.consume(Queue::Core, 10);
        soon("consuming", rig.bus.wait_until_consuming()).await;
        let (_connection, channel) = raw_channel().await;
        let queue = format!("{}.plugin.randomness", rig.settings.prefix);
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.expect("it goes");

        soon("the command", async {
            // Until the queue stands again the command is answered as unrouted; a driver would ask again.
            loop {
                rig.bus.publish(vec![command("after")]).await.expect("it is open");
                if let Ok(delivery) = tokio::time::timeout(Duration::from_millis(200), deliveries.recv()).await {
                    break delivery.expect("the deliveries go on").receipt.ack();
                }
            }
        })
        .await;
        let core = Outgoing { to: Destination::Commands, message: message("community.apply", "core") };
        rig.bus.publish(vec![core]).await.expect("it is open");
        assert_eq!(id(&next(&mut others).await.message), "core", "other consumers notice nothing");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_leave_to_declare_a_consumer_waits_for_the_topology() {
    let strict = Settings { declare: false, ..settings(&amqp_url()) };
    let bus = connect(&strict).await;
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 10);
    let publishing = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(vec![event("nobody.wants.it", "patient")]).await }
    });
    bus.apply_topology(&[plugin()]).await.expect("it is asked for by name");
    soon("consuming", bus.wait_until_consuming()).await;
    assert_eq!(soon("publishing", publishing).await.expect("no panic").expect("it is open"), [Published::Unrouted]);
    bus.publish(vec![command("one")]).await.expect("it is open");
    assert_eq!(id(&next(&mut deliveries).await.message), "one");
    bus.close().await;
    remove(&strict.prefix).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_arguments_of_a_queue_are_an_error_that_names_it() {
    tell(On::RabbitMq, |rig: Rig| async move {
        rig.bus.apply_topology(&[plugin()]).await.expect("it is declared");
        let other = connect(&Settings { delivery_limit: 3, ..rig.settings.clone() }).await;
        let Err(BusError::Declare { entity, .. }) = other.apply_topology(&[plugin()]).await else {
            panic!("other arguments were accepted");
        };
        assert_eq!(entity, format!("{}.unrouted", rig.settings.prefix));
        other.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_link_that_lets_little_through_everything_arrives() {
    const COMMANDS: usize = 200;
    let (proxy, settings, bus) = proxied(Duration::from_secs(10)).await;
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 100);
    soon("consuming", bus.wait_until_consuming()).await;
    proxy.throttle(32 * 1024);
    let published = soon("publishing", bus.publish((0..COMMANDS).map(command).collect())).await.expect("it is open");
    assert!(published.iter().all(|published| *published == Published::Routed));
    for expected in 0..COMMANDS {
        let delivery = next(&mut deliveries).await;
        assert_eq!(id(&delivery.message), expected.to_string());
        delivery.receipt.ack();
    }
    proxy.pass();
    bus.close().await;
    remove(&settings.prefix).await;
}

#[tokio::test]
async fn an_unusable_url_is_refused_at_once_and_its_password_is_not_shown() {
    for url in ["http://u:s3cret@host", "amqp:u:s3cret@host", "amqp://u:s3cret@host:port", "s3cret", ""] {
        let settings = Settings { url: SecretString::from(url), ..settings("memory") };
        let error = Bus::connect(&settings, CancellationToken::new()).await.expect_err("it is unusable");
        assert!(matches!(error, BusError::Url { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_foreign_clients_send_is_taken_as_it_comes() {
    tell(On::RabbitMq, |rig: Rig| async move {
        let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 10);
        soon("consuming", rig.bus.wait_until_consuming()).await;
        let (_connection, channel) = raw_channel().await;
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString("00-ab-cd-01".into()));
        headers.insert("binary".into(), AMQPValue::LongString(LongString::from(vec![0xff, 0x00])));
        headers.insert("number".into(), AMQPValue::LongInt(7));
        headers.insert("table".into(), AMQPValue::FieldTable(FieldTable::default()));
        let properties = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_expiration("60000".into())
            .with_priority(9)
            .with_user_id("guest".into())
            .with_headers(headers);
        let exchange = format!("{}.commands", rig.settings.prefix);
        for properties in [BasicProperties::default(), properties] {
            channel
                .basic_publish(
                    exchange.as_str().into(),
                    "action.randomness.x".into(),
                    BasicPublishOptions::default(),
                    b"",
                    properties,
                )
                .await
                .expect("it is sent");
        }
        let bare = next(&mut deliveries).await;
        assert_eq!(bare.message.properties, metagov::bus::Properties::default());
        assert!(bare.message.body.is_empty());
        let full = next(&mut deliveries).await.message.properties;
        assert_eq!(full.headers.get("traceparent").map(String::as_str), Some("00-ab-cd-01"));
        assert_eq!(full.headers.get("number").map(String::as_str), Some("7"));
        assert_eq!(full.headers.len(), 2);
        assert_eq!(full.user_id.as_deref(), Some("guest"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drivers_queue_that_is_full_holds_up_nobody() {
    tell(On::RabbitMq, |rig: Rig| async move {
        rig.bus.apply_topology(&[plugin()]).await.expect("it is declared");
        let (_connection, channel) = raw_channel().await;
        let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let (full, open) = (format!("{}-full", rig.settings.prefix), format!("{}-open", rig.settings.prefix));
        let mut one = FieldTable::default();
        one.insert("x-max-length".into(), AMQPValue::LongInt(1));
        one.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        for (queue, pattern, arguments) in [(&full, "acme.#", one), (&open, "#", FieldTable::default())] {
            channel.queue_declare(queue.as_str().into(), own, arguments).await.expect("it is declared");
            let events = format!("{}.events", rig.settings.prefix);
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            channel
                .queue_bind(queue.as_str().into(), events.into(), pattern.into(), options, none)
                .await
                .expect("bound");
        }
        let replies = Destination::Reply { queue: full.clone() };
        let reply = Outgoing { to: replies, message: message("a reply", "reply") };
        let mixed = vec![event("acme.one", 1), event("acme.two", 2), event("beta.one", 3), reply, command(4)];
        let fates = soon("publishing", rig.bus.publish(mixed)).await.expect("it is open");
        let (routed, full) = (Published::Routed, Published::Refused(Refusal::Full));
        assert_eq!(fates, [routed, full, routed, full, routed]);
        let depth = QueueDeclareOptions { passive: true, ..own };
        let depth = channel.queue_declare(open.into(), depth, FieldTable::default()).await.expect("it is there");
        assert!(depth.message_count() <= 4, "{} copies for those that have room", depth.message_count());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_id_is_no_text_is_delivered_like_its_neighbours() {
    tell(On::RabbitMq, |rig: Rig| async move {
        rig.bus.apply_topology(&[plugin()]).await.expect("it is declared");
        let proxy = Proxy::corrupting(b"poison-poison", broker_address()).await;
        let (_connection, channel) = raw_channel_to(&by_way_of(&proxy)).await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("it confirms");
        channel
            .basic_publish(
                format!("{}.commands", rig.settings.prefix).into(),
                "action.randomness.random-int".into(),
                BasicPublishOptions::default(),
                b"{}",
                BasicProperties::default().with_message_id("poison-poison".into()),
            )
            .await
            .expect("it is sent")
            .await
            .expect("it is confirmed");
        rig.bus.publish((0..20).map(command).collect()).await.expect("it is open");

        let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 100);
        let mended = "\u{1a}".repeat("poison-poison".len());
        for expected in std::iter::once(mended).chain((0..20).map(|number| number.to_string())) {
            let delivery = next(&mut deliveries).await;
            assert_eq!(id(&delivery.message), expected);
            assert!(!delivery.redelivered, "no connection broke");
            delivery.receipt.ack();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_whose_id_is_no_text_is_shown_and_those_behind_it_and_retried_as_it_is_shown() {
    tell(On::RabbitMq, |rig: Rig| async move {
        rig.bus.apply_topology(&[plugin()]).await.expect("it is declared");
        let proxy = Proxy::corrupting(b"poison-poison", broker_address()).await;
        let (_connection, channel) = raw_channel_to(&by_way_of(&proxy)).await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("it confirms");
        let mut headers = FieldTable::default();
        headers.insert("binary".into(), AMQPValue::LongString(LongString::from(vec![b'a', 0xff])));
        let mut table = FieldTable::default();
        table.insert("deep".into(), AMQPValue::Boolean(true));
        headers.insert("table".into(), AMQPValue::FieldTable(table));
        let sent = headers.clone();
        headers.insert(metagov::bus::REASON_HEADER.into(), AMQPValue::LongString("unreadable".into()));
        for message_id in ["poison-poison", "behind it"] {
            channel
                .basic_publish(
                    format!("{}.dead", rig.settings.prefix).into(),
                    "action.randomness.random-int".into(),
                    BasicPublishOptions::default(),
                    b"{}",
                    BasicProperties::default()
                        .with_message_id(message_id.into())
                        .with_app_id("driver".into())
                        .with_headers(headers.clone()),
                )
                .await
                .expect("it is sent")
                .await
                .expect("it is confirmed");
        }
        let mended = "\u{1a}".repeat("poison-poison".len());
        let shown = soon("looking", rig.bus.dead_letters(&mut |_| DeadVerdict::Keep)).await.expect("they can be read");
        assert_eq!(shown.iter().map(DeadLetter::id).collect::<Vec<_>>(), [mended.as_str(), "behind it"]);
        assert_eq!(shown[0].message.properties.headers["binary"], "a\u{fffd}");
        assert_eq!(shown[0].reason(), Some("unreadable"));

        let (_own, raw) = raw_channel().await;
        let queue = format!("{}.plugin.randomness", rig.settings.prefix);
        let mut retried = raw
            .basic_consume(queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .expect("it can be consumed");
        soon("retrying", rig.bus.dead_letters(&mut |_| DeadVerdict::Retry)).await.expect("they can be retried");
        for expected in [mended.as_str(), "behind it"] {
            let delivery = soon("the retried", retried.next()).await.expect("it goes on").expect("it can be read");
            let properties = &delivery.properties;
            assert_eq!(properties.message_id().as_ref().map(ToString::to_string).as_deref(), Some(expected));
            assert_eq!(properties.app_id().as_ref().map(ToString::to_string).as_deref(), Some("driver"));
            assert_eq!(properties.headers().as_ref(), Some(&sent), "all that its sender wrote, and no more");
        }
        assert!(rig.bus.dead_letters(&mut |_| DeadVerdict::Keep).await.expect("they can be read").is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_headers_would_burst_its_frame_goes_without_the_drivers() {
    tell(On::RabbitMq, |rig: Rig| async move {
        rig.bus.apply_topology(&[plugin()]).await.expect("it is declared");
        let mut copy = Outgoing { to: Destination::Dead, ..command("large") };
        // As much as fits for the driver, and too much with ours.
        copy.message.properties.headers.insert("theirs".to_owned(), "x".repeat(130_900));
        copy.message.properties.headers.insert(metagov::bus::REASON_HEADER.to_owned(), "r".repeat(200));
        let fates = soon("publishing", rig.bus.publish(vec![copy, event("some.event", "beside it")])).await;
        assert_eq!(fates.expect("it is open"), [Published::Routed, Published::Unrouted]);
        let letters = rig.bus.dead_letters(&mut |_| DeadVerdict::Keep).await.expect("they can be read");
        let headers = &letters[0].message.properties.headers;
        assert!(!headers.contains_key("theirs"));
        assert_eq!(headers.get(metagov::bus::REASON_HEADER).map(String::len), Some(200));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_reply_to_and_a_drivers_own_queue_get_their_replies() {
    tell(On::RabbitMq, |rig: Rig| async move {
        let mut deliveries = rig.bus.consume(Queue::Plugin(plugin()), 10);
        soon("consuming", rig.bus.wait_until_consuming()).await;
        let (_connection, channel) = raw_channel().await;
        let own = channel
            .queue_declare(
                format!("{}.driver", rig.settings.prefix).into(),
                QueueDeclareOptions::exclusive().auto_delete(),
                FieldTable::default(),
            )
            .await
            .expect("a queue of the driver's own");
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        for reply_to in ["amq.rabbitmq.reply-to".to_owned(), own.name().to_string()] {
            let mut replies = channel
                .basic_consume(reply_to.as_str().into(), "".into(), no_ack, FieldTable::default())
                .await
                .expect("it can be consumed");
            channel
                .basic_publish(
                    format!("{}.commands", rig.settings.prefix).into(),
                    "action.randomness.random-int".into(),
                    BasicPublishOptions::default(),
                    b"{}",
                    BasicProperties::default().with_reply_to(reply_to.as_str().into()),
                )
                .await
                .expect("it is sent");
            let asked = next(&mut deliveries).await;
            let queue = asked.message.properties.reply_to.clone().expect("it has one");
            let reply = Outgoing { to: Destination::Reply { queue }, message: message("any.key", "answer") };
            assert_eq!(rig.bus.publish(vec![reply]).await.expect("it is open"), [Published::Routed], "{reply_to}");
            let answer = soon("the reply", replies.next()).await.expect("it goes on").expect("no error");
            assert_eq!(answer.properties.message_id().as_ref().map(ToString::to_string).as_deref(), Some("answer"));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_the_bus_closed_does_not_come_again() {
    tell(On::RabbitMq, |rig: Rig| async move {
        let bus = connect(&rig.settings).await;
        let mut deliveries = bus.consume(Queue::Plugin(plugin()), 300);
        soon("consuming", bus.wait_until_consuming()).await;
        bus.publish((0..300).map(command).collect()).await.expect("it is open");
        for _ in 0..300 {
            next(&mut deliveries).await.receipt.ack();
        }
        soon("closing", bus.close()).await;

        let mut others = rig.bus.consume(Queue::Plugin(plugin()), 300);
        rig.bus.publish(vec![command("later")]).await.expect("it is open");
        assert_eq!(id(&next(&mut others).await.message), "later");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_on_under_its_name_after_the_connection_was_cut() {
    let (proxy, settings, bus) = proxied(Duration::from_secs(10)).await;
    let mut replies = bus.subscribe(&[]).await.expect("a subscription");
    proxy.cut();
    soon("the reply", async {
        loop {
            let to = Destination::Reply { queue: replies.queue().to_owned() };
            let reply = Outgoing { to, message: message("any.key", "answer") };
            if bus.publish(vec![reply]).await.expect("it is open") == [Published::Routed]
                && let Ok(message) = tokio::time::timeout(Duration::from_millis(200), replies.recv()).await
            {
                break assert_eq!(id(&message.expect("it goes on")), "answer");
            }
        }
    })
    .await;
    bus.close().await;
    remove(&settings.prefix).await;
}
