//! The way inside, tried by every door: no request reaches the listener that waits there.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::net::TcpListener;

use super::*;
use crate::{Error, contract::ProblemKind};

/// Listens on the inside, on both families, and counts who comes.
struct Inside {
    port: u16,
    visits: Arc<AtomicUsize>,
}

impl Inside {
    async fn open() -> Self {
        let visits = Arc::new(AtomicUsize::new(0));
        let v4 = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = v4.local_addr().expect("it is bound").port();
        let everywhere = TcpListener::bind(("::1", port)).await;
        for listener in [Some(v4), everywhere.ok()].into_iter().flatten() {
            let visits = Arc::clone(&visits);
            tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    visits.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { port, visits }
    }
}

/// Names of a stranger's zone, each with the addresses that it has.
fn zone(port: u16) -> Lookup {
    let turns = Arc::new(AtomicUsize::new(0));
    Lookup::new(move |name| {
        let turns = Arc::clone(&turns);
        async move {
            let inside = SocketAddr::from(([127, 0, 0, 1], port));
            Ok(match name.as_str() {
                "metadata.example" => vec![SocketAddr::from(([169, 254, 169, 254], port))],
                "mapped.example" => vec!["[::ffff:127.0.0.1]:0".parse().expect("an address")],
                // Public when it is looked at, inside when it is connected to.
                "rebinding.example" if turns.fetch_add(1, Ordering::SeqCst) == 0 => {
                    vec![SocketAddr::from(([93, 184, 215, 14], port))]
                }
                "inside.example" | "rebinding.example" => vec![inside],
                _ => return Err(std::io::Error::other("no such name")),
            })
        }
    })
}

#[tokio::test]
async fn every_address_of_the_inside_is_refused_and_sees_nobody() {
    let inside = Inside::open().await;
    let zone = zone(inside.port);
    // Whoever looks before connecting sees a public address.
    let looked = zone.ask("rebinding.example").await.expect("it resolves");
    assert!(looked.iter().all(|address| Egress::PublicOnly.allows(address.ip())));
    let client = HttpClient::resolving(Egress::PublicOnly, zone);
    let refused = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "017700000001",
        "0177.0.0.01",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
        "127。0。0。1",
        "0.0.0.0",
        "0",
        "169.254.169.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[fc00::1]",
        "[fe80::1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::127.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "1.1.1.1@127.0.0.1",
        "1.1.1.1%2f@127.0.0.1",
        "inside.example",
        "INSIDE.example",
        "metadata.example",
        "mapped.example",
        "rebinding.example",
    ];
    for host in refused {
        let error = client.get(&format!("http://{host}:{}/s3cret", inside.port)).send().await.expect_err(host);
        assert!(matches!(error, HttpError::Refused { .. }), "{host}: {error}");
        let Error::Failed(problem) = Error::from(error) else { panic!("{host} is tried again") };
        assert_eq!(problem.kind, ProblemKind::EgressDenied, "{host}");
        assert!(!problem.detail.contains("s3cret"), "{}", problem.detail);
    }
    assert_eq!(inside.visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn of_several_addresses_only_the_public_ones_are_left() {
    let both =
        || async { Ok(vec!["127.0.0.1:0".parse().expect("an address"), "1.1.1.1:0".parse().expect("an address")]) };
    let resolver = FilteringResolver { egress: Egress::PublicOnly, lookup: Lookup::new(move |_| both()) };
    let name = "both.example".parse().expect("a name");
    let left: Vec<_> = reqwest::dns::Resolve::resolve(&resolver, name).await.expect("one is public").collect();
    assert_eq!(left, ["1.1.1.1:0".parse::<SocketAddr>().expect("an address")]);
}

#[tokio::test]
async fn whoever_listens_inside_is_reached_where_it_is_allowed() {
    let inside = Inside::open().await;
    let client = HttpClient::resolving(Egress::PublicAndLoopback, zone(inside.port));
    let answer = client.get(&format!("http://inside.example:{}", inside.port)).send().await;
    assert!(matches!(answer, Err(HttpError::Failed { .. })), "it says nothing: {answer:?}");
    assert_eq!(inside.visits.load(Ordering::SeqCst), 1, "so the listener can see somebody at all");
}
