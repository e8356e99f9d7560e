//! `metagov dev` and the commands that find it: the first five minutes of a newcomer, word by word.

use std::{
    io::{BufRead as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_metagov");

/// A running `metagov dev` in a directory of its own.
struct Dev {
    dir: TempDir,
    child: Child,
    // Held, so that it can go on writing.
    _stdout: Lines<BufReader<ChildStdout>>,
    stderr: Option<Lines<BufReader<ChildStderr>>>,
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// A program in this directory, with none of the settings that this process inherited.
fn in_dir(dir: &TempDir, program: &str) -> Command {
    let inherited = std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("METAGOV_"));
    let mut command = Command::new(program);
    command.current_dir(dir.path()).env_clear().envs(inherited).stdin(Stdio::null());
    if dir.path().join("keys.txt").exists() {
        command.env("METAGOV__SECRETS__KEYS_FILE", "keys.txt");
    }
    command
}

impl Dev {
    /// Starts it, and returns once it says that everything listens.
    fn start() -> Self {
        // Its log would fill the pipe that nobody reads.
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), "error", Stdio::piped())
    }

    /// The same in this directory, with the keys in its `keys.txt` if there is one.
    fn start_in(dir: TempDir, filter: &str, stderr: Stdio) -> Self {
        let mut child = in_dir(&dir, PROGRAM)
            .args(["dev", "--json"])
            .env("METAGOV__LOG__FILTER", filter)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the program was built");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let stderr = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
        let ready = stdout.next().expect("it says that it is ready").expect("it is UTF-8");
        assert!(ready.contains("127.0.0.1"), "{ready}");
        Self { dir, child, _stdout: stdout, stderr }
    }

    /// A new process where one has ended.
    fn start_again(mut self) -> Self {
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a temporary directory"));
        Self::start_in(dir, "error", Stdio::piped())
    }

    fn run(&self, line: &str) -> Ran {
        Self::finish(in_dir(&self.dir, PROGRAM).args(line.split_whitespace()))
    }

    fn shell(&self, line: &str) -> Ran {
        Self::finish(in_dir(&self.dir, "bash").args(["-c", line]))
    }

    fn finish(command: &mut Command) -> Ran {
        let output = command.output().expect("the program is there");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Ran {
            code: output.status.code().expect("it was not killed"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// A command that must succeed, and its JSON.
    fn json(&self, line: &str) -> Value {
        let ran = self.run(&format!("{line} --json"));
        assert_eq!(ran.code, 0, "{line}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout).expect("one JSON object")
    }

    fn enable_randomness(&self) {
        self.json("plugin enable randomness -c demo --create --config default_low=1 --config default_high=7");
    }

    /// Asks it to end, as Ctrl-C does.
    fn interrupt(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill is there").success());
        self.child.wait().expect("it was started").code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_three_commands_that_dev_prints_work_as_they_stand() {
    let mut dev = Dev::start();
    let words = dev.stderr.as_mut().expect("it is piped").by_ref().map(|line| line.expect("it is UTF-8"));
    let commands: Vec<String> = words.filter(|line| line.starts_with("  ")).take(3).collect();

    let enabled = dev.shell(&commands[0]);
    assert_eq!(enabled.code, 0, "{}", enabled.stderr);
    assert!(enabled.stdout.contains("randomness"), "{}", enabled.stdout);

    let drawn = dev.shell(&commands[1]);
    assert_eq!(drawn.code, 0, "{}", drawn.stderr);
    assert!(drawn.stdout.contains("value"), "{}", drawn.stdout);
    let steps = ["accepted as", "attempt 1", "outcome: action.completed"];
    let places: Vec<_> = steps.iter().map(|step| drawn.stderr.find(step)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{}", drawn.stderr);

    let watched = dev.shell(&commands[2]);
    assert_eq!(watched.code, 0, "{}", watched.stderr);
    assert!(watched.stdout.contains("pending") && watched.stdout.contains("winner"), "{}", watched.stdout);

    let note = dev.dir.path().join("data/dev.json");
    assert!(note.exists());
    assert_eq!(dev.interrupt(), Some(0));
    assert!(!note.exists(), "whoever comes now would look for a service that has ended");
}

#[test]
fn the_exit_code_is_the_outcome_and_every_violation_is_a_line() {
    let dev = Dev::start();
    dev.enable_randomness();
    let ran = dev.run("action run randomness.random-int -c demo -p low=word -p hihg=3 --wait");
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    for words in ["error: invalid-parameters: ", "\n  /parameters/low: ", "did you mean 'high'?"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("'word'"), "a value is repeated: {}", ran.stderr);

    let ran = dev.run("action run randomness.random-int -c absent --wait --json");
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    let outcome: Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
    assert_eq!(outcome["error"]["problem"]["type"], "https://metagov.org/problems/unknown-community");
    assert_eq!(outcome["error"]["exit_code"], 3);

    let outcome = dev.json("action run randomness.random-int -c demo --wait -p low=3 -p high=4 --initiator slack:U1");
    assert_eq!(outcome["output"], json!({ "value": 3 }));
    assert_eq!(outcome["initiator"], json!({ "user_id": "U1", "provider": "slack" }));
}

#[test]
fn with_json_stdout_is_objects_only_and_what_goes_wrong_ends_with_one_error_of_one_shape() {
    let dev = Dev::start();
    dev.enable_randomness();
    let id = uuid::Uuid::nil();
    for (line, code) in [
        ("action run randomness.random-int -c demo --wait", 0),
        ("action run randomness.random-int -c demo --wait -p low=7 -p high=3", 1),
        ("action run randomness.random-int -c absent --wait", 3),
        ("action run randomness.random-int -c demo --wait --timeout 1ns", 2),
        ("action run randomness.random-int -c demo --wait --timeout 1ms --message-id late", 4),
        ("process start randomness.delayed-stochastic-vote -c demo -p options=[] -p delay=1 --wait", 1),
        ("community delete absent", 3),
        ("dead retry absent", 3),
        ("dead show absent", 3),
        ("events list -c absent", 3),
        (&format!("process get {id} -c demo"), 3),
        (&format!("process watch {id} -c demo"), 3),
        (&format!("process close {id} -c demo"), 3),
    ] {
        let ran = dev.run(&format!("{line} --json"));
        assert_eq!(ran.code, code, "{line}: {} {}", ran.stdout, ran.stderr);
        assert!(!ran.stderr.contains('·'), "{line}: {}", ran.stderr);
        let parsed = ran.stdout.lines().map(serde_json::from_str::<Value>);
        let objects: Vec<_> = parsed.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{line}: {error}"));
        let errors: Vec<_> = objects.iter().filter_map(|object| object.get("error")).collect();
        assert_eq!(errors.len(), usize::from(code != 0), "{line}: {}", ran.stdout);
        for error in errors {
            assert_eq!(error["exit_code"], code, "{line}");
            assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{line}: {error}");
        }
    }
}

#[test]
fn a_repeated_message_id_gets_the_outcome_that_it_had() {
    let dev = Dev::start();
    dev.enable_randomness();
    let line = "action run randomness.random-int -c demo --wait -p low=0 -p high=1000000000 --message-id once";
    let first = dev.json(line);
    assert_eq!(dev.json(line)["output"], first["output"]);
    let other = dev.run("action run randomness.random-int -c demo --wait -p low=0 --message-id once");
    assert_eq!(other.code, 1);
    assert!(other.stderr.contains("error: conflict"), "{}", other.stderr);
}

#[test]
fn a_process_is_started_listed_closed_and_watched() {
    let dev = Dev::start();
    dev.enable_randomness();
    let start = "process start randomness.delayed-stochastic-vote -c demo -p options=[\"tea\"] -p delay=60";
    let started = dev.json(start);
    let id = started["process_id"].as_str().expect("an id").to_owned();
    let record = dev.json(&format!("{start} --wait"));
    assert_eq!(record["status"], "pending");

    let late = dev.run(&format!("process watch {id} -c demo --timeout 1ms"));
    assert_eq!(late.code, 4, "{}", late.stderr);
    assert_eq!(dev.json(&format!("process get {id} -c demo"))["parameters"]["delay"], 60);
    let closed = dev.json(&format!("process close {id} -c demo"));
    assert_eq!((&closed["status"], &closed["outcome"]), (&json!("completed"), &json!({ "winner": "tea" })));
    let again = dev.run(&format!("process close {id} -c demo"));
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("error: already-completed"), "{}", again.stderr);
    let watched = dev.run(&format!("process watch {id} -c demo --json"));
    assert_eq!((watched.code, watched.stdout.lines().count()), (0, 1), "{}", watched.stderr);

    let listed = dev.run("process list -c demo --status completed --json");
    assert_eq!(listed.stdout.lines().count(), 1, "{}", listed.stdout);
    let absent = dev.run("process get 00000000-0000-0000-0000-000000000000 -c demo");
    assert_eq!(absent.code, 3);
}

#[test]
fn communities_and_their_plugins_are_read_changed_and_deleted() {
    let dev = Dev::start();
    std::fs::write(
        dev.dir.path().join("plugins.json"),
        r#"[{"name": "randomness", "config": {"default_low": 1, "default_high": 7}}]"#,
    )
    .expect("the directory is ours");
    let applied = dev.json("community apply demo --name Demo --plugins plugins.json");
    assert_eq!(applied["readable_name"], "Demo");
    assert_eq!(dev.json("community get demo")["plugins"][0]["name"], "randomness");
    assert_eq!(dev.json("plugin config randomness -c demo")["config"]["default_high"], 7);
    dev.json("plugin enable randomness -c demo --config default_low=2 --config default_high=3");
    assert_eq!(dev.json("plugin config randomness -c demo")["config"]["default_high"], 3);
    dev.json("plugin disable randomness -c demo");
    assert_eq!(dev.run("plugin config randomness -c demo").code, 3);
    assert_eq!(dev.json("community list")["slug"], "demo");
    dev.json("community delete demo");
    assert_eq!(dev.run("community get demo").code, 3);
    assert_eq!(dev.run("community delete demo").code, 3);
}

#[test]
fn events_are_told_as_they_happen() {
    let dev = Dev::start();
    dev.enable_randomness();
    let mut tail = in_dir(&dev.dir, PROGRAM)
        .args(["events", "tail", "-c", "demo", "-p", "*.action.#", "-n", "1", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built");
    let mut words = BufReader::new(tail.stderr.take().expect("it is piped")).lines();
    let listening = words.next().expect("it says when it listens").expect("it is UTF-8");
    assert!(listening.contains("listening for demo.*.action.#"), "{listening}");
    let sent = dev.json("action run randomness.random-int -c demo");
    let output = tail.wait_with_output().expect("it ends after one event");
    let event: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&event["type"], &event["causationid"]), (&json!("org.metagov.action.completed"), &sent["message_id"]));
}

#[test]
fn what_cannot_be_found_among_the_dead_letters_is_exit_code_3() {
    let dev = Dev::start();
    let listed = dev.run("dead list");
    assert_eq!((listed.code, listed.stdout.as_str()), (0, ""));
    assert!(listed.stderr.contains("there are no dead letters"), "{}", listed.stderr);
    for line in ["dead show absent", "dead retry absent", "dead discard absent"] {
        let ran = dev.run(line);
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        assert!(ran.stderr.contains("there is no dead letter 'absent'"), "{}", ran.stderr);
        let ran = dev.run(&format!("{line} --json"));
        assert_eq!((ran.code, ran.stdout.lines().count()), (3, 1), "{}", ran.stdout);
        let object: Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
        assert_eq!(object["error"]["exit_code"], 3, "{object}");
    }
    assert_eq!(dev.json("dead discard --all"), json!({ "discarded": [], "missing": [] }));
}

#[test]
fn where_nothing_is_uncertain_there_is_nothing_to_decide() {
    let dev = Dev::start();
    let listed = dev.run("uncertain list");
    assert_eq!((listed.code, listed.stdout.as_str()), (0, ""));
    assert!(listed.stderr.contains("there are no uncertain runs"), "{}", listed.stderr);
    for what in ["show", "mark-done", "run-again"] {
        let ran = dev.run(&format!("uncertain {what} 00000000-0000-0000-0000-000000000000 --json"));
        assert_eq!(ran.code, 3, "{what}: {}", ran.stderr);
        let object: Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
        assert_eq!(object["error"]["exit_code"], 3);
    }
}

#[test]
fn what_was_applied_to_the_broker_is_one_object() {
    let dev = Dev::start();
    let topology = dev.json("topology apply");
    assert_eq!(topology, dev.json("topology show"));
    let ran = dev.run("topology apply");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "everything is declared as it should be\n"));
}

#[test]
fn the_outcome_of_what_nobody_waited_for_is_looked_up_by_its_id() {
    let dev = Dev::start();
    dev.enable_randomness();
    let ran = dev.run("action run randomness.random-int -c demo");
    let hint = ran.stderr.lines().find_map(|line| line.strip_prefix("its outcome: metagov ")).expect("it says how");
    let event = loop {
        let listed = dev.run(&format!("{hint} --json"));
        assert_eq!(listed.code, 0, "{}", listed.stderr);
        if !listed.stdout.is_empty() {
            break serde_json::from_str::<Value>(&listed.stdout).expect("one event");
        }
    };
    assert_eq!(event["type"], "org.metagov.action.completed");
    assert!(event["data"]["output"]["value"].is_number(), "{event}");
    let shown = dev.run("events replay -c demo --since 1h --dry-run --json");
    assert!(shown.stdout.lines().any(|line| line.contains("\"output\"")), "{}", shown.stdout);
    let lost = dev.run("events replay -c demo --since 1h");
    assert!(lost.stderr.contains("bind one to metagov.events with the routing key demo.#"), "{}", lost.stderr);
}

#[test]
fn a_list_that_is_cut_says_so_and_goes_on_where_it_was_cut() {
    let dev = Dev::start();
    dev.enable_randomness();
    for n in 0..3 {
        dev.json(&format!("community apply other-{n}"));
        dev.json("process start randomness.delayed-stochastic-vote -c demo -p options=[\"tea\"] -p delay=60 --wait");
    }
    for (list, all) in [("community list", 4), ("process list -c demo", 3), ("events list -c demo", 5)] {
        let whole = dev.run(&format!("{list} --json"));
        assert!(whole.stdout.lines().count() == all && whole.stderr.is_empty(), "{list}: {}", whole.stderr);
        let (mut pages, mut next) = (String::new(), String::new());
        loop {
            let page = dev.run(&format!("{list} --limit 2 --json --quiet {next}"));
            assert_eq!(page.code, 0, "{}", page.stderr);
            pages.push_str(&page.stdout);
            match page.stderr.trim().strip_prefix("there are more; the next ones: ") {
                Some(after) => next = after.to_owned(),
                None => break,
            }
        }
        assert_eq!(pages, whole.stdout, "{list}");
    }
}

#[test]
fn no_number_is_too_large_to_be_answered() {
    let dev = Dev::start();
    dev.enable_randomness();
    let started =
        dev.json("process start randomness.delayed-stochastic-vote -c demo -p options=[\"tea\"] -p delay=0 --wait");
    let id = started["id"].as_str().expect("an id");
    let lines = [
        format!("process watch {id} -c demo --timeout"),
        "action run randomness.random-int -c demo --wait --timeout".to_owned(),
        "process start randomness.delayed-stochastic-vote -c demo -p options=[\"tea\"] -p delay=0 --watch --timeout"
            .to_owned(),
        "community list --timeout".to_owned(),
        "uncertain list --since".to_owned(),
        "events list -c demo --since".to_owned(),
        "events replay -c demo --dry-run --since".to_owned(),
    ];
    for line in lines {
        for number in
            ["0", "1", "9223372036854775807", "9223372036854775808", "18446744073709551615", "99999999999999999999"]
        {
            for unit in ["ms", "s", "m", "h", "d", ""] {
                let ran = dev.run(&format!("{line} {number}{unit}"));
                assert!([0, 2, 4].contains(&ran.code), "{line} {number}{unit}: {} {}", ran.code, ran.stderr);
                assert!(!ran.stderr.contains("panicked"), "{line} {number}{unit}: {}", ran.stderr);
            }
        }
    }
    for number in ["-1", "0", "1", "10000", "10001", "9223372036854775808", "18446744073709551616"] {
        for line in [
            "process list -c demo --limit",
            "community list --limit",
            "events list -c demo --limit",
            "uncertain list --limit",
        ] {
            let ran = dev.run(&format!("{line} {number}"));
            assert!([0, 2].contains(&ran.code), "{line} {number}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_process_is_watched_for_as_long_as_was_asked_for() {
    let dev = Dev::start();
    dev.enable_randomness();
    let start = "process start randomness.delayed-stochastic-vote -c demo -p options=[\"tea\"] -p delay=60 --watch";
    let ran = dev.run(&format!("{start} --timeout 3s"));
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stdout.contains("pending") && ran.stderr.contains("within 3s"), "{}", ran.stderr);
}

#[test]
fn a_directory_may_be_named_as_a_url_would_escape_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["a%2Fb", "what?", "c#d", "e f"] {
        let data = dir.path().join(name);
        std::fs::create_dir(&data).expect("the directory is ours");
        let mut dev = Dev::start_in(tempfile::tempdir_in(&data).expect("it is ours"), "error", Stdio::piped());
        dev.json("community apply demo");
        assert_eq!(dev.json("community list")["slug"], "demo");
        assert_eq!(dev.interrupt(), Some(0));
    }
    let absolute = dir.path().join("g%2Fh");
    let migrated = in_dir(&dir, PROGRAM).arg("migrate").env("METAGOV__DATA_DIR", &absolute).output();
    assert!(migrated.expect("it was built").status.success() || !absolute.exists());
}

#[test]
fn one_directory_holds_one_dev_even_where_its_note_is_gone() {
    let dev = Dev::start();
    std::fs::remove_file(dev.dir.path().join("data/dev.json")).expect("it is there");
    let second = dev.run("dev");
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("another `metagov dev` runs on ./data"), "{}", second.stderr);
}

#[test]
fn one_directory_holds_one_dev() {
    let dev = Dev::start();
    let second = dev.run("dev");
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("another `metagov dev` runs on ./data"), "{}", second.stderr);
}

/// Everything in files whose names begin so.
fn bytes_of(dir: &std::path::Path, start: &str) -> String {
    let files = std::fs::read_dir(dir).expect("the directory is there").map(|entry| entry.expect("an entry").path());
    let wanted = files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)));
    wanted.map(|path| String::from_utf8_lossy(&std::fs::read(path).expect("a file")).into_owned()).collect()
}

#[test]
fn a_dev_without_keys_makes_one_that_nobody_else_may_read_and_keeps_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut dev = Dev::start();
    let file = dev.dir.path().join("data/keys");
    let made = std::fs::read_to_string(&file).expect("it made a key");
    assert_eq!(std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    let secret = "--create --config my_required_config=canary-1";
    dev.json(&format!("plugin enable example-plugin -c demo {secret}"));
    let listed = dev.json("keys list");
    assert_eq!((&listed["key"], &listed["instances"]), (&made.split(':').next().expect("an id").into(), &1.into()));
    assert_eq!(dev.json("keys rotate")["unchanged"], 1);

    // An operator changes it: the new one first.
    let fresh = dev.json("keys generate")["key"].as_str().expect("an entry").to_owned();
    std::fs::write(&file, format!("{fresh}\n{made}")).expect("the file is ours");
    assert_eq!(dev.json("keys rotate")["resealed"], 1);
    assert_eq!(dev.interrupt(), Some(0));
    std::fs::write(&file, format!("{fresh}\n")).expect("the file is ours");
    let dev = dev.start_again();
    assert_eq!(std::fs::read_to_string(&file).expect("it is kept"), format!("{fresh}\n"));
    let posted = dev.json("action run example-plugin.my-action -c demo -p text=hello --wait");
    assert!(posted["output"]["id"].is_number(), "{posted}");
}

#[test]
fn no_secret_is_in_the_log_at_trace_in_the_database_in_the_environment_or_in_what_commands_print() {
    const CANARIES: u32 = 20;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let made = Command::new(PROGRAM).args(["keys", "generate"]).output().expect("the program was built");
    let made = String::from_utf8(made.stdout).expect("an entry");
    let (_, key) = made.trim().split_once(':').expect("an id and a key");
    std::fs::write(dir.path().join("keys.txt"), &made).expect("the directory is ours");
    let log = std::fs::File::create(dir.path().join("trace.log")).expect("the directory is ours");
    let dev = Dev::start_in(dir, "trace", log.into());

    let mut said = String::new();
    let mut run = |line: &str| {
        let ran = dev.run(line);
        said.push_str(&ran.stdout);
        said.push_str(&ran.stderr);
        ran.code
    };
    for n in 0..CANARIES {
        let config = format!(r#"{{"my_required_config": "canary-{n:02}"}}"#);
        std::fs::write(dev.dir.path().join("secret.json"), config).expect("the directory is ours");
        let code = run(&format!("plugin enable example-plugin -c demo{n} --create --config-file secret.json"));
        assert_eq!(code, 0);
    }
    let wrong = r#"{"my_required_config": ["canary-90"], "canary": "canary-91"}"#;
    std::fs::write(dev.dir.path().join("secret.json"), wrong).expect("the directory is ours");
    assert_eq!(run("plugin enable example-plugin -c demo0 --config-file secret.json"), 1);
    for line in [
        "action run example-plugin.my-action -c demo0 -p text=hello --wait",
        "plugin config example-plugin -c demo0",
        "community get demo0",
        "community get demo0 --json",
        "config show",
        "config explain",
        "keys list",
        "keys rotate",
        "plugin disable example-plugin -c demo1",
        "dead list",
    ] {
        assert_eq!(run(line), 0, "{line}");
    }
    let log = bytes_of(dev.dir.path(), "trace.log");
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is not what was asked for");
    let database = bytes_of(&dev.dir.path().join("data"), "metagov.db");
    assert!(database.contains(r#""my_required_config":{"$sealed":"k"#), "the column begins with the id of the key");
    let environment = std::fs::read(format!("/proc/{}/environ", dev.child.id())).expect("it runs on Linux");
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.contains("METAGOV__SECRETS__KEYS_FILE"), "{environment}");
    for (what, text) in [("log", &log), ("database", &database), ("environment", &environment), ("output", &said)] {
        for secret in
            ["canary-9", key].into_iter().map(str::to_owned).chain((0..CANARIES).map(|n| format!("canary-{n:02}")))
        {
            // The names of members are told, as what is unknown.
            assert!(!text.contains(&secret), "{what} holds {secret}");
        }
    }
}

#[test]
fn a_log_that_cannot_be_written_changes_nothing() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has one");
    let mut dev = Dev::start_in(tempfile::tempdir().expect("a temporary directory"), "debug", full.into());
    dev.enable_randomness();
    let outcome = dev.json("action run randomness.random-int -c demo --wait");
    assert!(outcome["output"]["value"].is_i64(), "{outcome}");
    assert_eq!(dev.interrupt(), Some(0));
}
