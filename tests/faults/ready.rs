//! What a process says when it is asked whether it is ready.
//!
//! Up: scenarios that start a process with `health.address`. Down: its HTTP, without a client.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// An address on loopback that nobody listens on, and that no outgoing connection is given meanwhile.
///
/// # Panics
/// Where the script that knows such ports cannot be run.
pub(crate) fn free_address() -> SocketAddr {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/free-ports");
    let output = Command::new(script).arg("1").output().expect("the script can be run");
    let port = String::from_utf8_lossy(&output.stdout).trim().parse().expect("it prints a port");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The report of `/readyz`, with its status; `None` where nobody answers.
pub(crate) async fn report(address: SocketAddr) -> Option<(u16, Value)> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(Duration::from_secs(5), asked).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
}

/// Waits until the answer is this status; how long it took, or `None` where it takes longer.
pub(crate) async fn says(address: SocketAddr, status: u16, patience: Duration) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < patience {
        if report(address).await.is_some_and(|(said, _)| said == status) {
            return Some(began.elapsed());
        }
        sleep(Duration::from_millis(100)).await;
    }
    None
}
