//! What a process tells about itself by HTTP, with checks of the test's own, and as a whole role.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lapin::{Connection, ConnectionProperties, options::*};
use metagov::{
    app::{self, App},
    bus::Topology,
    config::{Config, Sources},
    health::Health,
    shutdown::Shutdown,
    telemetry::measures,
};
use metagov_sdk::contract::Name;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Status and body of a GET.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers in text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("it has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("it has a status");
    (status, body.to_owned())
}

/// Asks until the answer is as it should be.
async fn readyz(address: SocketAddr, what: &str, holds: impl Fn(u16, &Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let (status, body) = get(address, "/readyz").await;
        let report: Value = serde_json::from_str(&body).expect("it is JSON");
        if holds(status, &report) {
            return report;
        }
        assert!(begun.elapsed() < Duration::from_mins(2), "{what}: {status} {report}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn free_address() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_hold_is_told_with_its_remedy_and_since_when() {
    let (listener, address) = free_address().await;
    let stands = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&stands);
    let health = Health::new().check("steady", || std::future::ready(Ok(()))).check("door", move || {
        let open = asked.load(Ordering::Relaxed);
        std::future::ready(if open { Ok(()) } else { Err("the door is shut; knock".to_owned()) })
    });
    tokio::spawn(health.serve(listener, String::new));

    let ready = readyz(address, "ready", |status, _| status == 200).await;
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["checks"]["door"]["ok"], true);
    let steady_since = ready["checks"]["steady"]["since"].clone();

    stands.store(false, Ordering::Relaxed);
    let shut = readyz(address, "not ready", |status, _| status == 503).await;
    assert_eq!(shut["ready"], false);
    assert_eq!(shut["checks"]["door"]["detail"], "the door is shut; knock");
    assert_ne!(shut["checks"]["door"]["since"], ready["checks"]["door"]["since"]);
    assert_eq!(shut["checks"]["steady"]["since"], steady_since, "nothing has changed there");
    assert_eq!(get(address, "/livez").await.0, 200, "it lives all the same");

    stands.store(true, Ordering::Relaxed);
    readyz(address, "ready again", |status, report| status == 200 && report["ready"] == true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_never_answers_does_not_hold() {
    let (listener, address) = free_address().await;
    let health = Health::new().check("hung", std::future::pending);
    tokio::spawn(health.serve(listener, String::new));
    let late = readyz(address, "late", |_, report| report["checks"]["hung"].is_object()).await;
    assert_eq!(late["checks"]["hung"]["detail"], "no answer within 2 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_are_those_that_were_counted() {
    let figures = measures::record();
    metrics::counter!(measures::SETTLED, "verdict" => "test").increment(3);
    metrics::histogram!(measures::COMMIT_BATCH).record(7);
    let (listener, address) = free_address().await;
    tokio::spawn(Health::new().serve(listener, move || figures.render()));
    let (status, body) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("metagov_settled_total{verdict=\"test\"} 3"), "{body}");
    assert!(body.contains("metagov_commit_batch_units_bucket{le=\"10\"} 1"), "{body}");
    assert!(body.contains("# HELP metagov_settled_total "), "{body}");
}

#[test]
fn every_figure_is_in_the_table_of_the_readme() {
    let readme = include_str!("../README.md");
    for name in measures::names() {
        assert!(readme.contains(&format!("| `{name}` |")), "{name} is not in README's table of metrics");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_ready_once_it_is_at_its_queues_and_no_longer_when_it_is_asked_to_end() {
    let url = std::env::var("METAGOV_TEST_AMQP_URL").expect("run tests/run, which starts a broker");
    let directory = tempfile::tempdir().expect("a directory");
    let (app, address) = app(&url, directory.path()).await;
    let prefix = app.config.broker.prefix.clone();
    let plugins: Vec<_> = app.registry.names().cloned().collect();
    let bus = app.bus.clone();
    let shutdown = Shutdown::new();
    let role = tokio::spawn(app::run_worker(app, shutdown.clone()));
    listening(address).await;
    bus.wait_until_consuming().await;
    let report = readyz(address, "ready", |status, _| status == 200).await;
    for check in ["broker", "queues", "database", "running"] {
        assert_eq!(report["checks"][check]["ok"], true, "{report}");
    }
    let (_, figures) = get(address, "/metrics").await;
    assert!(figures.contains("metagov_ready{check=\"database\"} 1"), "{figures}");

    shutdown.begin();
    let told = role.await.expect("no panic");
    told.expect("it ends in order");
    let draining = readyz(address, "draining", |status, _| status == 503).await;
    assert_eq!(draining["checks"]["running"]["ok"], false, "{draining}");
    remove(&url, &prefix, &plugins).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_waits_for_its_broker_has_not_begun() {
    let directory = tempfile::tempdir().expect("a directory");
    let (listener, nobody) = free_address().await;
    drop(listener);
    let (app, address) = app(&format!("amqp://guest:guest@{nobody}"), directory.path()).await;
    let shutdown = Shutdown::new();
    let role = tokio::spawn(app::run_worker(app, shutdown.clone()));
    listening(address).await;
    let waiting = readyz(address, "waiting", |_, report| report["checks"]["running"].is_object()).await;
    for check in ["broker", "running"] {
        assert_eq!(waiting["checks"][check]["ok"], false, "{waiting}");
    }
    shutdown.begin();
    role.await.expect("no panic").expect("it ends in order");
}

/// A process with a database of its own, and where it is going to tell how it does.
async fn app(broker: &str, directory: &Path) -> (App, SocketAddr) {
    let (listener, address) = free_address().await;
    drop(listener);
    let mut config = Config::load(&Sources::default()).expect("the defaults are well-formed").config;
    config.broker.prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
    config.broker.url = broker.to_owned().into();
    config.database.url = format!("sqlite:{}", directory.join("metagov.db").display()).into();
    config.health.address = address.to_string();
    let app = App::connect(config).await.expect("it connects");
    app.store.migrate().await.expect("the schema can be made");
    (app, address)
}

async fn listening(address: SocketAddr) {
    let listens = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), listens).await.expect("it listens");
}

/// Removes what the role has declared.
async fn remove(url: &str, prefix: &str, plugins: &[Name]) {
    let whole = Topology::new(prefix, plugins, 20);
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    for queue in whole.queues {
        channel.queue_delete(queue.name.into(), QueueDeleteOptions::default()).await.expect("it goes");
    }
    for exchange in whole.exchanges {
        channel.exchange_delete(exchange.name.into(), ExchangeDeleteOptions::default()).await.expect("it goes");
    }
    connection.close(200, "done".into()).await.expect("a farewell");
}
