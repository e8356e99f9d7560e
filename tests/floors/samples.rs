//! Shows each rule of `floors.rs` failing, and what it must leave alone.

use super::{Breach, breaches_in_list, breaches_in_manifest, breaches_in_source};

fn rules(file: &str, text: &str) -> Vec<String> {
    breaches_in_source(file, &format!("//! Sample.\n{text}")).iter().map(Breach::to_string).collect()
}

fn one_rule(file: &str, text: &str) -> String {
    let rules = rules(file, text);
    assert_eq!(rules.len(), 1, "{rules:#?}");
    rules.concat()
}

#[test]
fn a_higher_floor_is_out_of_sight() {
    let rule = one_rule("src/bus/mod.rs", "\nuse crate::worker::Verdict;");
    assert_eq!(rule, "src/bus/mod.rs:3: bus (floor 2) must not know worker (floor 4): code uses lower floors only");
}

#[test]
fn a_lower_floor_is_in_sight() {
    assert!(rules("src/worker/mod.rs", "use crate::{bus::Bus, store::Store, config::Worker};").is_empty());
    assert!(rules("src/cli/mod.rs", "use crate::app::App;").is_empty());
    assert!(rules("src/main.rs", "fn main() { metagov::cli::run() }").is_empty());
}

#[test]
fn bus_and_store_are_blind_to_each_other() {
    assert!(one_rule("src/bus/mod.rs", "fn f(_: crate::store::Store) {}").contains("blind to each other"));
    assert!(one_rule("src/store/inbox.rs", "use crate::bus;").contains("store must not know bus"));
}

#[test]
fn worker_scheduler_and_gateway_are_blind_to_each_other() {
    assert!(one_rule("src/scheduler.rs", "use crate::worker::run;").contains("blind to each other"));
    assert!(one_rule("src/gateway/mod.rs", "use crate::scheduler::run;").contains("blind to each other"));
    assert!(one_rule("src/worker/action.rs", "use crate::gateway;").contains("blind to each other"));
}

#[test]
fn neighbours_on_the_other_floors_may_meet() {
    assert!(rules("src/registry.rs", "use crate::plugins::all;").is_empty());
}

#[test]
fn every_way_to_write_a_path_is_seen() {
    for text in [
        "use crate::{config::Bus, store::{Store, Unit}};",
        "use crate::store as database;",
        "pub(crate) use crate::store::*;",
        "use metagov::store::Store;",
        "use super::super::store::Store;",
        "use self::super::super::store::Store;",
        "mod inner { use super::super::super::store::Store; }",
        "fn f() -> Option<crate::store::Store> { None }",
        "fn f() { tokio::select! { _ = crate::store::wait() => {} } }",
        "macro_rules! m { () => { $crate::store::Store } }",
        "#[derive(crate::store::Row)] struct S;",
        "fn f(x: u8) { x as crate::store::Count; }",
    ] {
        assert!(one_rule("src/bus/rabbitmq.rs", text).contains("bus must not know store"), "{text}");
    }
}

#[test]
fn comments_strings_and_tests_do_not_count() {
    for text in [
        "// use crate::store::Store;",
        "/* use crate::store::Store; /* nested */ */",
        "/// See [`crate::store::Store`].\nfn f() {}",
        "const TEXT: &str = \"crate::store::Store\";",
        "const TEXT: &str = r#\"use crate::store::Store;\"#;",
        "#[cfg(test)]\nmod tests { use crate::store::Store; }",
        "#[cfg(test)]\n#[expect(clippy::all, reason = \"sample\")]\nuse crate::store::Store;",
        "fn f() { store::open(); bus.store::<u8>(); }",
        "use crate::{config as store, shutdown};",
    ] {
        assert!(rules("src/bus/mod.rs", text).is_empty(), "{text}");
    }
    assert!(!rules("src/bus/mod.rs", "#[cfg(any(test, feature = \"testing\"))]\nuse crate::store::Store;").is_empty());
    assert!(!rules("src/bus/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::store::Store;").is_empty());
}

#[test]
fn a_crate_of_one_place_is_used_there_only() {
    assert!(one_rule("src/worker/mod.rs", "use lapin::Channel;").contains("lapin is used only under src/bus"));
    assert!(one_rule("src/worker/mod.rs", "use lapin;").contains("lapin is used only under src/bus"));
    assert!(one_rule("src/app.rs", "use ::sea_orm::DbErr;").contains("src/store and migrations"));
    assert!(one_rule("plugins/x/src/lib.rs", "fn f(_: sea_orm::DbErr) {}").contains("src/store and migrations"));
    assert!(one_rule("src/worker/mod.rs", "use tokio_cron_scheduler::Job;").contains("only under src/scheduler"));
    assert_eq!(rules("src/business.rs", "use lapin::Channel;").len(), 2, "the name only begins like src/bus");
}

#[test]
fn a_crate_of_one_place_is_used_there() {
    assert!(rules("src/bus/rabbitmq/session.rs", "use lapin::Channel;").is_empty());
    assert!(rules("src/store/mod.rs", "use sea_orm::DbErr; use metagov_migrations::Migrator;").is_empty());
    assert!(rules("migrations/src/lib.rs", "use sea_orm_migration::prelude::*;").is_empty());
    assert!(rules("src/scheduler.rs", "use tokio_cron_scheduler::Job;").is_empty());
    assert!(rules("src/scheduler/mod.rs", "use tokio_cron_scheduler::Job;").is_empty());
}

#[test]
fn plugins_are_named_in_their_list_only() {
    assert!(rules("src/plugins.rs", "use metagov_randomness::Randomness;").is_empty());
    assert!(one_rule("src/worker/mod.rs", "use metagov_randomness::Randomness;").contains("src/plugins.rs only"));
    assert!(rules("plugins/randomness/src/lib.rs", "use metagov_sdk::prelude::*;").is_empty());
    assert!(one_rule("plugins/randomness/src/lib.rs", "use metagov_slack::Slack;").contains("out of sight"));
    assert!(one_rule("plugins/randomness/src/lib.rs", "use metagov::app::App;").contains("out of sight"));
}

#[test]
fn a_plugin_depends_on_the_sdk_and_no_other_crate_of_ours() {
    let manifest = "[package]\nname = \"metagov-x\"\n[dependencies]\nmetagov-sdk.workspace = true\nserde = \"1\"\n";
    assert!(breaches_in_manifest("plugins/x/Cargo.toml", manifest).is_empty());
    for line in ["metagov-y.workspace = true", "metagov-y = { path = \"../y\" }", "metagov = { workspace = true }"] {
        let breaches = breaches_in_manifest("plugins/x/Cargo.toml", &format!("{manifest}{line}\n"));
        assert_eq!(breaches.len(), 1, "{line}");
        assert_eq!(breaches[0].line, 6);
        assert!(breaches[0].rule.contains("of our crates only on metagov-sdk"), "{}", breaches[0]);
    }
    let table = "[dev-dependencies.metagov-y]\npath = \"../y\"\n";
    assert_eq!(breaches_in_manifest("plugins/x/Cargo.toml", table).len(), 1);
    let itself = format!("{manifest}[dev-dependencies]\nmetagov-x = {{ path = \".\" }}\n");
    assert!(breaches_in_manifest("plugins/x/Cargo.toml", &itself).is_empty());
    let ground = "[dependencies]\nmetagov-sdk.workspace = true\n";
    assert!(breaches_in_manifest("migrations/Cargo.toml", ground)[0].rule.contains("ground floor"));
}

#[test]
fn a_plugin_that_is_not_in_the_list_is_found() {
    let plugins = ["example-plugin", "randomness", "sdk"].map(str::to_owned);
    let all = "//! The list.\nfn all() { (metagov_example_plugin::Plugin, metagov_randomness::Randomness) }";
    assert!(breaches_in_list(&plugins, all).is_empty());
    let one = "//! The list, without metagov_randomness::Randomness.\nuse metagov_example_plugin::Plugin;";
    let breaches = breaches_in_list(&plugins, one);
    assert_eq!(breaches.len(), 1);
    assert!(breaches[0].rule.starts_with("plugins/randomness is not in the list"), "{}", breaches[0]);
}

#[test]
fn a_file_is_400_lines_long_at_most() {
    let lines = |count: usize| "fn f() {}\n".repeat(count);
    assert!(rules("src/bus/mod.rs", &lines(399)).is_empty());
    assert!(one_rule("src/bus/mod.rs", &lines(400)).contains("401 lines without tests; 400 at most"));
    let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(399), lines(500));
    assert!(rules("src/bus/mod.rs", &tests).is_empty());
}

#[test]
fn a_module_begins_with_its_documentation() {
    let breaches = breaches_in_source("src/bus/mod.rs", "use std::fmt;\n");
    assert_eq!(breaches.len(), 1);
    assert!(breaches[0].rule.contains("begins with `//!`"));
    assert!(breaches_in_source("src/lib.rs", "#![doc = include_str!(\"../README.md\")]\n").is_empty());
}

#[test]
fn a_module_that_has_no_floor_is_found() {
    assert!(one_rule("src/utils.rs", "").contains("module utils stands on no floor"));
    assert!(rules("src/lib.rs", "pub mod bus;").is_empty());
}
