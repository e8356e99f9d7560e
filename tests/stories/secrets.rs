//! Secrets of plugins: sealed at rest, told nowhere, under keys that change while everything runs.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use metagov::{
    store::{AttemptStatus, Change, Committed, NewInstance, Unit},
    vault::{Owner, SealedConfig, Vault},
};
use metagov_example_plugin::ExamplePlugin;
use metagov_sdk::{PluginDefinition, contract::Name, prelude::*, schema::MASK};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Command, Received, World, story,
    world::{COMMUNITY, key},
};

/// Holds secrets at every depth, and cannot keep them to itself.
pub(crate) struct Locker;

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Config {
    token: Secret,
    spare: Option<Secret>,
    #[serde(default)]
    accounts: Vec<Account>,
    #[serde(default)]
    by_team: BTreeMap<String, Secret>,
    #[serde(default)]
    refuse: bool,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Account {
    user: String,
    keys: Vec<Secret>,
}

impl Plugin for Locker {
    const NAME: &'static str = "locker";
    type Config = Config;

    fn register(plugin: &mut Registrar<Self>) {
        plugin.action::<Blab>().action::<Tell>().event::<Echo>();
    }

    async fn enabled(cx: &Cx<Self>) -> Result<()> {
        ensure!(!cx.config().refuse, "the platform does not know the token {}", cx.config().token.expose());
        Ok(())
    }

    async fn config_changed(cx: &Cx<Self>, before: &Config) -> Result<()> {
        ensure!(!cx.config().refuse, "{} cannot follow {}", cx.config().token.expose(), before.token.expose());
        Ok(())
    }
}

/// Says what went wrong in the words of a platform that repeats what it was sent.
#[action(Blab, "blab", effect = "pure")]
async fn blab(cx: &Cx<Locker>) -> Result<Empty> {
    let keys: Vec<&str> = cx.config().accounts.iter().flat_map(|account| &account.keys).map(Secret::expose).collect();
    Err(Error::failed(format!("GET https://x.example/bot{}/me: bad keys {keys:?}", cx.config().token.expose())))
}

/// What a platform gives back: with the secrets in it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Echo {
    link: String,
    keys: Vec<String>,
}

impl PluginEvent for Echo {
    const TYPE: &'static str = "echo";
}

/// Succeeds, and tells what its platform gave back.
#[action(Tell, "tell", effect = "pure")]
async fn tell(cx: &Cx<Locker>) -> Result<Vec<Echo>> {
    let keys = || cx.config().accounts.iter().flat_map(|account| &account.keys).map(|key| key.expose().to_owned());
    let echo =
        || Echo { link: format!("https://x.example/bot{}/file", cx.config().token.expose()), keys: keys().collect() };
    cx.emit(&echo())?;
    Ok(vec![echo()])
}

/// A config with 20 canaries from this number on.
fn config_of_canaries(from: u32) -> Value {
    let canary = |n: u32| format!("canary-{:04}", from + n);
    let keys = |first: u32| [first, first + 1, first + 2].map(canary);
    let teams: BTreeMap<String, String> = (11..20).map(|n| (format!("team/{n}"), canary(n))).collect();
    json!({
        "token": canary(0),
        "spare": canary(1),
        "accounts": [
            {"user": "ann", "keys": keys(2)},
            {"user": "bob", "keys": keys(5)},
            {"user": "cyd", "keys": keys(8)}
        ],
        "by_team": teams
    })
}

fn problem(told: &Received) -> (&str, &str) {
    let problem = &told.event.data["problem"];
    (problem["type"].as_str().unwrap_or_default(), problem["detail"].as_str().unwrap_or_default())
}

/// Lets the worker that runs finish what it has begun, and goes on with one that has these keys. A crash would leave an
/// event that is out but not marked to a worker that cannot read the config any more.
async fn worker_with(world: &mut World, keys: &[(&str, u8)]) {
    world.stop().await;
    let keys: Vec<_> = keys.iter().map(|(id, byte)| key(id, *byte)).collect();
    world.start_worker_with_keys(Vault::new(&keys)).await;
}

/// `metagov keys …` on the database of a world.
async fn keys(world: &World, command: &str, keys: &str) -> (bool, String) {
    let inherited = std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("METAGOV_"));
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_metagov"));
    program
        .args(["keys", command, "--json"])
        .env_clear()
        .envs(inherited)
        .env("METAGOV__DATABASE__URL", &world.url)
        .env("METAGOV__SECRETS__KEYS", keys)
        .stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || program.output()).await.expect("nothing panics there");
    let output = ran.expect("the program was built");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("output is UTF-8"));
    (output.status.success(), text.concat())
}

fn entry(id: &str, byte: u8) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    format!("{id}:{}", STANDARD.encode([byte; 32]))
}

story! {
    async fn twenty_canaries_are_stored_and_told_nowhere(world: World) {
        world.tell("community.apply", &json!({ "slug": COMMUNITY })).await;
        let enable = |config: Value| json!({ "community": COMMUNITY, "config": config });
        let told = world.tell("plugin.locker.enable", &enable(config_of_canaries(1000))).await;
        assert_eq!(told.event.event_type, "org.metagov.plugin.enabled");
        assert_eq!(told.event.data["config"]["accounts"][2]["keys"], json!([MASK, MASK, MASK]));

        // What the plugin says in its errors.
        let told = world.tell("action.locker.blab", &json!({ "community": COMMUNITY, "parameters": {} })).await;
        assert!(problem(&told).1.contains(&format!("/bot{MASK}/me")), "{:?}", told.event.data);
        // And where all went well.
        let told = world.tell("action.locker.tell", &json!({ "community": COMMUNITY, "parameters": {} })).await;
        assert_eq!(told.event.data["output"][0]["link"], format!("https://x.example/bot{MASK}/file"));
        let mut refused = config_of_canaries(1020);
        refused["refuse"] = true.into();
        let told = world.tell("plugin.locker.enable", &enable(refused)).await;
        assert_eq!(problem(&told).1, format!("{MASK} cannot follow {MASK}"));
        // What the schema says of a secret in the wrong place.
        let wrong = json!({ "token": {"a": "canary-1040"}, "canary": "canary-1041", "accounts": ["canary-1042"] });
        let told = world.tell("plugin.locker.enable", &enable(wrong)).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/invalid-config");
        // The same once more changes nothing.
        let before = world.store.instances(&World::community()).await.expect("it answers");
        let told = world.tell("plugin.locker.enable", &enable(config_of_canaries(1000))).await;
        assert_eq!(told.event.event_type, "org.metagov.plugin.updated");
        let after = world.store.instances(&World::community()).await.expect("it answers");
        assert_eq!((before[0].version, &before[0].config), (after[0].version, &after[0].config));
        let told = world.tell("plugin.locker.disable", &json!({ "community": COMMUNITY })).await;
        assert_eq!(told.event.event_type, "org.metagov.plugin.disabled");

        for received in world.mail.all() {
            let body = String::from_utf8_lossy(&received.message.body);
            assert!(!body.contains("canary-"), "{body}");
        }
        assert!(!format!("{after:?}").contains("canary-"));
        let told = world.tell("plugin.locker.enable", &enable(config_of_canaries(1000))).await;
        assert_eq!(told.event.event_type, "org.metagov.plugin.enabled");
        let stored = world.everything_stored().await;
        assert!(stored.contains(r#""token":{"$sealed":"k1:"#), "the row begins with the id of its key");
        assert!(!stored.contains("canary-"), "a secret stands in the database");
    }

    async fn without_a_key_a_config_with_secrets_is_refused_and_any_other_is_not(world: World) {
        worker_with(world, &[]).await;
        let both = json!({
            "slug": COMMUNITY,
            "plugins": [{ "name": "puppet", "config": {} }, { "name": "locker", "config": { "token": "canary-2000" } }]
        });
        let told = world.tell("community.apply", &both).await;
        let (kind, detail) = problem(&told);
        assert_eq!(kind, "https://metagov.org/problems/internal-error");
        assert!(detail.contains("secrets.keys") && detail.contains("metagov keys generate"), "{detail}");
        world.with_puppet().await;
        let body = json!({ "community": COMMUNITY, "config": { "secret": "canary-2001" } });
        let told = world.tell("plugin.puppet.enable", &body).await;
        assert_eq!(problem(&told).0, "https://metagov.org/problems/internal-error");
        let told = world.ask(&World::act("pure-act", "x", &[])).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed");
        assert!(!world.everything_stored().await.contains("canary-"));
    }

    async fn a_command_waits_for_a_worker_that_has_the_key(world: World) {
        world.with_plugins(&json!([{ "name": "puppet", "config": { "secret": "hunter2" } }])).await;
        world.tell("community.apply", &json!({ "slug": "plain", "plugins": [{ "name": "puppet", "config": {} }] })).await;
        worker_with(world, &[("k2", 2)]).await;
        let waits = ["pure-act", "unsafe-act"].map(|action| World::act(action, "waits", &[]));
        for command in &waits {
            world.send(command).await;
        }
        // What needs no key goes on meanwhile, and shows that the others were taken before.
        let parameters = json!({ "tag": "plain", "script": [] });
        let told = world.tell("action.puppet.pure-act", &json!({ "community": "plain", "parameters": parameters })).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed");
        worker_with(world, &[("k2", 2), ("k1", 1)]).await;
        for command in &waits {
            let told = world.answer(command).await;
            assert_eq!(told.event.event_type, "org.metagov.action.completed", "{:?}", told.event.data);
        }
    }

    async fn a_lost_key_locks_nobody_in(world: World) {
        world.with_plugins(&json!([{ "name": "puppet", "config": { "secret": "hunter2" } }])).await;
        worker_with(world, &[("k2", 2)]).await;
        let body = json!({ "community": COMMUNITY, "config": { "secret": "hunter3" } });
        let told = world.tell("plugin.puppet.enable", &body).await;
        assert_eq!(told.event.event_type, "org.metagov.plugin.updated", "{:?}", told.event.data);
        let told = world.ask(&World::act("pure-act", "x", &[])).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed");
        worker_with(world, &[("k3", 3)]).await;
        let told = world.tell("plugin.puppet.disable", &json!({ "community": COMMUNITY })).await;
        assert_eq!(told.event.event_type, "org.metagov.plugin.disabled", "{:?}", told.event.data);
    }

    async fn a_config_that_was_moved_into_another_row_does_not_open(world: World) {
        world.with_plugins(&json!([{ "name": "puppet", "config": { "secret": "hunter2" } }])).await;
        let other = json!([{ "name": "puppet", "config": { "secret": "of-another" } }]);
        world.tell("community.apply", &json!({ "slug": "other", "plugins": other })).await;
        world
            .sql("UPDATE plugin_instances SET config = (SELECT o.config FROM plugin_instances o WHERE o.community = 'other')")
            .await;
        for action in ["pure-act", "keyed-act"] {
            let command = World::act(action, "x", &[]);
            let told = world.ask(&command).await;
            assert_eq!(problem(&told).0, "https://metagov.org/problems/internal-error");
            let kept = async {
                loop {
                    let dead = world.dead_letters().await;
                    if !dead.is_empty() {
                        return dead;
                    }
                }
            };
            let dead = tokio::time::timeout(Duration::from_mins(1), kept).await.expect("its message is kept");
            assert_eq!(dead[0].0, format!("action.puppet.{action}"));
            let id = command.id().parse().expect("it is a message id");
            let attempts = world.store.attempts(&World::community(), &id).await.expect("the database answers");
            let waits = attempts.is_some_and(|view| view.status != AttemptStatus::Completed);
            assert!(!waits, "{action}: nothing waits for another try");
        }
    }

    async fn a_rotation_goes_on_under_the_feet_of_workers(world: World) {
        const ROWS: u128 = 500;
        const CHANGED: u128 = 20;
        world.with_plugins(&json!([{ "name": "puppet", "config": { "secret": "hunter2" } }])).await;
        let definition = PluginDefinition::of::<ExamplePlugin>().expect("it is well-formed");
        let (old, plugin) = (Vault::new(&[key("k1", 1)]), definition.name().clone());
        let community = World::community();
        let config = |n: u128| json!({ "my_required_config": format!("canary-{n}"), "my_optional_config_2": 100 });
        // One of them is from before there were keys.
        let clear = |n: u128| serde_json::from_value::<SealedConfig>(config(n)).expect("it may stand in a row");
        let rows: Vec<Unit> = (0..ROWS)
            .map(|n| {
                let id = Uuid::from_u128(n + 1);
                let owner = Owner { community: &community, plugin: &plugin, instance: id };
                let sealed = old.seal(&definition, owner, &config(n)).expect("there is a key");
                let instance = NewInstance {
                    id,
                    community: community.clone(),
                    plugin: plugin.clone(),
                    platform_id: Some(format!("T{n}")),
                    config: if n == 0 { clear(n) } else { sealed },
                    state: None,
                    created_at: chrono::Utc::now(),
                    tick_every: None,
                };
                Unit { changes: vec![Change::InsertInstance(instance)], ..Unit::default() }
            })
            .collect();
        for batch in rows.chunks(100) {
            let stored = world.store.commit(batch.to_vec()).await.expect("the database answers");
            assert!(stored.iter().all(|unit| matches!(unit, Committed::Stored)), "{stored:?}");
        }
        let both = format!("{},{}", entry("k2", 2), entry("k1", 1));
        let (fine, listed) = keys(world, "list", &both).await;
        assert!(fine && listed.contains(&format!(r#""key":"k1","use":"opens","instances":{ROWS}"#)), "{listed}");
        assert!(listed.contains(r#""key":null,"use":"unsealed","instances":1"#), "{listed}");

        worker_with(world, &[("k2", 2), ("k1", 1)]).await;
        let enables: Vec<Command> = (0..CHANGED)
            .map(|n| Command::new("plugin.puppet.enable", &json!({ "community": COMMUNITY, "config": { "secret": format!("s-{n}") } })))
            .collect();
        let change = async {
            for enable in &enables {
                let told = world.ask(enable).await;
                assert_eq!(told.event.event_type, "org.metagov.plugin.updated", "{:?}", told.event.data);
            }
        };
        let ((fine, rotated), ()) = tokio::join!(keys(world, "rotate", &both), change);
        assert!(fine, "{rotated}");

        let (_, listed) = keys(world, "list", &both).await;
        assert!(listed.contains(&format!(r#""key":"k2","use":"seals","instances":{}"#, ROWS + 1)), "{listed}");
        assert!(listed.contains(r#""key":"k1","use":"opens","instances":0"#) && !listed.contains("unsealed"), "{listed}");
        assert!(!world.everything_stored_now().await.contains("canary-"));
        let instances = world.store.instances_of(&community, &Name::new("example-plugin").expect("a name")).await;
        let instances = instances.expect("the database answers");
        assert!(instances.iter().all(|instance| instance.version == 1), "nothing is new to anybody");
        let told = world.mail.all();
        let told = told.iter().filter(|r| r.event.event_type == "org.metagov.plugin.updated").count();
        assert_eq!(told as u128, CHANGED, "a rotation is not told");

        // The old key can go, and is worth nothing any more.
        worker_with(world, &[("k2", 2)]).await;
        let told = world.ask(&World::act("pure-act", "x", &[])).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed", "{:?}", told.event.data);
        let (fine, rotated) = keys(world, "rotate", &entry("k1", 1)).await;
        assert!(!fine && rotated.contains("sealed under the key 'k2'"), "{rotated}");
        assert!(rotated.contains(&format!(r#""unopened":{}"#, ROWS + 1)), "{rotated}");
    }
}
