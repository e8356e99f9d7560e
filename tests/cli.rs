//! The command line as the shell sees it: exit codes, what is on stdout and what on stderr. No service is needed here; what
//! needs one is told in the stories.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// A directory in which nothing runs, and an environment without settings.
struct Shell {
    dir: TempDir,
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Shell {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("the directory is ours");
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let inherited = std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("METAGOV_"));
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_metagov"))
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .envs(inherited)
            .envs(environment.iter().copied())
            .output()
            .expect("the program was built");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Ran { code: status.code().expect("it was not killed"), stdout: text(stdout), stderr: text(stderr) }
    }
}

impl Ran {
    /// The one JSON object on stdout.
    fn object(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        serde_json::from_str(&self.stdout).expect("one JSON object")
    }

    fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("one JSON object for each line")).collect()
    }

    /// It failed so, said so on stderr, and left stdout alone.
    fn assert_refused(&self, code: i32, words: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        assert!(self.stderr.contains(words), "{}", self.stderr);
    }
}

/// An id that nothing has.
const UNKNOWN: &str = "00000000-0000-0000-0000-000000000000";

#[test]
fn wrong_usage_is_exit_code_2() {
    let shell = Shell::new();
    let cases: &[(&[&str], &str)] = &[
        (&["wrong"], "unrecognized subcommand"),
        (&["action", "run", "randomness", "-c", "demo"], "must be PLUGIN.NAME"),
        (&["action", "run", "randomness.random-int", "-c", "No Slug"], "a community slug"),
        (&["action", "run", "randomness.random-int", "-c", "demo", "-p", "low"], "must be key=value"),
        (
            &["action", "run", "randomness.random-int", "-c", "demo", "--params", "absent.json"],
            "cannot read absent.json",
        ),
        (&["action", "run", "randomness.random-int", "-c", "demo", "--timeout", "60"], "with a unit"),
        (&["process", "get", "no-uuid", "-c", "demo"], "invalid value"),
        (&["process", "list", "-c", "demo", "--status", "odd"], "must be created, pending, completed or failed"),
        (&["dead", "retry"], "required"),
        (&["uncertain", "mark-done", "no-uuid"], "invalid value"),
        (&["uncertain", "list", "--since", "60"], "with a unit"),
        (&["uncertain", "mark-done", UNKNOWN, "--output", "{"], "must be JSON"),
        (&["process", "list", "-c", "demo", "--limit", "18446744073709551615"], "1..=10000"),
        (&["process", "list", "-c", "demo", "--limit", "0"], "1..=10000"),
        (&["community", "list", "--timeout", "18446744073709551615h"], "with a unit"),
    ];
    for (arguments, words) in cases {
        shell.run(arguments).assert_refused(2, words);
    }
}

#[test]
fn what_does_not_exist_is_exit_code_3_with_the_nearest_name() {
    let shell = Shell::new();
    shell.run(&["plugins", "show", "randomnes"]).assert_refused(3, "did you mean 'randomness'?");
    let cases: &[(&[&str], &str)] = &[
        (&["action", "run", "randomnes.random-int", "-c", "demo"], "did you mean 'randomness'?"),
        (&["action", "run", "randomness.random-in", "-c", "demo"], "did you mean 'random-int'?"),
        (&["process", "start", "randomness.delayed-stochastic-vot", "-c", "demo"], "did you mean"),
        (&["plugin", "enable", "randomnes", "-c", "demo"], "did you mean 'randomness'?"),
    ];
    for (arguments, words) in cases {
        shell.run(arguments).assert_refused(3, words);
    }
}

#[test]
fn with_json_an_error_is_an_object_too() {
    let shell = Shell::new();
    let ran = shell.run(&["plugins", "show", "randomnes", "--json"]);
    assert_eq!(ran.code, 3);
    let error = &ran.object()["error"];
    assert_eq!(error["problem"]["type"], "https://metagov.org/problems/unknown-plugin");
    assert_eq!((&error["exit_code"], &error["message"]), (&3.into(), &error["problem"]["detail"]));
    let ran = shell.run(&["--json", "events", "tail"]);
    assert_eq!((ran.code, &ran.object()["error"]["exit_code"]), (5, &5.into()));
}

#[test]
fn with_json_wrong_usage_is_an_object_too() {
    let shell = Shell::new();
    let cases: &[(&[&str], &str)] = &[
        (&["--json", "wrong"], "unrecognized subcommand 'wrong'"),
        (&["--json"], "requires a subcommand"),
        (&["dead", "--json"], "requires a subcommand"),
        (&["process", "get", "no-uuid", "-c", "demo", "--json"], "invalid value 'no-uuid'"),
        (&["dead", "retry", "--json"], "required arguments were not provided"),
    ];
    for (arguments, words) in cases {
        let ran = shell.run(arguments);
        let error = &ran.object()["error"];
        assert_eq!((ran.code, &error["exit_code"]), (2, &2.into()), "{arguments:?}");
        let message = error["message"].as_str().expect("it says what is wrong");
        assert!(message.contains(words) && !message.contains("Usage"), "{message}");
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    // What only looks like the option is not taken for it.
    shell.run(&["wrong", "--", "--json"]).assert_refused(2, "unrecognized subcommand");
    let ran = shell.run(&["--json", "--version"]);
    assert!(ran.code == 0 && ran.stdout.starts_with("metagov "), "{}", ran.stdout);
}

#[test]
fn without_a_service_it_is_exit_code_5_with_the_remedy_and_nothing_is_created() {
    let shell = Shell::new();
    let cases: &[&[&str]] = &[
        &["action", "run", "randomness.random-int", "-c", "demo"],
        &["action", "run", "randomness.random-int", "-c", "demo", "--wait"],
        &["process", "start", "randomness.delayed-stochastic-vote", "-c", "demo"],
        &["community", "apply", "demo"],
        &["community", "list"],
        &["community", "get", "demo"],
        &["plugin", "disable", "randomness", "-c", "demo"],
        &["process", "list", "-c", "demo"],
        &["events", "tail"],
        &["dead", "list"],
        &["topology", "apply"],
    ];
    for arguments in cases {
        shell.run(arguments).assert_refused(5, "start `metagov dev`");
    }
    assert_eq!(fs::read_dir(shell.path()).expect("it is ours").count(), 0, "a read left something behind");
}

#[test]
fn a_dev_that_is_gone_is_exit_code_5() {
    let shell = Shell::new();
    fs::create_dir(shell.path().join("data")).expect("the directory is ours");
    // Port 1 on loopback: nobody listens there.
    shell.write("data/dev.json", r#"{"address": "127.0.0.1:1", "token": "hunter2", "pid": 7}"#);
    let ran = shell.run(&["events", "tail"]);
    ran.assert_refused(5, "`metagov dev` (process 7) does not answer at 127.0.0.1:1");
    assert!(!ran.stderr.contains("hunter2"));
}

#[test]
fn a_port_that_takes_connections_and_is_silent_holds_nobody_up() {
    let shell = Shell::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("it is bound");
    fs::create_dir(shell.path().join("data")).expect("the directory is ours");
    shell.write("data/dev.json", &format!(r#"{{"address": "{address}", "token": "hunter2", "pid": 7}}"#));
    shell.run(&["events", "tail"]).assert_refused(5, "does not answer");
    let shorter: &[&[&str]] = &[
        &["events", "tail", "--timeout", "100ms"],
        &["dead", "list", "--timeout", "100ms"],
        &["topology", "apply", "--timeout", "100ms"],
        &["action", "run", "randomness.random-int", "-c", "demo", "--timeout", "100ms"],
        &["action", "run", "randomness.random-int", "-c", "demo", "--wait", "--timeout", "100ms"],
        &["process", "start", "randomness.delayed-stochastic-vote", "-c", "demo", "--watch", "--timeout", "100ms"],
    ];
    for arguments in shorter {
        shell.run(arguments).assert_refused(4, "100ms");
    }
}

#[test]
fn plugins_reach_this_machine_by_a_word_in_dev_only() {
    let shell = Shell::new();
    let role = [("METAGOV__BROKER__URL", "amqp://127.0.0.1:1"), ("METAGOV__EGRESS__ALLOW", "loopback")];
    shell.run_with(&["worker"], &role).assert_refused(78, "egress.allow: `loopback` is for `metagov dev` only");
    let wrong = [("METAGOV__EGRESS__ALLOW", "10.1.0.0/16,localhost")];
    shell.run_with(&["config", "show"], &wrong).assert_refused(78, "egress.allow: each must be `loopback`");
    let named = [("METAGOV__EGRESS__ALLOW", "127.0.0.1,fd00::/8")];
    let shown = shell.run_with(&["config", "show", "--json"], &named).object();
    assert_eq!(shown["egress.allow"], serde_json::json!(["127.0.0.1", "fd00::/8"]));
}

#[test]
fn what_a_plugin_answers_decides_and_tells_is_shown_to_people_too() {
    let shown = Shell::new().run(&["plugins", "show", "randomness"]).stdout;
    for words in ["random-int (pure)", "answers\n    value", "decides\n    winner", "array of string"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn settings_that_cannot_be_used_are_exit_code_78_with_every_fault() {
    let shell = Shell::new();
    shell.write("metagov.toml", "[worker]\nconcurency = 1\nbatch = 'x'\n");
    let ran = shell.run_with(&["worker", "--concurrency", "0"], &[("METAGOV_BROKER_URL", "amqp://u:hunter2@h")]);
    for words in [
        "file metagov.toml: worker.concurency: no setting has this name; did you mean 'worker.concurrency'?",
        "file metagov.toml: worker.batch: must be a whole number, found a text",
        "variable METAGOV_BROKER_URL: no setting has this name; did you mean 'METAGOV__BROKER__URL'?",
        "flag --concurrency: worker.concurrency: must be between 1 and 65535",
    ] {
        ran.assert_refused(78, words);
    }
    assert!(!ran.stderr.contains("hunter2"));
    // What says something about the program only works all the same.
    assert_eq!(shell.run(&["plugins", "list"]).code, 0);
    assert_eq!(shell.run(&["completions", "fish"]).code, 0);
    assert_eq!(shell.run(&["schemas", "list"]).code, 0);
    let defaults = shell.run(&["config", "defaults", "--json"]);
    assert_eq!(defaults.object()["worker.concurrency"], 256);
    let defaults = shell.run(&["config", "defaults"]);
    assert!(defaults.code == 0 && defaults.stdout.contains("concurrency = 256"), "{}", defaults.stderr);
}

#[test]
fn a_file_that_is_named_must_exist() {
    Shell::new().run(&["config", "show", "--config", "absent.toml"]).assert_refused(78, "file absent.toml");
}

#[test]
fn explain_says_which_layer_set_what_and_shows_no_secret() {
    let shell = Shell::new();
    shell.write("metagov.toml", "[worker]\nbatch = 7\n");
    let environment = [("METAGOV__BROKER__URL", "amqp://me:hunter2@host/vhost")];
    let ran = shell.run_with(&["config", "explain", "--json"], &environment);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let found = |key: &str| ran.lines().into_iter().find(|line| line["key"] == key).expect("every key is there");
    assert_eq!(found("worker.batch")["origin"], "file metagov.toml");
    assert_eq!(found("worker.batch")["value"], 7);
    assert_eq!(found("broker.url")["origin"], "variable METAGOV__BROKER__URL");
    assert_eq!(found("broker.url")["value"], "amqp://me:********@host/vhost");
    assert_eq!(found("database.url")["value"], "sqlite:./data/metagov.db");
    assert_eq!(found("log.format")["origin"], "default");
    assert!(!ran.stdout.contains("hunter2"));

    let ran = shell.run_with(&["config", "show", "--json"], &environment);
    assert_eq!(ran.object()["worker.batch"], 7);
    let ran = shell.run(&["config", "explain"]);
    assert!(ran.stdout.starts_with("KEY") && ran.stdout.contains("file metagov.toml"), "{}", ran.stdout);
}

#[test]
fn plugins_are_listed_and_shown_without_a_service() {
    let shell = Shell::new();
    let ran = shell.run(&["plugins", "list", "--json"]);
    assert!(ran.lines().iter().any(|plugin| plugin["name"] == "randomness"), "{}", ran.stdout);
    let ran = shell.run(&["plugins", "show", "randomness", "--json"]);
    assert!(ran.object()["actions"]["random-int"]["parameters"].is_object());
    let ran = shell.run(&["plugins", "show", "randomness"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.contains("action randomness.random-int"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}'), "colours belong on a terminal only");
}

#[test]
fn the_topology_is_shown_under_the_prefix_of_the_settings() {
    let shell = Shell::new();
    let ran = shell.run_with(&["topology", "show", "--json"], &[("METAGOV__BROKER__PREFIX", "other")]);
    let topology = ran.object();
    let names: Vec<&str> =
        topology["queues"].as_array().expect("a list").iter().filter_map(|queue| queue["name"].as_str()).collect();
    assert!(names.contains(&"other.plugin.randomness") && names.contains(&"other.core"), "{names:?}");
    assert!(shell.run(&["topology", "show"]).stdout.contains("action.randomness.*"));
}

#[test]
fn users_and_permissions_are_exported_for_every_role_and_driver_without_a_password() {
    let shell = Shell::new();
    let environment = [
        ("METAGOV__BROKER__URL", "amqp://me:hunter2@host/one%2Ftwo"),
        ("METAGOV__BROKER__PREFIX", "other"),
        ("METAGOV__TENANCY__USERS", "bot=acme,bot=beta,ops=*"),
    ];
    let exported = shell.run_with(&["topology", "export", "--json"], &environment);
    let definitions = exported.object();
    let names = |section: &str, member: &str| -> Vec<String> {
        let rows = definitions[section].as_array().expect("a list").iter();
        rows.map(|row| row[member].as_str().expect("a text").to_owned()).collect()
    };
    let users = ["other-worker", "other-scheduler", "other-gateway", "other-admin", "bot", "ops"];
    assert_eq!(
        (names("users", "name"), names("permissions", "user")),
        (users.map(str::to_owned).to_vec(), names("users", "name"))
    );
    assert!(names("permissions", "vhost").iter().all(|vhost| vhost == "one/two"));
    assert!(definitions["users"].as_array().expect("a list").iter().all(|user| user["password_hash"] == ""));
    assert!(!exported.stdout.contains("hunter2") && exported.stderr.contains("rabbitmqctl change_password"));

    let later = ["topology", "export", "--permissions-only", "--vhost", "v", "--output", "made.json", "--json"];
    let ran = shell.run_with(&later, &environment);
    assert_eq!((ran.code, &ran.object()["written"]), (0, &"made.json".into()));
    let made: Value =
        serde_json::from_str(&fs::read_to_string(shell.path().join("made.json")).expect("it was written"))
            .expect("it is JSON");
    assert!(made.get("users").is_none() && made["permissions"][0]["vhost"] == "v", "{made}");
}

#[test]
fn a_bus_without_users_cannot_require_them() {
    let shell = Shell::new();
    let ran = shell.run_with(&["dev"], &[("METAGOV__TENANCY__REQUIRED", "true")]);
    ran.assert_refused(1, "tenancy.required needs a broker");
    assert_eq!(fs::read_dir(shell.path()).expect("it is ours").count(), 0, "it left something behind");
}

#[test]
fn the_published_schemas_are_listed_shown_and_exported() {
    let shell = Shell::new();
    let listed = shell.run(&["schemas", "list", "--json"]).lines();
    let names: Vec<&str> = listed.iter().filter_map(|schema| schema["name"].as_str()).collect();
    assert!(names.contains(&"action") && names.contains(&"event") && names.contains(&"problem"), "{names:?}");
    for plugin in ["config", "action.random-int.parameters", "process.delayed-stochastic-vote.outcome"] {
        assert!(names.contains(&format!("randomness.{plugin}").as_str()), "{names:?}");
    }
    assert!(shell.run(&["schemas", "list"]).stdout.starts_with("NAME"));

    let shown = shell.run(&["schemas", "show", "action", "--json"]).object();
    assert_eq!(shown["$id"], "https://metagov.org/schemas/v1/action.json");
    shell.run(&["schemas", "show", "actoin"]).assert_refused(3, "did you mean 'action'?");

    let ran = shell.run(&["schemas", "export", "made/here", "--json"]);
    assert_eq!(ran.object()["written"].as_array().map(Vec::len), Some(names.len()));
    let written = fs::read_to_string(shell.path().join("made/here/action.json")).expect("it was written");
    assert_eq!(serde_json::from_str::<Value>(&written).expect("it is JSON"), shown);
    shell.write("file", "");
    shell.run(&["schemas", "export", "file"]).assert_refused(1, "cannot create file");
}

#[test]
fn the_asyncapi_document_names_the_exchanges_of_the_settings() {
    let shell = Shell::new();
    let ran = shell.run_with(&["asyncapi", "--json"], &[("METAGOV__BROKER__PREFIX", "other")]);
    let document = ran.object();
    let exchange = |channel: &str| document["channels"][channel]["bindings"]["amqp"]["exchange"]["name"].clone();
    assert_eq!(document["asyncapi"], "3.0.0");
    assert_eq!((exchange("action"), exchange("action-completed")), ("other.commands".into(), "other.events".into()));
    let url = [("METAGOV__BROKER__URL", "amqps://me:hunter2@broker.example:5671/one%2Ftwo")];
    let ran = shell.run_with(&["asyncapi", "--json"], &url);
    let document = ran.object();
    let server = &document["servers"]["broker"];
    assert_eq!((&server["protocol"], &server["host"]), (&"amqps".into(), &"broker.example:5671".into()));
    assert_eq!(server["pathname"], "/one%2Ftwo");
    assert!(!ran.stdout.contains("hunter2"));
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["randomness.action.random-int.output"]["properties"]["value"]["type"], "integer");
    assert!(shell.run(&["asyncapi"]).stdout.contains("\"action.{plugin}.{action}\""));
}

#[test]
fn no_integer_of_any_plugin_goes_beyond_what_every_reader_of_json_keeps_exactly() {
    fn beyond(value: &Value, place: &str, found: &mut Vec<String>) {
        if let Value::Object(members) = value {
            let is_integer = |kind: &Value| kind == "integer" || kind[0] == "integer";
            let ends = |limit: &str| value[limit].as_f64().is_some_and(|limit| limit.abs() < 9_007_199_254_740_992.0);
            if members.get("type").is_some_and(is_integer) && !(ends("minimum") && ends("maximum")) {
                found.push(place.to_owned());
            }
            members.iter().for_each(|(name, member)| beyond(member, &format!("{place}/{name}"), found));
        }
        let items = value.as_array().into_iter().flatten().enumerate();
        items.for_each(|(index, item)| beyond(item, &format!("{place}/{index}"), found));
    }
    let mut found = Vec::new();
    beyond(&Shell::new().run(&["asyncapi", "--json"]).object(), "", &mut found);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn completions_name_the_commands() {
    let shell = Shell::new();
    for name in ["bash", "zsh", "fish"] {
        let ran = shell.run(&["completions", name]);
        assert!(ran.code == 0 && ran.stdout.contains("topology"), "{name}");
    }
    let ran = shell.run(&["completions", "bash", "--json"]);
    assert!(ran.object()["script"].as_str().is_some_and(|script| script.contains("topology")));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let shell = Shell::new();
    let program = env!("CARGO_BIN_EXE_metagov");
    let script = format!("set -o pipefail; '{program}' completions bash | head -n 1");
    let output = Command::new("bash").args(["-c", &script]).current_dir(shell.path()).output().expect("bash is there");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_key_is_drawn_whatever_the_settings_are_and_fits_them() {
    let shell = Shell::new();
    let drawn = shell.run_with(&["keys", "generate"], &[("METAGOV__BROKER__ULR", "x")]);
    assert_eq!((drawn.code, drawn.stderr.as_str(), drawn.stdout.lines().count()), (0, "", 1));
    let other = shell.run(&["keys", "generate", "--json"]).object();
    let both = [drawn.stdout.trim(), other["key"].as_str().expect("an entry")];
    assert_ne!(both[0], both[1]);
    // One a line in a file, or with commas between them.
    shell.write("keys", &both.join("\n"));
    let cases = [("METAGOV__SECRETS__KEYS_FILE", "keys".to_owned()), ("METAGOV__SECRETS__KEYS", both.join(","))];
    for (name, value) in cases {
        let shown = shell.run_with(&["config", "explain"], &[(name, &value)]);
        assert_eq!(shown.code, 0, "{}", shown.stderr);
        for (id, key) in both.iter().filter_map(|entry| entry.split_once(':')) {
            assert!(
                shown.stdout.contains(&format!("{id}:********")) && !shown.stdout.contains(key),
                "{}",
                shown.stdout
            );
        }
    }
}

#[test]
fn keys_that_cannot_be_used_are_refused_and_not_repeated() {
    let shell = Shell::new();
    for keys in ["canary", "k1:canary", "k1:Y2FuYXJ5", "k 1:AAAA"] {
        let ran = shell.run_with(&["config", "show"], &[("METAGOV__SECRETS__KEYS", keys)]);
        ran.assert_refused(78, "secrets.keys: each key must");
        assert!(!ran.stderr.contains("canary") && !ran.stderr.contains("Y2Fu"), "{}", ran.stderr);
    }
    shell.run(&["keys", "rotate"]).assert_refused(78, "METAGOV__SECRETS__KEYS_FILE");
}

#[test]
fn what_goes_wrong_with_broker_and_database_is_told_without_their_passwords() {
    let shell = Shell::new();
    let settings = [
        ("METAGOV__BROKER__URL", "amqp://u:canary-1@127.0.0.1:1/v?token=canary-2"),
        ("METAGOV__DATABASE__URL", "postgres://u:canary-3@127.0.0.1:1/d?password=canary-4"),
        ("METAGOV__LOG__FILTER", "trace"),
    ];
    for arguments in [&["community", "list"][..], &["config", "explain"], &["keys", "list"], &["migrate"], &["worker"]]
    {
        let ran = shell.run_with(arguments, &settings);
        assert!(!ran.stdout.contains("canary") && !ran.stderr.contains("canary"), "{arguments:?}: {}", ran.stderr);
    }
}
