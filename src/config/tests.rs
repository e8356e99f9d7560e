use std::{ffi::OsString, fs, path::PathBuf};

use metagov_sdk::schema::MASK;
use proptest::prelude::*;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::{
    layers::{Layer, Sources},
    *,
};

/// A directory of its own, and nothing of this process's environment.
struct Bench {
    dir: TempDir,
    sources: Sources,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory"), sources: Sources::default() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("the directory is ours");
        path
    }

    fn file(mut self, text: &str) -> Self {
        self.sources.file = Some(self.write("metagov.toml", text));
        self
    }

    fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn load(&self) -> Loaded {
        Config::load(&self.sources).expect("the settings are usable")
    }

    fn refused(&self) -> String {
        let error = Config::load(&self.sources).expect_err("the settings are not usable").to_string();
        error.replace(&self.dir.path().display().to_string(), "<dir>")
    }

    fn origin(&self, key: &str) -> String {
        let setting = self.load().explain().into_iter().find(|setting| setting.key == key).expect("the key exists");
        setting.origin.replace(&self.dir.path().display().to_string(), "<dir>")
    }
}

#[test]
fn without_any_layer_the_annotated_defaults_count() {
    let loaded = Bench::new().load();
    assert_eq!(loaded.config.broker.url.expose_secret(), "memory");
    assert_eq!(loaded.config.database.url.expose_secret(), "sqlite:./data/metagov.db");
    assert_eq!(loaded.config.worker.concurrency, 256);
    assert_eq!(loaded.config.log.format, LogFormat::Human);
    assert!(loaded.explain().iter().all(|setting| setting.origin == "default"));
}

#[test]
fn every_default_is_annotated() {
    let mut previous = "";
    for line in DEFAULTS.lines() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(previous.starts_with("# "), "{line} has no sentence about it");
        }
        previous = line;
    }
}

#[test]
fn each_layer_wins_over_the_one_before_and_says_so() {
    let mut bench = Bench::new().file("[worker]\nbatch = 1\nconcurrency = 1\nmax_attempts = 1\ndrain_seconds = 1\n");
    assert_eq!(
        (bench.load().config.worker.batch, bench.origin("worker.batch").as_str()),
        (1, "file <dir>/metagov.toml")
    );

    bench = bench.variable("METAGOV__WORKER__BATCH", "2");
    assert_eq!(bench.load().config.worker.batch, 2);
    assert_eq!(bench.origin("worker.batch"), "variable METAGOV__WORKER__BATCH");

    let path = bench.write("batch", "3\n");
    bench = bench.variable("METAGOV__WORKER__BATCH_FILE", path);
    assert_eq!(bench.load().config.worker.batch, 3);
    assert_eq!(bench.origin("worker.batch"), "file <dir>/batch (variable METAGOV__WORKER__BATCH_FILE)");

    bench.sources.flags.push(Flag { flag: "--batch", key: "worker.batch", value: "4".to_owned() });
    assert_eq!(bench.load().config.worker.batch, 4);
    assert_eq!(bench.origin("worker.batch"), "flag --batch");
    assert_eq!(bench.origin("worker.concurrency"), "file <dir>/metagov.toml");
    assert_eq!(bench.origin("worker.deadline_seconds"), "default");
}

#[test]
fn the_file_is_the_one_named_else_the_first_that_exists() {
    let mut bench = Bench::new();
    bench.sources.search = vec![bench.dir.path().join("absent.toml"), bench.write("found.toml", "data_dir = 'found'")];
    assert_eq!(bench.origin("data_dir"), "file <dir>/found.toml");
    let named = bench.write("named.toml", "data_dir = 'named'");
    let bench = bench.variable("METAGOV_CONFIG", named);
    assert_eq!(bench.origin("data_dir"), "file <dir>/named.toml");
    let bench = bench.file("data_dir = 'flag'");
    assert_eq!(bench.origin("data_dir"), "file <dir>/metagov.toml");
}

#[test]
fn a_secret_stays_the_text_that_it_is() {
    let bench = Bench::new();
    for secret in ["amqp://u:00123@h", "amqp://u:1e5@h", "amqp://u: x \n@h"] {
        let path = bench.write("secret", &format!("{secret}\n"));
        let bench = Bench::new().variable("METAGOV__BROKER__URL_FILE", path);
        assert_eq!(bench.load().config.broker.url.expose_secret(), secret);
        let bench = Bench::new().variable("METAGOV__BROKER__URL", secret);
        assert_eq!(bench.load().config.broker.url.expose_secret(), secret);
    }
    let bench = Bench::new().variable("METAGOV__BROKER__PREFIX", "00123");
    assert_eq!(bench.load().config.broker.prefix, "00123");
}

#[test]
fn a_file_of_another_system_holds_the_same_secret() {
    let bench = Bench::new();
    for content in ["amqp://u:p@h", "amqp://u:p@h\r\n", "\u{feff}amqp://u:p@h\r\n", "\u{feff}amqp://u:p@h"] {
        let path = bench.write("secret", content);
        let bench = Bench::new().variable("METAGOV__BROKER__URL_FILE", path);
        assert_eq!(bench.load().config.broker.url.expose_secret(), "amqp://u:p@h", "{content:?}");
    }
}

#[test]
fn only_one_newline_is_taken_off_the_content_of_a_file() {
    let bench = Bench::new();
    let path = bench.write("dir", "a\n\n");
    let bench = bench.variable("METAGOV__DATA_DIR_FILE", path);
    assert_eq!(bench.load().config.data_dir, PathBuf::from("a\n"));
}

#[test]
fn an_empty_variable_counts_as_absent() {
    assert_eq!(Bench::new().variable("METAGOV__BROKER__URL", "").origin("broker.url"), "default");
}

#[test]
fn unknown_keys_of_a_file_refuse_the_start_with_what_was_meant() {
    let cases = [
        (
            "[broker]\nulr = 1",
            "file <dir>/metagov.toml: broker.ulr: no setting has this name; did you mean 'broker.url'?",
        ),
        (
            "[brokr]\nurl = 'x'",
            "file <dir>/metagov.toml: brokr.url: no setting has this name; did you mean 'broker.url'?",
        ),
        ("data_dri = 'x'", "file <dir>/metagov.toml: data_dri: no setting has this name; did you mean 'data_dir'?"),
        ("[workers]", "file <dir>/metagov.toml: workers: no setting has this name; did you mean 'worker'?"),
        (
            "[log]\nconcurrency = 1",
            "file <dir>/metagov.toml: log.concurrency: no setting has this name; did you mean 'worker.concurrency'?",
        ),
        ("broker = 1", "file <dir>/metagov.toml: broker: must be a section"),
        (
            "zzz = 1",
            "file <dir>/metagov.toml: zzz: no setting has this name; `metagov config defaults` lists every key",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(Bench::new().file(text).refused(), expected);
    }
}

#[test]
fn unknown_variables_refuse_the_start_with_what_was_meant() {
    for name in ["METAGOV__BROKER__ULR", "METAGOV__BROKER_URL", "METAGOV_BROKER_URL", "METAGOV_BROKER__URL"] {
        let expected = format!("variable {name}: no setting has this name; did you mean 'METAGOV__BROKER__URL'?");
        assert_eq!(Bench::new().variable(name, "x").refused(), expected);
    }
    // Not settings, but names that others put there.
    let bench = Bench::new().variable("METAGOV_TEST_AMQP_URL", "x").variable("METAGOV_SERVICE_HOST", "x");
    assert!(Config::load(&bench.sources).is_ok());
}

#[test]
fn values_that_do_not_fit_are_all_named_at_once_and_never_repeated() {
    let bench = Bench::new()
        .file("[worker]\nconcurrency = 'hunter2'\nbatch = 0\nplugins = [1]\n[broker]\nurl = 'http://hunter2'\ndeclare = 1.5")
        .variable("METAGOV__WORKER__DRAIN_SECONDS", "hunter2")
        .variable("METAGOV__LOG__FORMAT", "hunter2")
        .variable("METAGOV__LOG__FILTER", "hunter2=hunter2")
        .variable("METAGOV__BROKER__DECLARE", "yes")
        .variable("METAGOV__DATABASE__URL_FILE", "/nonexistent");
    let refused = bench.refused();
    assert!(!refused.contains("hunter2"), "{refused}");
    insta::assert_snapshot!(refused, @r"
    file <dir>/metagov.toml: broker.declare: must be true or false, found a number with a fraction
    file <dir>/metagov.toml: worker.concurrency: must be a whole number, found a text
    file <dir>/metagov.toml: worker.plugins: must be a list of texts, found a list of other things
    variable METAGOV__WORKER__DRAIN_SECONDS: worker.drain_seconds: must be a whole number, found a text
    variable METAGOV__BROKER__DECLARE: broker.declare: must be true or false, found a text
    file /nonexistent (variable METAGOV__DATABASE__URL_FILE): database.url: the file cannot be read: No such file or directory (os error 2)
    file <dir>/metagov.toml: broker.url: must be `memory`, or start with amqp:// or amqps://
    file <dir>/metagov.toml: worker.batch: must be between 1 and 1000
    variable METAGOV__LOG__FORMAT: log.format: must be one of: human, json
    variable METAGOV__LOG__FILTER: log.filter: must be a level (error, warn, info, debug, trace) or a list of target=level
    ");
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_its_line_and_without_its_text() {
    let refused = Bench::new().file("data_dir = 'x'\n[broker]\nurl = amqp://u:hunter2@h\n").refused();
    assert!(refused.starts_with("file <dir>/metagov.toml: line 3: this is not TOML"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[test]
fn a_named_file_that_is_missing_is_refused() {
    let mut bench = Bench::new();
    bench.sources.file = Some(bench.dir.path().join("absent.toml"));
    assert!(bench.refused().starts_with("file <dir>/absent.toml: the file cannot be read"), "{}", bench.refused());
}

#[test]
fn what_is_shown_holds_no_secret() {
    let bench = Bench::new()
        .variable("METAGOV__BROKER__URL", "amqp://me:hunter2@host:5672/vhost?token=hunter2&x=1")
        .variable("METAGOV__DATABASE__URL", "postgres://me:hun@ter2@host/db?sslmode=require&password=hunter2");
    let shown = serde_json::to_string(&bench.load().explain()).expect("plain data");
    assert!(!shown.contains("hunter2") && !shown.contains("ter2"), "{shown}");
    assert!(shown.contains(&format!("amqp://me:{MASK}@host:5672/vhost?token={MASK}&x=1")), "{shown}");
    assert!(shown.contains(&format!("postgres://me:{MASK}@host/db?sslmode=require&password={MASK}")), "{shown}");
    assert!(!format!("{:?}", bench.load().config).contains("hunter2"));
}

#[test]
fn the_data_directory_moves_the_default_database() {
    let bench = Bench::new().variable("METAGOV__DATA_DIR", "/var/lib/metagov");
    assert_eq!(bench.load().config.database.url.expose_secret(), "sqlite:/var/lib/metagov/metagov.db");
}

fn toml_value() -> impl Strategy<Value = toml::Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(toml::Value::from),
        any::<bool>().prop_map(toml::Value::from),
        any::<f64>().prop_map(toml::Value::from),
        ".{0,8}".prop_map(toml::Value::from),
        "(memory|amqp://h|human|info|postgres://h/d|a=b)".prop_map(toml::Value::from),
    ];
    leaf.prop_recursive(2, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(toml::Value::from),
            prop::collection::hash_map("[a-z_.]{1,6}", inner, 0..3)
                .prop_map(|members| toml::Value::Table(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_text_as_a_file_never_panics(text in any::<String>()) {
        Layer::toml("file", &text, &Layer::defaults().kinds(), &mut Vec::new());
    }

    #[test]
    fn arbitrary_values_under_known_keys_never_panic(
        values in prop::collection::vec((0usize..32, toml_value()), 0..6),
    ) {
        let known: Vec<String> = Layer::defaults().values.into_keys().collect();
        let mut table = toml::Table::new();
        for (index, value) in values {
            match known[index % known.len()].split_once('.') {
                Some((section, key)) => {
                    let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
                    section.as_table_mut().expect("only tables stand under a section").insert(key.to_owned(), value);
                }
                None => {
                    table.insert("data_dir".to_owned(), value);
                }
            }
        }
        let bench = Bench::new().file(&table.to_string());
        let _ = Config::load(&bench.sources);
    }
}

#[test]
fn users_are_bound_to_communities_in_a_file_and_in_a_variable_alike() {
    let file = Bench::new().file("[tenancy]\nusers = ['bot=acme', 'bot=beta', 'ops=*']\n").load().config.tenancy;
    let variable = Bench::new().variable("METAGOV__TENANCY__USERS", "bot=acme, bot=beta, ops=*").load().config.tenancy;
    assert_eq!((file.bound(), file.is_on()), (variable.bound(), true));
    let slugs = ["acme", "beta"].map(|slug| slug.parse().expect("a slug"));
    assert_eq!(file.bound()["bot"], Communities::These(slugs.into()));
    assert_eq!(file.bound()["ops"], Communities::All);
    assert!(!Bench::new().load().config.tenancy.is_on());
}

#[test]
fn a_binding_that_is_none_and_a_user_that_is_ours_are_refused() {
    for wrong in ["bot", "=acme", "bot=", "bot=Acme", "a.b=acme", "a b=acme", "bot=acme=beta"] {
        let said = Bench::new().variable("METAGOV__TENANCY__USERS", wrong).refused();
        assert!(said.contains("tenancy.users: each must be USER=COMMUNITY"), "{wrong}: {said}");
    }
    for ours in ["metagov", "metagov-worker", "metagov-subscription", "amq", "extra"] {
        let bench = Bench::new().variable("METAGOV__TENANCY__SERVICE_USERS", "extra");
        let said = bench.variable("METAGOV__TENANCY__USERS", format!("{ours}=acme")).refused();
        assert!(
            said.contains(&format!("tenancy.users: '{ours}' is a user or a queue of the service itself")),
            "{said}"
        );
    }
    let said = Bench::new().variable("METAGOV__TENANCY__SERVICE_USERS", "a.b").refused();
    assert!(said.contains("tenancy.service_users: each must be"), "{said}");
}

#[test]
fn plugins_may_have_a_concurrency_of_their_own() {
    let bench = Bench::new().variable("METAGOV__WORKER__PLUGIN_CONCURRENCY", "slack=16, discord = 300");
    let worker = bench.load().config.worker;
    assert_eq!(["slack", "discord", "other"].map(|plugin| worker.concurrency_of(Some(plugin))), [16, 300, 256]);
    assert_eq!(worker.concurrency_of(None), 256);
    for (wrong, why) in [
        ("slack", "each must be a plugin, `=` and a number between 1 and 65535, like `slack=16`"),
        ("slack=0", "each must be a plugin, `=` and a number between 1 and 65535, like `slack=16`"),
        ("slack=65536", "each must be a plugin, `=` and a number between 1 and 65535, like `slack=16`"),
        ("=4", "each must be a plugin, `=` and a number between 1 and 65535, like `slack=16`"),
        ("slack=1,slack=2", "names a plugin twice"),
    ] {
        let refused = Bench::new().variable("METAGOV__WORKER__PLUGIN_CONCURRENCY", wrong).refused();
        assert!(refused.ends_with(why), "{wrong}: {refused}");
    }
}
