//! What a hostile platform gets out of the HTTP client of plugins: little time, little memory, no second address.
//!
//! Each platform is a socket of this process that writes what it likes.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use metagov_sdk::{Egress, Error, HttpClient, HttpError, prelude::*};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Accepts connections for as long as the test runs; counts them, and how many bytes `speak` could get rid of.
struct Platform {
    address: SocketAddr,
    visits: Arc<AtomicUsize>,
    written: Arc<AtomicUsize>,
}

/// What is said to a client; tells each write from which on nobody listens any more.
type Say<'a> = &'a mut dyn FnMut(&[u8]) -> bool;

impl Platform {
    fn speaking(speak: impl Fn(Say<'_>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (visits, written) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (visitors, bytes, speak) = (Arc::clone(&visits), Arc::clone(&written), Arc::new(speak));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                visitors.fetch_add(1, Ordering::SeqCst);
                let (bytes, speak) = (Arc::clone(&bytes), Arc::clone(&speak));
                thread::spawn(move || talk(stream, &bytes, &*speak));
            }
        });
        Self { address, visits, written }
    }

    fn url(&self) -> String {
        format!("http://{}/secret?token=s3cret", self.address)
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

fn talk(mut stream: TcpStream, written: &AtomicUsize, speak: &dyn Fn(Say<'_>)) {
    let mut request = [0; 4096];
    if stream.read(&mut request).is_err() {
        return;
    }
    speak(&mut |bytes| {
        let listens = stream.write_all(bytes).is_ok();
        written.fetch_add(if listens { bytes.len() } else { 0 }, Ordering::SeqCst);
        listens
    });
}

fn answer(headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{headers}\r\n").into_bytes()
}

fn client() -> HttpClient {
    HttpClient::new(Egress::PublicAndLoopback)
}

const GIGABYTE: usize = 1024 * 1024 * 1024;

/// What the process has in memory now, in bytes, as Linux tells it.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("these tests run on Linux");
    let pages: usize =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("its second word is a number");
    pages * 4096
}

#[tokio::test]
async fn a_gigabyte_is_cut_at_a_mebibyte_and_memory_stays_flat() {
    let endless = |headers: &'static str| {
        Platform::speaking(move |say| {
            let chunk = vec![b'x'; 64 * 1024];
            if say(&answer(headers)) {
                for _ in 0..GIGABYTE / chunk.len() {
                    if !say(&chunk) {
                        return;
                    }
                }
            }
        })
    };
    let before = resident();
    for headers in ["content-length: 1073741824\r\n", "", "content-encoding: gzip\r\n"] {
        let platform = endless(headers);
        let error = client().get(&platform.url()).send().await.expect_err("it is too large");
        assert!(matches!(error, HttpError::TooLarge { limit: 1_048_576, .. }), "{error}");
        let written = platform.written.load(Ordering::SeqCst);
        assert!(written < 16 * 1024 * 1024, "{written} bytes went over the wire: more than what the kernel buffers");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 20 * 1024 * 1024, "memory grew by {grown} bytes");
}

#[tokio::test]
async fn a_request_may_ask_for_more_up_to_a_bound() {
    let platform = Platform::speaking(|say| {
        if say(&answer("content-length: 3145728\r\n")) {
            say(&vec![b'x'; 3 * 1024 * 1024]);
        }
    });
    let body =
        client().get(&platform.url()).largest_answer(4 * 1024 * 1024).send().await.expect("it may be that large");
    assert_eq!(body.body().len(), 3 * 1024 * 1024);
    let error = client().get(&platform.url()).largest_answer(1024).send().await.expect_err("it is too large");
    assert!(matches!(error, HttpError::TooLarge { limit: 1024, .. }), "{error}");
    let unbounded = Platform::speaking(|say| {
        say(&answer("content-length: 1073741824\r\n"));
    });
    let error = client().get(&unbounded.url()).largest_answer(usize::MAX).send().await.expect_err("it is too large");
    assert!(matches!(error, HttpError::TooLarge { limit: 8_388_608, .. }), "{error}");
}

#[tokio::test]
async fn nothing_is_decompressed() {
    // The first bytes of a gzip stream; unpacked they would be something else, or an error.
    const PACKED: &[u8] = b"\x1f\x8b\x08\x00bomb";
    let platform = Platform::speaking(|say| {
        let _ = say(&answer("content-encoding: gzip\r\ncontent-length: 8\r\n")) && say(PACKED);
    });
    let received = client().get(&platform.url()).send().await.expect("it answers");
    assert_eq!(received.body(), PACKED);
}

#[tokio::test]
async fn a_body_that_trickles_is_cut_by_the_time_of_the_whole() {
    let platform = Platform::speaking(|say| {
        let mut listens = say(&answer("content-length: 100000\r\n"));
        while listens {
            thread::sleep(Duration::from_millis(20));
            listens = say(b"x");
        }
    });
    let begun = Instant::now();
    let request = client().get(&platform.url()).timeout(Duration::from_millis(300));
    let error = request.send().await.expect_err("it takes too long");
    assert!(matches!(error, HttpError::TimedOut { .. }), "{error}");
    // The whole of it would take half an hour.
    assert!(begun.elapsed() < Duration::from_mins(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn headers_without_end_are_cut() {
    let platform = Platform::speaking(|say| {
        let mut listens = say(b"HTTP/1.1 200 OK\r\n");
        while listens {
            listens = say(&[b"x-more: ", vec![b'x'; 8192].as_slice(), b"\r\n"].concat());
        }
    });
    let error = client().get(&platform.url()).send().await.expect_err("no end");
    assert!(matches!(error, HttpError::Failed { .. }), "{error}");
    assert!(platform.written.load(Ordering::SeqCst) < 16 * 1024 * 1024);
}

#[tokio::test]
async fn a_redirect_leads_nowhere() {
    let inside = Platform::speaking(|_| {});
    let target = inside.url();
    let platform = Platform::speaking(move |say| {
        let head =
            format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        say(head.as_bytes());
    });
    for _ in 0..30 {
        assert_eq!(client().get(&platform.url()).send().await.expect("it answers").status(), 302);
    }
    assert_eq!((platform.visits(), inside.visits()), (30, 0));
}

#[tokio::test]
async fn trouble_with_tls_is_told_in_one_clear_line() {
    let plain = Platform::speaking(|say| {
        say(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let url = plain.url().replace("http:", "https:");
    let told = Error::from(client().get(&url).send().await.expect_err("it speaks no TLS")).to_string();
    assert!(told.contains("127.0.0.1") && told.contains("corrupt message"), "{told}");

    let port = self_signed();
    let url = format!("https://localhost:{port}/secret?token=s3cret");
    let told = Error::from(client().get(&url).send().await.expect_err("nobody vouches for it")).to_string();
    assert!(told.contains("localhost") && told.contains("invalid peer certificate"), "{told}");
    assert!(!told.contains("s3cret") && !told.contains('\n'), "{told}");
}

/// A TLS server with a certificate for `localhost` that it signed itself, valid until 2126.
fn self_signed() -> u16 {
    const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgrX0cOX5NnOMkyV0y6n/+AIovQYa7H/L1Hn30kNdylpKhRANCAA\
                       S6iMUHUtSzjg/J7iX0/reSYnAnXmlGBv6cXXFptod3n1nUbb1ymLu9+rU9gq9v4sSCeB8rKNOY8QwrZo/OZneL";
    const CERTIFICATE: &str = "MIIBlDCCATugAwIBAgIURdBxw+d/uSF2qcJzsL/2Jm8+bkQwCgYIKoZIzj0EAwIwFDESMBAGA1UEAwwJbG9jYWxo\
                               b3N0MCAXDTI2MTEyMzIxMzAyNVoYDzIxMjYxMDMwMjEzMDI1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcq\
                               hkjOPQIBBggqhkjOPQMBBwNCAAS6iMUHUtSzjg/J7iX0/reSYnAnXmlGBv6cXXFptod3n1nUbb1ymLu9+rU9gq9v\
                               4sSCeB8rKNOY8QwrZo/OZneLo2kwZzAdBgNVHQ4EFgQUxp2l5oRoIldNIugxTi8X1iiZKGgwHwYDVR0jBBgwFoAU\
                               xp2l5oRoIldNIugxTi8X1iiZKGgwDwYDVR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZI\
                               zj0EAwIDRwAwRAIgIwJFS/0UsuXkzGu30gY8/idep2UlOhL0EopItURa9IECIF6X9DMBEi1wOOib+a/gLN+d+a/V\
                               NFHOVtwxgObL5ArI";
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(BASE64.decode(KEY).expect("base64")));
    let certificate = CertificateDer::from(BASE64.decode(CERTIFICATE).expect("base64"));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions of TLS")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key fits the certificate");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("the config is complete");
            // It ends with the client's alert.
            while connection.complete_io(&mut stream).is_ok_and(|(read, written)| read + written > 0) {}
        }
    });
    port
}

#[tokio::test]
async fn a_platform_that_fails_again_and_again_is_left_alone() {
    let broken = Platform::speaking(|say| {
        say(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let busy = Platform::speaking(|say| {
        say(b"HTTP/1.1 429 Slow down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let client = client();
    for _ in 0..5 {
        assert_eq!(client.get(&broken.url()).send().await.expect("it answers").status(), 500);
    }
    for _ in 0..20 {
        let error = client.get(&broken.url()).send().await.expect_err("it is left alone");
        assert!(matches!(error, HttpError::LeftAlone { .. }), "{error}");
        let Error::Retry { after: Some(after), problem } = Error::from(error) else { panic!("nothing was sent") };
        assert!(after <= Duration::from_secs(30), "{after:?}");
        let place = broken.address.to_string();
        assert!(problem.detail.contains(&place) && problem.detail.contains("asked again in"), "{}", problem.detail);
        assert!(!problem.detail.contains("s3cret"), "{}", problem.detail);
    }
    assert_eq!(broken.visits(), 5);
    // The limit of a platform that works is no failure of it.
    for _ in 0..20 {
        assert_eq!(client.get(&busy.url()).send().await.expect("it answers").status(), 429);
    }
    assert_eq!(busy.visits(), 20);
}

#[tokio::test]
async fn nobody_listening_and_no_answer_in_time_are_failures_too() {
    let silent = Platform::speaking(|_| thread::sleep(Duration::from_mins(1)));
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let client = client();
    for url in [silent.url(), format!("http://{closed}/")] {
        let ask = || client.get(&url).timeout(Duration::from_millis(20)).send();
        for _ in 0..5 {
            let error = ask().await.expect_err("no answer");
            assert!(matches!(error, HttpError::TimedOut { .. } | HttpError::Failed { .. }), "{error}");
        }
        let error = ask().await.expect_err("it is left alone");
        assert!(matches!(error, HttpError::LeftAlone { .. }), "{error}");
    }
}

#[tokio::test]
async fn retry_after_is_read_as_seconds_and_as_a_date() {
    let cases = [
        ("retry-after: 30\r\n", Some(30)),
        ("retry-after: 0\r\n", Some(0)),
        ("date: Mon, 23 Nov 2026 10:00:00 GMT\r\nretry-after: Mon, 23 Nov 2026 10:00:45 GMT\r\n", Some(45)),
        ("date: Mon, 23 Nov 2026 10:00:00 GMT\r\nretry-after: Monday, 23-Nov-26 10:00:45 GMT\r\n", Some(45)),
        ("date: Mon, 23 Nov 2026 10:00:00 GMT\r\nretry-after: Mon, 23 Nov 2026 09:00:00 GMT\r\n", Some(0)),
        ("retry-after: soon\r\n", None),
        ("retry-after: -5\r\n", None),
        ("retry-after: 99999999999999999999999\r\n", None),
        ("", None),
    ];
    for status in [429, 503] {
        for (headers, expected) in cases {
            let head = format!("HTTP/1.1 {status} Later\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n");
            let platform = Platform::speaking(move |say| {
                say(head.as_bytes());
            });
            let error =
                client().get(&platform.url()).send().await.expect("it answers").success().expect_err("no success");
            let Error::Retry { after, .. } = error else { panic!("{headers}: {error}") };
            assert_eq!(after.map(|after| after.as_secs()), expected, "{status} {headers}");
        }
    }
}
