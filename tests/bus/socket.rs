//! The bus of a running `metagov dev`, used by another process through its socket.

use metagov::bus::{Bus, BusError, DeadLetter, DeadVerdict, Destination, Outgoing, Published, Queue, SocketError};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::rig::{command, event, id, message, next, plugin, soon};

/// A bus that is lent, and the bus of the process that borrows it.
async fn lent() -> (Bus, Bus, std::net::SocketAddr) {
    let bus = Bus::in_process("test");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let lender = bus.clone();
    tokio::spawn(async move { lender.serve(listener, SecretString::from("token")).await });
    let borrowed = Bus::connect_socket(address, SecretString::from("token")).await.expect("the token is right");
    (bus, borrowed, address)
}

#[tokio::test]
async fn a_command_goes_in_and_its_events_and_reply_come_out() {
    let (bus, borrowed, _) = lent().await;
    let mut deliveries = bus.consume(Queue::Plugin(plugin()), 10);
    let mut events = borrowed.subscribe(&["my-town.#".to_owned()]).await.expect("a subscription");

    assert_eq!(borrowed.publish(vec![command("one")]).await.expect("it is open"), [Published::Routed]);
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.message, command("one").message);
    let reply =
        Outgoing { to: Destination::Reply { queue: events.queue().to_owned() }, message: message("k", "reply") };
    bus.publish(vec![event("my-town.x", "event"), event("other.x", "other"), reply]).await.expect("it is open");
    assert_eq!(id(&soon("the event", events.recv()).await.expect("it goes on")), "event");
    assert_eq!(id(&soon("the reply", events.recv()).await.expect("it goes on")), "reply");
    bus.close().await;
    assert!(soon("the end", events.recv()).await.is_none());
}

#[tokio::test]
async fn dead_letters_are_decided_on_by_the_other_process() {
    let (bus, borrowed, _) = lent().await;
    let dead = ["keep", "discard"].map(|id| Outgoing { to: Destination::Dead, ..command(id) });
    bus.publish(dead.to_vec()).await.expect("it is open");
    let mut decide = |letter: &DeadLetter| match letter.id().as_str() {
        "discard" => DeadVerdict::Discard,
        _ => DeadVerdict::Keep,
    };
    let shown = borrowed.dead_letters(&mut decide).await.expect("it answers");
    assert_eq!(shown.len(), 2);
    let left = borrowed.dead_letters(&mut |_| DeadVerdict::Keep).await.expect("it answers");
    assert_eq!(left.iter().map(DeadLetter::id).collect::<Vec<_>>(), ["keep"]);
}

#[tokio::test]
async fn a_wrong_token_gets_nothing() {
    let (_bus, _borrowed, address) = lent().await;
    let refused = Bus::connect_socket(address, SecretString::from("guess")).await.expect_err("it is wrong");
    assert!(matches!(refused, BusError::Socket(SocketError::Refused(_))), "{refused:?}");

    // Neither does somebody who talks on and on without one.
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let mut answer = Vec::new();
    soon("hanging up", async {
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        stream.read_to_end(&mut answer).await.ok();
    })
    .await;
    assert!(answer.is_empty());
}

#[tokio::test]
async fn a_dev_that_has_gone_is_an_error_that_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let error = Bus::connect_socket(address, SecretString::from("token")).await.expect_err("nobody is there");
    assert!(matches!(error, BusError::Socket(SocketError::Io(_))), "{error:?}");
    assert!(error.to_string().contains("metagov dev"));
}
