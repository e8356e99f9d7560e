//! A log whose reader stands still: the service goes on, and says afterwards what is missing.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use metagov::bus::{Bus, Destination, Message, Outgoing, Properties};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_metagov");
const PATIENCE: Duration = Duration::from_mins(2);

/// A `metagov dev` that says much to a pipe.
struct Talker {
    dir: TempDir,
    child: Child,
    health: SocketAddr,
}

fn program(dir: &TempDir) -> Command {
    let inherited = std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("METAGOV_"));
    let mut command = Command::new(PROGRAM);
    command.current_dir(dir.path()).env_clear().envs(inherited).stdin(Stdio::null());
    command
}

impl Talker {
    /// Ready to be asked; from here on nobody reads what it says.
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let health = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let mut child = program(&dir)
            .args(["dev", "--json"])
            .env("METAGOV__LOG__FILTER", "debug")
            .env("METAGOV__HEALTH__ADDRESS", health.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut ready).expect("it says that it is ready");
        assert!(ready.contains("127.0.0.1"), "{ready}");
        Self { dir, child, health }
    }

    /// A command line that must succeed.
    fn run(&self, line: &str) {
        let output = program(&self.dir).args(line.split_whitespace()).output().expect("the program was built");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Commands that it has a line to say about, each.
    async fn occupy(&self, bus: &Bus) {
        let outgoing = (0..250).map(|_| {
            let message_id = format!("{:x<128}", uuid::Uuid::new_v4().to_string());
            let body = json!({ "community": "demo", "parameters": { "low": 1, "high": 6 } }).to_string();
            let message = Message {
                routing_key: "action.randomness.random-int".to_owned(),
                body: body.into(),
                properties: Properties { message_id: Some(message_id), ..Properties::default() },
            };
            Outgoing { to: Destination::Commands, message }
        });
        bus.publish(outgoing.collect()).await.expect("it is open");
    }

    async fn bus(&self) -> Bus {
        let note = std::fs::read(self.dir.path().join("data/dev.json")).expect("it is ready");
        let note: Value = serde_json::from_slice(&note).expect("it is JSON");
        let text = |key: &str| note[key].as_str().expect("a text").to_owned();
        let address = text("address").parse().expect("an address");
        Bus::connect_socket(address, text("token").into()).await.expect("the token is right")
    }

    /// How many lines it says that it has dropped.
    fn dropped(&self) -> u64 {
        let mut stream = TcpStream::connect(self.health).expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers in text");
        let figure = answer.lines().find_map(|line| line.strip_prefix("metagov_log_lines_dropped_total "));
        figure.map_or(0, |figure| figure.parse().expect("a count"))
    }

    /// Has something to do until its log has no room for what it says, and answers all the time.
    async fn overflow(&self, bus: &Bus, from: u64) {
        let began = Instant::now();
        while self.dropped() <= from {
            self.occupy(bus).await;
            self.run("action run randomness.random-int -c demo --wait -p low=1 -p high=6");
            assert!(began.elapsed() < PATIENCE, "there is room for all that it says");
        }
    }

    /// Reads what it says up to the line that tells how many are missing.
    fn read_on(stderr: &mut BufReader<ChildStderr>) -> u64 {
        let lines = stderr.lines().map(|line| line.expect("it is UTF-8"));
        let mut found = lines.filter(|line| line.contains("so many lines are missing here"));
        let line = found.next().expect("it is said");
        let (_, number) = line.split_once("dropped=").unwrap_or_else(|| panic!("{line}"));
        number.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_service_whose_log_nobody_reads_answers_counts_what_it_drops_and_ends_when_it_is_asked_to() {
    let mut talker = Talker::start();
    talker.run("plugin enable randomness -c demo --create --config default_low=1 --config default_high=7");
    let bus = talker.bus().await;
    talker.overflow(&bus, 0).await;
    // What it has dropped so far it says as soon as somebody reads.
    let mut stderr = BufReader::new(talker.child.stderr.take().expect("it is piped"));
    let missing = Talker::read_on(&mut stderr);
    assert!(missing > 0 && missing <= talker.dropped(), "{missing} of {}", talker.dropped());
    // Nobody reads any more.
    talker.overflow(&bus, talker.dropped()).await;
    let asked = Instant::now();
    let pid = talker.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill is there").success());
    let status = talker.child.wait().expect("it was started");
    assert_eq!(status.code(), Some(0));
    println!("ended after {:?}", asked.elapsed());
    drop(stderr);
}
