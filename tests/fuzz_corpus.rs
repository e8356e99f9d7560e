//! The inputs of the fuzz targets, without the fuzzer: each must keep the property that its target looks for.

use std::{fs, panic, path::Path};

#[path = "fuzz/properties/command.rs"]
mod command;
#[path = "fuzz/properties/config.rs"]
mod config;
#[path = "fuzz/properties/defaults.rs"]
mod defaults;
#[cfg(feature = "failpoints")]
#[path = "fuzz/properties/frames.rs"]
mod frames;
#[path = "fuzz/properties/routing.rs"]
mod routing;

fn replay(target: &str, holds: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus is in the repository")
        .map(|entry| entry.expect("a directory entry can be read").path())
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 24, "only {} inputs in {}", inputs.len(), folder.display());
    let broken: Vec<_> = inputs
        .iter()
        .filter(|path| {
            let input = fs::read(path).expect("it can be read");
            panic::catch_unwind(|| holds(&input)).is_err()
        })
        .collect();
    assert!(broken.is_empty(), "the property of {target} does not hold for {broken:?}");
}

#[test]
fn commands_read_as_they_were_written_and_refusals_are_bounded() {
    replay("command", command::holds);
}

#[test]
fn routing_keys_are_short_and_safe() {
    replay("routing", routing::holds);
}

#[test]
fn defaults_are_filled_in_once_and_violations_tell_no_secret() {
    replay("defaults", defaults::holds);
}

#[test]
fn settings_load_or_fail_without_telling_a_secret() {
    replay("config", config::holds);
}

#[cfg(feature = "failpoints")]
#[test]
fn what_a_broker_forwards_is_read_up_to_the_envelope() {
    replay("frames", frames::holds);
}
