//! Messages that are more than the AMQP client bears, written byte by byte, at every size that frames may have.

use metagov::bus::{Bus, DeadLetter, DeadVerdict, Queue, Settings};
use secrecy::SecretString;

use super::{
    broker::Broker,
    raw_driver::{HEADERS, MESSAGE_ID, RawDriver, long, nested, short},
    rig::{command, connect, id, next, plugin, soon},
};

/// Frames of this size have lists in lists as deep as they can be.
fn levels(frame_max: usize) -> usize {
    (frame_max - 100) / 5
}

/// The messages of a driver that means ill, and what their ids read as.
async fn provoke(broker: &Broker, exchange: &str, frame_max: usize) -> Vec<&'static str> {
    let mut driver = RawDriver::connect(&broker.url).await;
    let key = "action.randomness.random-int";
    let deep = |levels| [long(&nested(levels)), short(b"deep")].concat();
    driver.publish(exchange, key, HEADERS | MESSAGE_ID, &deep(1500.min(levels(frame_max)))).await;
    driver.publish(exchange, key, HEADERS | MESSAGE_ID, &deep(levels(frame_max))).await;
    driver.publish(exchange, key, MESSAGE_ID, &short(b"odd-\xff")).await;
    let text = |name: &str, length| [&short(name.as_bytes())[..], b"S", &long(&vec![b'.'; length])].concat();
    let large = [text("traceparent", 55), text("large", frame_max - 200)].concat();
    driver.publish(exchange, key, HEADERS | MESSAGE_ID, &[long(&large), short(b"large")].concat()).await;
    vec!["deep", "deep", "odd-\u{1a}", "large"]
}

/// A broker that lets drivers send frames of one size and offers us another.
async fn survive(sent: usize, offered: usize) {
    let broker = Broker::start();
    let settings = broker.settings();
    connect(&settings).await.apply_topology(&[plugin()]).await.expect("it is declared");
    broker.set("frame_max", &sent.to_string());
    let commands = provoke(&broker, &format!("{}.commands", settings.prefix), sent).await;
    let dead = provoke(&broker, &format!("{}.dead", settings.prefix), sent).await;
    broker.set("frame_max", &offered.to_string());

    let bus = connect(&settings).await;
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 10);
    for expected in commands {
        let delivery = next(&mut deliveries).await;
        assert_eq!(id(&delivery.message), expected);
        if expected == "large" {
            assert_eq!(delivery.message.properties.headers["traceparent"].len(), 55);
        }
        assert!(!delivery.redelivered, "it came at once, on a connection that did not break");
        delivery.receipt.ack();
    }
    bus.publish(vec![command("after")]).await.expect("it is open");
    assert_eq!(id(&next(&mut deliveries).await.message), "after");

    let ids = |letters: Vec<DeadLetter>| letters.iter().map(DeadLetter::id).collect::<Vec<_>>();
    let shown = soon("looking", bus.dead_letters(&mut |_| DeadVerdict::Keep)).await.expect("they can be read");
    assert_eq!(ids(shown), dead);
    soon("discarding", bus.dead_letters(&mut |_| DeadVerdict::Discard)).await.expect("they can be discarded");
    let left = soon("looking", bus.dead_letters(&mut |_| DeadVerdict::Keep)).await.expect("they can be read");
    assert_eq!(ids(left), Vec::<String>::new());
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_ends_a_process_whose_frames_are_the_smallest() {
    // RabbitMQ 3 can be set to less, and then no current client connects.
    survive(8192, 8192).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_ends_a_process_whose_frames_are_of_the_usual_size() {
    survive(131_072, 131_072).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_ends_a_process_where_frames_may_be_of_any_size() {
    // The largest that a broker can be set to.
    survive(131_072, 0x7fff_ffff).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_ends_a_process_that_was_sent_before_frames_became_smaller() {
    survive(131_072, 8192).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_asks_for_frames_of_any_size_takes_no_more_memory_than_it_has() {
    let broker = Broker::start();
    broker.set("frame_max", "0");
    let url = format!("{}?frame_max=4294967295", broker.url);
    let bus: Bus = connect(&Settings { url: SecretString::from(url), ..broker.settings() }).await;
    soon("the topology", bus.apply_topology(&[plugin()])).await.expect("it is declared");
    bus.close().await;
}
