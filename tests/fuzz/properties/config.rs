//! Settings: lines that begin with `METAGOV` are variables, everything else is the file. `$SECRET` stands for a secret.
//!
//! Loading ends in settings or in faults, and no fault tells the secret. Settings that are written down as variables are
//! read as the same settings.

use std::{cell::RefCell, ffi::OsString, fs, path::PathBuf};

use metagov::config::{Config, Loaded, Sources};
use serde_json::Value;

const SECRET: &str = "hunter2-hunter2-hunter2";

/// Panics where the property does not hold.
pub(crate) fn holds(input: &[u8]) {
    let text = String::from_utf8_lossy(input).replace("$SECRET", SECRET);
    let is_variable = |line: &&str| line.starts_with("METAGOV") && !line.contains('\0');
    let environment: Vec<(OsString, OsString)> = text
        .lines()
        .filter(is_variable)
        .filter_map(|line| line.split_once('='))
        // Which files there are is not the input's to say.
        .filter(|(name, _)| !name.ends_with("_FILE") && *name != "METAGOV_CONFIG")
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let file: String = text.lines().filter(|line| !is_variable(line)).flat_map(|line| [line, "\n"]).collect();
    // A secret in place of a name is told, like every name that does not exist.
    if names_hold_the_secret(&file) || environment.iter().any(|(name, _)| name.to_string_lossy().contains(SECRET)) {
        return;
    }
    match Config::load(&Sources { file: Some(written(&file)), environment, ..Sources::default() }) {
        Ok(loaded) => reads_as_written(&loaded),
        Err(error) => {
            assert!(!error.faults.is_empty(), "it failed without a reason");
            let told = format!("{error} {error:?}");
            assert!(!told.contains(SECRET), "it tells the secret: {told}");
        }
    }
}

/// The file on this thread's disk, the same one each time.
fn written(text: &str) -> PathBuf {
    thread_local!(static FILE: RefCell<Option<PathBuf>> = const { RefCell::new(None) });
    let path = FILE.with_borrow_mut(|path| {
        let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-");
        let name = format!("metagov-settings-{}-{thread}.toml", std::process::id());
        path.get_or_insert_with(|| std::env::temp_dir().join(name)).clone()
    });
    fs::write(&path, text).expect("the temporary directory can be written to");
    path
}

fn names_hold_the_secret(file: &str) -> bool {
    fn any(table: &toml::Table) -> bool {
        table.iter().any(|(name, value)| name.contains(SECRET) || value.as_table().is_some_and(any))
    }
    file.parse::<toml::Table>().is_ok_and(|table| any(&table))
}

/// Lists and URLs are left out: a list has no form for a word with a comma, and a URL is shown without its password.
fn reads_as_written(loaded: &Loaded) {
    let explained = loaded.explain();
    let environment = explained
        .iter()
        .filter(|setting| !setting.key.ends_with("url"))
        .filter_map(|setting| {
            let value = match &setting.value {
                Value::String(text) if !text.contains('\0') => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(switch) => switch.to_string(),
                _ => return None,
            };
            let name = format!("METAGOV__{}", setting.key.to_uppercase().replace('.', "__"));
            Some((name.into(), value.into()))
        })
        .collect();
    let again = Config::load(&Sources { environment, ..Sources::default() }).expect("what was read can be read again");
    for (first, second) in explained.iter().zip(again.explain()) {
        assert_eq!(first.key, second.key);
        let compared = !first.value.is_array() && !first.key.ends_with("url");
        assert!(!compared || first.value == second.value, "{}: {} became {}", first.key, first.value, second.value);
    }
}
