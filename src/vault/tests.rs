//! Sealed and opened: what is hidden, what is bound to its place, and what is said where it does not open.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use metagov_sdk::{prelude::*, schema::MASK};
use serde_json::json;

use super::*;

struct Locker;

/// Secrets at every depth.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Config {
    name: String,
    token: Option<Secret>,
    #[serde(default)]
    accounts: Vec<Account>,
    #[serde(default)]
    by_team: BTreeMap<String, Secret>,
    #[serde(default)]
    free: serde_json::Value,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Account {
    user: String,
    password: Secret,
}

impl Plugin for Locker {
    const NAME: &'static str = "locker";
    type Config = Config;
    fn register(_: &mut Registrar<Self>) {}
}

fn definition() -> PluginDefinition {
    PluginDefinition::of::<Locker>().expect("the plugin is well-formed")
}

fn key(id: &str, byte: u8) -> KeyEntry {
    KeyEntry::parse(&format!("{id}:{}", STANDARD.encode([byte; 32]))).expect("it is a key")
}

fn vault(keys: &[(&str, u8)]) -> Vault {
    Vault::new(&keys.iter().map(|(id, byte)| key(id, *byte)).collect::<Vec<_>>())
}

/// A community and a plugin; the instance is told by its number.
struct Place(CommunitySlug, Name);

impl Place {
    fn new(community: &str) -> Self {
        Self(CommunitySlug::new(community).expect("a slug"), Name::new("locker").expect("a name"))
    }

    fn owner(&self, instance: u128) -> Owner<'_> {
        Owner { community: &self.0, plugin: &self.1, instance: Uuid::from_u128(instance) }
    }
}

fn config() -> Value {
    json!({
        "name": "canary-in-the-open",
        "token": "canary-1",
        "accounts": [{"user": "ann", "password": "canary-2"}, {"user": "bob", "password": "canary-3"}],
        "by_team": {"a/b": "canary-4", "~": "canary-5"},
        "free": {"$sealed": "k1:not really"}
    })
}

#[test]
fn every_secret_is_sealed_where_it_stands_and_opens_to_what_it_was() {
    let (vault, place) = (vault(&[("k1", 1)]), Place::new("acme"));
    let sealed = vault.seal(&definition(), place.owner(1), &config()).expect("there is a key");
    let text = serde_json::to_string(&sealed).expect("it can be stored");
    for secret in 1..=5 {
        assert!(!text.contains(&format!("canary-{secret}")), "{text}");
    }
    assert!(text.contains("canary-in-the-open") && text.contains(r#""password":{"$sealed":"k1:"#), "{text}");
    assert_eq!(vault.open(place.owner(1), &sealed), Ok(config()), "also what only looked sealed");
    let read: SealedConfig = serde_json::from_str(&text).expect("it can be read");
    assert_eq!(vault.open(place.owner(1), &read), Ok(config()));
    let again = vault.seal(&definition(), place.owner(1), &config()).expect("there is a key");
    assert!(again != sealed, "two ciphertexts of one secret are not alike");
}

#[test]
fn a_sealed_config_is_shown_without_a_key_and_prints_nothing() {
    let place = Place::new("acme");
    let sealed = vault(&[("k1", 1)]).seal(&definition(), place.owner(1), &config()).expect("there is a key");
    let shown = sealed.masked(&definition());
    assert_eq!((&shown["token"], &shown["accounts"][1]["password"]), (&json!(MASK), &json!(MASK)));
    assert_eq!((&shown["by_team"]["a/b"], &shown["free"]), (&json!(MASK), &json!(MASK)));
    assert_eq!(shown["accounts"][1]["user"], "bob");
    let clear = SealedConfig(config());
    assert!(!format!("{clear:?} {:?}", vault(&[("k1", 1)])).contains("canary"), "rows of before are not printed");
    assert_eq!(clear.masked(&definition())["token"], MASK);
}

#[test]
fn a_moved_ciphertext_does_not_open() {
    let (vault, place, other) = (vault(&[("k1", 1)]), Place::new("acme"), Place::new("other"));
    let sealed = vault.seal(&definition(), place.owner(1), &config()).expect("there is a key");
    let foreign = Place(place.0.clone(), Name::new("slack").expect("a name"));
    for owner in [other.owner(1), place.owner(2), foreign.owner(1)] {
        assert!(matches!(vault.open(owner, &sealed), Err(VaultError::Damaged { .. })), "{owner:?}");
    }
    let mut swapped = sealed.clone();
    let first = swapped.0["accounts"][0]["password"].take();
    swapped.0["accounts"][0]["password"] = swapped.0["accounts"][1]["password"].take();
    swapped.0["accounts"][1]["password"] = first;
    let error = vault.open(place.owner(1), &swapped).expect_err("they changed places");
    assert_eq!(error, VaultError::Damaged { id: "k1".to_owned(), pointer: "/accounts/0/password".to_owned() });
}

#[test]
fn a_flipped_bit_does_not_open() {
    let (vault, place) = (vault(&[("k1", 1)]), Place::new("acme"));
    let sealed = vault.seal(&definition(), place.owner(1), &json!({"name": "x", "token": "hunter2"})).expect("a key");
    let text = sealed.0["token"]["$sealed"].as_str().expect("it is sealed").to_owned();
    let (_, bytes) = text.split_once(':').expect("an id and bytes");
    let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.decode(bytes).expect("base64");
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        let member = Sealed { key: KeyId::stored("k1"), bytes: flipped };
        let damaged = SealedConfig(json!({"name": "x", "token": Value::from(member)}));
        assert!(matches!(vault.open(place.owner(1), &damaged), Err(VaultError::Damaged { .. })), "byte {at}");
    }
    for text in ["k1:", "k1:%%%", "k1:AAAA"] {
        let damaged = SealedConfig(json!({"token": {"$sealed": text}}));
        assert!(matches!(vault.open(place.owner(1), &damaged), Err(VaultError::Damaged { .. })), "{text}");
    }
}

#[test]
fn a_key_that_is_missing_is_named() {
    let place = Place::new("acme");
    let sealed = vault(&[("old", 1)]).seal(&definition(), place.owner(1), &config()).expect("there is a key");
    let error = vault(&[("new", 2)]).open(place.owner(1), &sealed).expect_err("the key is missing");
    assert!(error.to_string().contains("'old'") && error.to_string().contains("secrets.keys"), "{error}");
    // The id alone does not make a key.
    assert!(matches!(vault(&[("old", 2)]).open(place.owner(1), &sealed), Err(VaultError::Damaged { .. })));
}

#[test]
fn without_a_key_nothing_secret_is_stored() {
    let (none, place) = (Vault::default(), Place::new("acme"));
    let refused = none.seal(&definition(), place.owner(1), &config()).expect_err("there is a secret");
    assert!(refused.to_string().contains("secrets.keys") && refused.to_string().contains("metagov keys generate"));
    assert_eq!(none.can_seal(&definition(), &config()), Err(VaultError::NoKey));
    let plain = json!({"name": "x", "token": null, "accounts": [], "free": "$sealed k1:abc"});
    assert_eq!(none.can_seal(&definition(), &plain), Ok(()));
    let stored = none.seal(&definition(), place.owner(1), &plain).expect("there is nothing to seal");
    assert_eq!(none.open(place.owner(1), &stored), Ok(plain));
}

#[test]
fn a_rotation_brings_everything_under_the_first_key() {
    let (place, definition) = (Place::new("acme"), definition());
    let sealed = vault(&[("old", 1)]).seal(&definition, place.owner(1), &config()).expect("there is a key");
    let both = vault(&[("new", 2), ("old", 1)]);
    let resealed = both.reseal(Some(&definition), place.owner(1), &sealed).expect("both keys").expect("there is work");
    assert_eq!(resealed.key_ids(), BTreeSet::from(["new".to_owned()]));
    assert_eq!(vault(&[("new", 2)]).open(place.owner(1), &resealed), Ok(config()));
    assert_eq!(both.reseal(Some(&definition), place.owner(1), &resealed), Ok(None), "nothing is left");

    // Rows from before there were keys.
    let clear = SealedConfig(json!({"name": "x", "token": "canary-1"}));
    assert_eq!(clear.clear_secrets(Some(&definition)), BTreeSet::from(["/token".to_owned()]));
    let resealed = both.reseal(Some(&definition), place.owner(1), &clear).expect("both keys").expect("there is work");
    assert!(!resealed.0.to_string().contains("canary"));
    assert_eq!(both.open(place.owner(1), &resealed), both.open(place.owner(1), &clear));

    // Without the plugin, what is sealed is rotated all the same.
    let resealed = both.reseal(None, place.owner(1), &sealed).expect("both keys").expect("there is work");
    assert_eq!(resealed.key_ids(), BTreeSet::from(["new".to_owned()]));
}

#[test]
fn a_secret_stays_one_where_its_plugin_forgets_it() {
    let (vault, place) = (vault(&[("k1", 1)]), Place::new("acme"));
    let sealed = vault.seal(&definition(), place.owner(1), &config()).expect("there is a key");
    let moved = SealedConfig(json!({"name": sealed.0["token"].clone()}));
    assert_eq!(moved.masked(&definition())["name"], MASK);
}

#[test]
fn entries_of_keys_are_checked_and_never_repeated() {
    let good = KeyEntry::generate();
    let good = secrecy::ExposeSecret::expose_secret(&good).to_owned();
    let (id, bytes) = good.split_once(':').expect("an id and bytes");
    assert!(KeyEntry::parse(&good).is_ok() && bytes.len() == 44, "{id}");
    let cases = [
        (vec!["canary"], InvalidKey::Id),
        (vec![":canary"], InvalidKey::Id),
        (vec!["a b:canary"], InvalidKey::Id),
        (vec!["k:canary"], InvalidKey::Bytes),
        (vec!["k:Y2FuYXJ5"], InvalidKey::Bytes),
        (vec![&good, &good], InvalidKey::Repeated),
    ];
    for (entries, expected) in cases {
        let error = KeyEntry::parse_all(entries.iter().copied()).expect_err("it is not usable");
        assert_eq!(error, expected);
        assert!(!error.to_string().contains("canary"));
    }
    assert_eq!(format!("{:?}", key("k1", 1)), r#"KeyEntry("k1")"#);
}
