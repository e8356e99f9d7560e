//! The fake platform: what the puppet calls, in the harness's own process, so that no crash of the service touches it.
//!
//! It speaks as little HTTP as that takes, appends each request with its key to a file before it answers, and answers as
//! it is told. Up: the puppet, in a worker's process. Down: [`crate::checker`], which counts the calls of each key.

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// How long a platform that is busy asks to be left alone: no step of the delay ladder, so that it is honoured or it is not.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(3);

/// What the platform says to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200 at once.
    Ok,
    /// This status; 429 with [`RETRY_AFTER`].
    Status(u16),
    /// 200 after a while.
    Slow(Duration),
    /// Nothing, and the connection stays open.
    Hang,
}

/// A call that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// When.
    pub(crate) at: Instant,
    /// From which community.
    pub(crate) community: String,
}

/// The calls by idempotency key.
pub(crate) type Calls = HashMap<String, Vec<Call>>;

/// A handle; clones are the same platform.
#[derive(Clone)]
pub(crate) struct Platform {
    /// Where it listens, on loopback.
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    calls: Calls,
    log: File,
    began: Instant,
    answer: Answer,
    by_community: HashMap<String, Answer>,
}

impl Platform {
    pub(crate) async fn start(log: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let log = File::options().create(true).append(true).open(log).expect("the directory is ours");
        let state =
            State { calls: Calls::new(), log, began: Instant::now(), answer: Answer::Ok, by_community: HashMap::new() };
        let platform = Self { address, state: Arc::new(Mutex::new(state)) };
        let served = platform.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let platform = served.clone();
                tokio::spawn(async move { platform.serve(stream).await });
            }
        });
        platform
    }

    /// Forgets all calls and answers `Ok` again: each service begins with it.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.calls.clear();
        state.by_community.clear();
        state.answer = Answer::Ok;
    }

    /// What everybody is told from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        self.state().answer = answer;
    }

    /// What one community is told from now on.
    pub(crate) fn answer_to(&self, community: &str, answer: Answer) {
        self.state().by_community.insert(community.to_owned(), answer);
    }

    /// Every call since [`Self::clear`].
    pub(crate) fn calls(&self) -> Calls {
        self.state().calls.clone()
    }

    /// Calls beyond the first of each key.
    pub(crate) fn repeated(&self) -> usize {
        self.state().calls.values().map(|calls| calls.len() - 1).sum()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        let (mut key, mut community) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            // An end before the empty line is no call.
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("Idempotency-Key", value)) => value.clone_into(&mut key),
                Some(("X-Community", value)) => value.clone_into(&mut community),
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let answer = self.record(key, community);
        let status = match answer {
            Answer::Ok => 200,
            Answer::Status(status) => status,
            Answer::Slow(time) => {
                tokio::time::sleep(time).await;
                200
            }
            Answer::Hang => std::future::pending().await,
        };
        let retry = if status == 429 { format!("Retry-After: {}\r\n", RETRY_AFTER.as_secs()) } else { String::new() };
        let head = format!("HTTP/1.1 {status} said\r\n{retry}Content-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()
    }

    fn record(&self, key: String, community: String) -> Answer {
        let mut state = self.state();
        let answer = state.by_community.get(&community).copied().unwrap_or(state.answer);
        let line = format!("{} {community} {key} {answer:?}\n", state.began.elapsed().as_millis());
        state.log.write_all(line.as_bytes()).expect("the log of the platform can be written");
        state.calls.entry(key).or_default().push(Call { at: Instant::now(), community });
        answer
    }
}
