//! `amqps://` with certificates of one's own (T51), and each way in which a broker cannot be used, in one line.

use std::{fs, path::PathBuf};

use metagov::bus::{Bus, Settings, Tls};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::{
    broker::Broker,
    certificates::Authority,
    rig::{plugin, soon},
};

/// What is said of an address that cannot be used.
async fn refusal(settings: &Settings, url: &str, tls: &Tls) -> String {
    let settings = Settings { url: SecretString::from(url), tls: tls.clone(), ..settings.clone() };
    let bus = Bus::connect(&settings, CancellationToken::new()).await.expect("it is a URL");
    let why = soon("an answer", bus.connected()).await.expect_err("it cannot be used");
    bus.standing().broker.expect_err("readiness says no as well");
    bus.close().await;
    assert!(why.lines().count() == 1 && !why.contains("hunter2"), "{why}");
    why
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_an_authority_of_its_own_is_used_and_every_other_one_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, others) = (Authority::new(directory.path(), "ours"), Authority::new(directory.path(), "others"));
    let (certificate, key) = ours.sign("broker", 2);
    let (client, client_key) = ours.sign("client", 2);
    let (stranger, stranger_key) = others.sign("stranger", 2);
    let (expired, expired_key) = ours.sign("expired", -1);
    let broker = Broker::start();
    let port = broker.listen_with_tls(&ours.certificate(), &certificate, &key);
    let (settings, plain) = (broker.settings(), broker.url.clone());
    let url = format!("amqps://guest:guest@127.0.0.1:{port}/%2f");
    let with = |ca: PathBuf, pair: Option<(&PathBuf, &PathBuf)>| Tls {
        ca: Some(ca),
        certificate: pair.map(|pair| pair.0.clone()),
        key: pair.map(|pair| pair.1.clone()),
    };
    let good = with(ours.certificate(), Some((&client, &client_key)));

    let right = Settings { url: SecretString::from(url.as_str()), tls: good.clone(), ..settings.clone() };
    let bus = Bus::connect(&right, CancellationToken::new()).await.expect("it is a URL");
    soon("the connection", bus.connected()).await.expect("everything is right");
    bus.apply_topology(&[plugin()]).await.expect("it is declared");
    bus.close().await;

    let wrong_host = url.replace("127.0.0.1", "localhost");
    let plain_port = plain.replace("amqp://", "amqps://");
    let no_tls = url.replace("amqps://", "amqp://");
    let pair = Some((&client, &client_key));
    for (url, tls, said) in [
        (&url, with(others.certificate(), pair), "no authority that we know"),
        (&url, Tls { ca: None, ..good.clone() }, "no authority that we know"),
        (&wrong_host, good.clone(), "for another name"),
        (&plain_port, good.clone(), "port for amqp://"),
        (&no_tls, good.clone(), "port for TLS (amqps://)"),
        (&url, with(ours.certificate(), None), "broker.tls_certificate_pem"),
        (&url, with(ours.certificate(), Some((&stranger, &stranger_key))), "broker.tls_certificate_pem"),
        (&url, with(directory.path().join("absent.pem"), pair), "broker.tls_ca_pem: cannot read"),
        (&url, with(key.clone(), pair), "holds no certificate"),
        (&url, Tls { key: None, ..good.clone() }, "only of use together"),
    ] {
        let why = refusal(&settings, url, &tls).await;
        assert!(why.contains(said), "{said}: {why}");
    }
    fs::copy(expired, &certificate).expect("a certificate");
    fs::copy(expired_key, &key).expect("a key");
    broker.ctl(&["eval", "ssl:clear_pem_cache()."]);
    let why = refusal(&settings, &url, &good).await;
    assert!(why.contains("has expired"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_a_name_a_password_a_virtual_host_and_frames_that_are_too_small_are_distinguished() {
    let broker = Broker::start();
    let (settings, url) = (broker.settings(), broker.url.clone());
    let address = url.rsplit('@').next().and_then(|rest| rest.split('/').next()).expect("host and port").to_owned();
    for (url, said) in [
        ("amqp://u:hunter2@127.0.0.1:1/%2f".to_owned(), "nothing listens at 127.0.0.1:1"),
        ("amqp://u:hunter2@[::1]:1/%2f".to_owned(), "nothing listens at ::1:1"),
        ("amqp://u:hunter2@nowhere.invalid/%2f".to_owned(), "the name nowhere.invalid has no address"),
        (format!("amqp://guest:hunter2@{address}/%2f"), "refuses user and password"),
        (format!("amqp://guest:guest@{address}/absent"), "the virtual host 'absent'"),
        (format!("amqp://guest:guest@{address}/"), "is written %2f"),
    ] {
        let why = refusal(&settings, &url, &Tls::default()).await;
        assert!(why.contains(said), "{said}: {why}");
    }
    for most in ["4096", "8191"] {
        broker.set("frame_max", most);
        let why = refusal(&settings, &url, &Tls::default()).await;
        assert!(why.contains(most) && why.contains("raise frame_max"), "{why}");
    }
}
