//! Secrets of plugins: twenty canaries that nobody may hear of but the plugin and its platform, and keys that change while
//! commands go on.
//!
//! It looks wherever the service writes: its logs at the most talkative level, its events, every column of the database,
//! the dead letters, the environment of its processes. It does not look at what drivers write: a command with a secret
//! passes through the broker as it was sent.

use std::{collections::HashMap, fmt::Write as _, fs, path::Path, process::Stdio, time::Duration};

use metagov::{
    host::owner,
    store::{self, Change, Committed, Instance, NewInstance, Store, Unit},
    vault::{KeyEntry, Owner, Vault},
};
use metagov_sdk::{PluginDefinition, contract::CommunitySlug};
use rand::Rng;
use sea_orm::{ConnectionTrait, Database, Statement};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    checker::Tally,
    command::{Command, Properties},
    dead::dead_letters,
    rig::{COMMUNITY, Rig, Service, Setup, Size, command},
    table::Row,
    workers,
};

const CANARIES: usize = 20;
/// A community whose row is spoilt, so that a command is set aside for it.
const SPOILT: &str = "spoilt";
/// Rows of a community.
const SHELF: usize = 100;
const KEYS_FILE: &str = "METAGOV__SECRETS__KEYS_FILE";

/// A key as an operator has it.
struct Key {
    id: &'static str,
    entry: String,
}

impl Key {
    fn draw(rig: &mut Rig, id: &'static str) -> Self {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let bytes: [u8; 32] = rig.random.random();
        Self { id, entry: format!("{id}:{}", STANDARD.encode(bytes)) }
    }

    /// What must not be seen of it.
    fn secret(&self) -> String {
        self.entry[self.id.len() + 1..].to_owned()
    }

    fn vault(&self) -> Vault {
        Vault::new(&[KeyEntry::parse(&self.entry).expect("it is a key")])
    }
}

/// A file of these keys, the first of which seals.
fn keys_file(directory: &Path, keys: &[&Key]) -> String {
    let name: String = keys.iter().map(|key| key.id).collect();
    let path = directory.join(name);
    let entries: Vec<_> = keys.iter().map(|key| key.entry.as_str()).collect();
    fs::write(&path, entries.join("\n")).expect("the directory is ours");
    path.display().to_string()
}

/// How many of the words are in a text, as they are or as the database shows bytes.
fn hits(words: &[String], text: &str) -> usize {
    let hex = |word: &String| {
        word.bytes().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    };
    words.iter().filter(|word| text.contains(*word) || text.contains(&hex(word))).count()
}

/// Every column of every row.
async fn everything_stored(url: &str) -> String {
    const COLUMNS: &str = "SELECT format('SELECT CAST(%I AS TEXT) AS text FROM %I WHERE %I IS NOT NULL', column_name, \
                           table_name, column_name) AS text FROM information_schema.columns WHERE table_schema = 'public'";
    let connection = Database::connect(url).await.expect("the database answers");
    let backend = connection.get_database_backend();
    let texts = async |sql: &str| -> Vec<String> {
        let rows = connection.query_all_raw(Statement::from_string(backend, sql)).await.expect("the query is right");
        rows.iter().map(|row| row.try_get("", "text").expect("a text")).collect()
    };
    let mut all = String::new();
    for query in texts(COLUMNS).await {
        all.push_str(&texts(&query).await.join("\n"));
        all.push('\n');
    }
    let _ = connection.close().await;
    all
}

/// What the service's processes have said and been told; those that were replaced, too.
#[derive(Default)]
struct Overheard {
    logs: String,
    environment: String,
}

impl Overheard {
    fn listen(&mut self, service: &Service) {
        for process in &service.processes {
            self.logs.push_str(&process.log_from(0));
            self.environment.push_str(&String::from_utf8_lossy(&process.environment()));
        }
    }

    /// Ends each worker in turn and starts another one with these keys.
    async fn restart_with(&mut self, service: &mut Service, keys: &str) {
        self.listen(service);
        service.set(KEYS_FILE, Some(keys));
        for place in 0..service.processes.len() {
            service.processes[place].signal("TERM");
            let ended = service.processes[place].ended_within(Duration::from_mins(1)).await;
            assert!(ended.is_some_and(|status| status.success()), "a worker does not end in order");
            service.replace(place);
        }
    }
}

fn with_secrets(slug: &str, secrets: &[String]) -> Command {
    let plugins = json!([{ "name": "puppet", "config": { "secrets": secrets } }]);
    command("community.apply", &json!({ "slug": slug, "plugins": plugins }))
}

/// Commands that end in every way, of a plugin that cannot keep anything to itself; what they end in.
async fn gossip(service: &Service, canaries: &[String], times: usize) -> Vec<Command> {
    let mut commands = vec![with_secrets(COMMUNITY, canaries), with_secrets(SPOILT, canaries)];
    service.driver.send(&commands).await;
    service.answered(&commands, commands.len()).await;
    // Secrets in the wrong place, and a body that is no JSON.
    let wrong = json!({ "secrets": [{ "a": canaries[0] }, 7, [canaries[1]]], "spare": canaries[2] });
    commands.push(command("plugin.puppet.enable", &json!({ "community": COMMUNITY, "config": wrong })));
    let mut unreadable = command("plugin.puppet.enable", &json!({}));
    unreadable.body = format!(r#"{{"community":"{COMMUNITY}","config":{{"secrets":["{}"#, canaries[3]).into_bytes();
    commands.push(unreadable);
    // Nobody can recognise the answer to this one, so that it is set aside.
    let nameless = Command { properties: Properties::Nameless, ..command("action.puppet.pure", &json!("nothing")) };
    commands.push(Command { body: b"{".to_vec(), ..nameless });
    for _ in 0..times {
        for action in ["pure", "idempotent", "keyed", "unsafe"] {
            for deed in ["succeed", "reject", "blab", "blab-rejected", "panic", "hang"] {
                commands.push(service.command_in(COMMUNITY, action, &json!({ "deeds": [deed], "calls": true })));
            }
            let again = json!({ "deeds": ["retry", "blab"], "calls": true });
            commands.push(service.command_in(COMMUNITY, action, &again));
        }
    }
    let spoil = format!(
        "WITH spoilt AS (UPDATE plugin_instances SET config = (SELECT config FROM plugin_instances WHERE community = \
         '{COMMUNITY}') WHERE community = '{SPOILT}' RETURNING 1) SELECT COUNT(*) FROM spoilt"
    );
    assert_eq!(service.sql(&spoil).await, 1, "there is a row to spoil");
    commands.push(service.command_in(SPOILT, "keyed", &json!({ "deeds": ["succeed"], "calls": true })));
    service.driver.send(&commands[2..]).await;
    service.answered(&commands, commands.len()).await;
    let gone = format!(
        "WITH gone AS (DELETE FROM plugin_instances WHERE community = '{SPOILT}' RETURNING 1) SELECT COUNT(*) FROM gone"
    );
    assert_eq!(service.sql(&gone).await, 1, "nobody keeps a row that does not open");
    commands
}

/// Rows that hold a secret each, on shelves of a hundred.
struct Shelves {
    store: Store,
    /// What each row holds.
    secrets: HashMap<Uuid, String>,
}

/// How rows came out of a rotation.
#[derive(Default)]
struct Found {
    right: usize,
    opened_by_old: usize,
}

fn shelf(number: usize) -> String {
    format!("shelf-{}", number / SHELF)
}

impl Shelves {
    async fn fill(rig: &mut Rig, url: &str, rows: usize, vault: &Vault) -> Self {
        let settings = store::Settings { url: url.to_owned(), max_connections: 2 };
        let store = Store::connect(&settings).await.expect("the database answers");
        let registry = workers::registry();
        let puppet = registry.get("puppet").expect("there is a puppet");
        let mut secrets = HashMap::new();
        let units: Vec<Unit> = (0..rows)
            .map(|number| {
                let (id, secret) =
                    (Uuid::from_u128(rig.random.random()), format!("shelved-{:x}", rig.random.random::<u64>()));
                secrets.insert(id, secret.clone());
                Unit { changes: vec![new_row(puppet, vault, number, id, &secret)], ..Unit::default() }
            })
            .collect();
        for batch in units.chunks(SHELF) {
            let stored = store.commit(batch.to_vec()).await.expect("the database answers");
            assert!(stored.iter().all(|unit| matches!(unit, Committed::Stored)), "{stored:?}");
        }
        Self { store, secrets }
    }

    async fn instances(&self) -> Vec<Instance> {
        let mut all: Vec<Instance> = Vec::new();
        loop {
            let page = self.store.every_instance(all.last().map(|last| last.id), 500).await;
            let page = page.expect("the database answers");
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    /// Which rows are what they were under the new key, and which of all the old one still opens.
    async fn look(&self, old: &Vault, new: &Vault) -> Found {
        let mut found = Found::default();
        for instance in self.instances().await.iter().filter(|instance| !instance.config.key_ids().is_empty()) {
            found.opened_by_old += usize::from(old.open(owner(instance), &instance.config).is_ok());
            let opened = new.open(owner(instance), &instance.config);
            let expected = self.secrets.get(&instance.id);
            found.right += usize::from(
                expected.is_some_and(|secret| opened.is_ok_and(|config| config["secrets"] == json!([secret]))),
            );
        }
        found
    }
}

fn new_row(puppet: &PluginDefinition, vault: &Vault, number: usize, id: Uuid, secret: &str) -> Change {
    let (community, plugin) = (CommunitySlug::new(&shelf(number)).expect("a slug"), puppet.name().clone());
    let place = Owner { community: &community, plugin: &plugin, instance: id };
    let config = vault.seal(puppet, place, &json!({ "secrets": [secret] })).expect("there is a key");
    Change::InsertInstance(NewInstance {
        id,
        community,
        plugin,
        platform_id: Some(format!("T{number}")),
        config,
        state: None,
        created_at: chrono::Utc::now(),
        tick_every: None,
    })
}

/// A command for one of the rows, which opens its secret.
fn for_row(number: usize) -> Command {
    let script = json!({ "deeds": ["succeed"], "calls": false });
    let (community, platform_id) = (shelf(number), format!("T{number}"));
    let body = json!({ "community": community, "community_platform_id": platform_id, "parameters": script });
    command("action.puppet.pure", &body)
}

/// `metagov keys rotate`, as an operator runs it; what it says.
async fn rotate(service: &Service, keys: &str) -> Value {
    let inherited = std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("METAGOV_"));
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_metagov"));
    program
        .args(["keys", "rotate", "--json"])
        .env_clear()
        .envs(inherited)
        .env("METAGOV__DATABASE__URL", &service.database_url)
        .env(KEYS_FILE, keys)
        .stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || program.output()).await.expect("nothing panics there");
    let ran = ran.expect("the program was built");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).expect("it says so in JSON")
}

/// What the rotation came to.
struct Rotation {
    found: Found,
    resealed: usize,
    took: Duration,
    meanwhile: usize,
    commands: Vec<Command>,
}

/// From the old key to both, from both to the new one, under the hands of workers that go on.
async fn change_keys(
    rig: &mut Rig,
    service: &mut Service,
    overheard: &mut Overheard,
    (old, new): (&Key, &Key),
    (directory, rows, per_second, count): (&Path, usize, u32, usize),
) -> Rotation {
    let shelves = Shelves::fill(rig, &service.database_url, rows, &old.vault()).await;
    let mut commands: Vec<_> = (0..count).map(|_| for_row(rig.random.random_range(0..rows))).collect();
    let sending = service.driver.send_at_in_background(per_second, &commands);
    let both = keys_file(directory, &[new, old]);
    overheard.restart_with(service, &both).await;
    let (began, before) = (Instant::now(), service.driver.answered(&commands));
    let said = rotate(service, &both).await;
    let (took, meanwhile) = (began.elapsed(), service.driver.answered(&commands) - before);
    overheard.restart_with(service, &keys_file(directory, &[new])).await;
    sending.done().await;
    // Whoever has the new key only reads them all.
    let last: Vec<_> = (0..count).map(|_| for_row(rig.random.random_range(0..rows))).collect();
    service.driver.send(&last).await;
    commands.extend(last);
    service.answered(&commands, commands.len()).await;
    let resealed = said["resealed"].as_u64().and_then(|rows| usize::try_from(rows).ok()).unwrap_or(0);
    Rotation { found: shelves.look(&old.vault(), &new.vault()).await, resealed, took, meanwhile, commands }
}

/// What is among the dead letters, as text, and how many there are.
async fn dead_text(rig: &Rig, service: &Service) -> (usize, String) {
    let dead = dead_letters(rig, service).await;
    let mut text = String::new();
    for letter in &dead {
        let _ = writeln!(text, "{letter:?} {}", String::from_utf8_lossy(&letter.message.body));
    }
    (dead.len(), text)
}

/// Twenty canaries and every way of ending, with the log at `trace`; then other keys, while commands go on.
pub(crate) async fn t50(rig: &mut Rig, size: Size) -> Row {
    let (rows, times) = size.of((10_000, 20), (200, 1));
    let (old, new) = (Key::draw(rig, "k1"), Key::draw(rig, "k2"));
    let canaries: Vec<_> = (0..CANARIES).map(|_| format!("canary-{:016x}", rig.random.random::<u64>())).collect();
    let words = [canaries.clone(), vec![old.secret(), new.secret()]].concat();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut communities = vec![COMMUNITY.to_owned(), SPOILT.to_owned()];
    communities.extend((0..rows).step_by(SHELF).map(shelf));
    let settings = vec![("log.filter", "trace".to_owned()), ("worker.deadline_seconds", "2".to_owned())];
    let environment = vec![(KEYS_FILE.to_owned(), keys_file(directory.path(), &[&old]))];
    let mut service = rig.service(Setup { workers: 2, settings, environment, communities, ..Setup::default() }).await;
    service.driver.book().unspeakable.clone_from(&words);
    let mut overheard = Overheard::default();

    let mut commands = gossip(&service, &canaries, times).await;
    let first = everything_stored(&service.database_url).await;
    let sealed = first.matches(&format!(r#""$sealed":"{}:"#, old.id)).count();
    let load = (directory.path(), rows, size.of(50, 20), size.of(3_000, 200));
    let rotation = change_keys(rig, &mut service, &mut overheard, (&old, &new), load).await;
    commands.extend(rotation.commands.iter().cloned());
    let allowed = ["action.completed", "action.failed", "action.uncertain", "command.rejected", "community.applied"];
    let tally = service.settle(&commands, &allowed).await;

    overheard.listen(&service);
    let stored = everything_stored(&service.database_url).await;
    let (dead, letters) = dead_text(rig, &service).await;
    let spoken = service.driver.book().spoken.len();
    let (traced, done) =
        (overheard.logs.contains("TRACE"), format!("{CANARIES} canaries in a log at `trace` and everywhere"));
    told(Row::new("T50", format!("{done} else; keys of {rows} rows changed under load")), tally, &rotation)
        .holds("the log is at `trace`", traced)
        .exactly("secrets in the logs", hits(&words, &overheard.logs), 0)
        .exactly("in the events", spoken, 0)
        .exactly("in the database", hits(&words, &first) + hits(&words, &stored), 0)
        .exactly("in the environment", hits(&words, &overheard.environment), 0)
        .exactly("among the dead letters", hits(&words, &letters), 0)
        .exactly("dead letters", dead, 2)
        .exactly("sealed under the id of their key", sealed, CANARIES)
        .exactly(
            "under that of the old one afterwards",
            stored.matches(&format!(r#""$sealed":"{}:"#, old.id)).count(),
            0,
        )
        .exactly("rows that are right under the new key", rotation.found.right, rows)
        .exactly("rows that the old key opens", rotation.found.opened_by_old, 0)
}

fn told(row: Row, tally: Tally, rotation: &Rotation) -> Row {
    row.counts(tally)
        .at_least("rows sealed anew", rotation.resealed, rotation.found.right)
        .note("within", format!("{:.1?}", rotation.took))
        .at_least("commands answered meanwhile", rotation.meanwhile, 1)
}
