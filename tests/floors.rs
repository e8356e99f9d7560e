//! Keeps the floors of the code: what may know what.
//!
//! Reads the Rust sources of the service, the plugins and the migrations, and the manifests of our crates. Comments,
//! strings and test code do not count. Every rule is seen to fail on sample text in `floors/samples.rs`. It knows
//! names, not types: what a lower floor hands upwards is for reviewers. Down: `floors/paths.rs`, which finds the paths.

#[path = "floors/paths.rs"]
mod paths;
#[path = "floors/samples.rs"]
mod samples;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use paths::Source;

/// The modules of `src`, from the ground up; a module uses its own floor and those below.
const FLOORS: &[(u8, &[&str])] = &[
    (1, &["config", "failpoint", "telemetry", "shutdown"]),
    (2, &["bus", "store"]),
    (3, &["host", "registry", "plugins"]),
    (4, &["worker", "scheduler", "gateway"]),
    (5, &["app"]),
    (6, &["cli", "main"]),
];

/// On these floors a module does not even know its neighbours.
const BLIND: &[u8] = &[2, 4];

/// Crates that are spoken to in one place only.
const ONE_PLACE: &[(&str, &[&str])] = &[
    ("lapin", &["src/bus"]),
    ("sea_orm", &["src/store", "migrations"]),
    ("sea_orm_migration", &["src/store", "migrations"]),
    ("sqlx", &["src/store", "migrations"]),
    ("metagov_migrations", &["src/store"]),
    ("tokio_cron_scheduler", &["src/scheduler"]),
];

/// Lines of a file without its tests.
const LONGEST: usize = 400;

/// What one of our crates may depend on among our crates; a crate that is not named here is a plugin.
const MAY_DEPEND_ON: &[(&str, &[&str])] =
    &[("migrations", &[]), ("plugins/sdk", &["metagov-sdk-macros"]), ("plugins/sdk/macros", &[])];
const PLUGIN_MAY_DEPEND_ON: &[&str] = &["metagov-sdk"];

/// A rule that a line breaks.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

#[test]
fn the_code_keeps_its_floors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let breaches = breaches_below(root);
    let report: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(breaches.is_empty(), "{} broken rules\n{}", report.len(), report.join("\n"));
}

fn breaches_below(root: &Path) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for folder in ["src", "plugins", "migrations"] {
        for file in files_below(&root.join(folder)) {
            let name =
                file.strip_prefix(root).expect("it was found below the root").to_string_lossy().replace('\\', "/");
            if file.extension().is_some_and(|kind| kind == "rs") && !is_test_code(&name) {
                breaches.extend(breaches_in_source(&name, &read(&file)));
            } else if name.ends_with("/Cargo.toml") {
                breaches.extend(breaches_in_manifest(&name, &read(&file)));
            }
        }
    }
    let plugins: Vec<String> = folders_in(&root.join("plugins"));
    breaches.extend(breaches_in_list(&plugins, &read(&root.join("src/plugins.rs"))));
    breaches
}

/// Floors, places, size and module documentation of one file.
fn breaches_in_source(file: &str, text: &str) -> Vec<Breach> {
    let breach = |line, rule: String| Breach { file: file.into(), line, rule };
    let mut breaches = Vec::new();

    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if !first.starts_with("//!") && !first.starts_with("#![doc") {
        breaches.push(breach(1, "a module begins with `//!`: what it is for and what it does not do".into()));
    }
    let source = match Source::parse(&module_path(file), text) {
        Ok(source) => source,
        Err(error) => return vec![breach(error.span().start().line, format!("this is not Rust: {error}"))],
    };
    if source.lines > LONGEST {
        let rule = format!("{} lines without tests; {LONGEST} at most: one idea, one file", source.lines);
        breaches.push(breach(source.lines, rule));
    }

    let here = module_of(file);
    if let Some(module) = here.filter(|module| *module != "lib" && floor_of(module).is_none()) {
        breaches.push(breach(1, format!("module {module} stands on no floor: give it one in FLOORS")));
    }
    for path in &source.paths {
        let (root, rest) = (path.segments[0].as_str(), path.segments.get(1).map(String::as_str));
        let rule = match (here, root) {
            (Some(module), "crate" | "metagov") => rest.and_then(|other| breach_of_floors(module, other)),
            _ => breach_of_place(file, root),
        };
        breaches.extend(rule.map(|rule| breach(path.line, rule)));
    }
    // `use crate::store::{Store, Unit}` is one breach.
    breaches.dedup();
    breaches
}

fn breach_of_floors(module: &str, other: &str) -> Option<String> {
    let (here, there) = (floor_of(module)?, floor_of(other)?);
    if there > here {
        Some(format!("{module} (floor {here}) must not know {other} (floor {there}): code uses lower floors only"))
    } else if there == here && module != other && BLIND.contains(&here) {
        Some(format!("{module} must not know {other}: neighbours on floor {here} are blind to each other"))
    } else {
        None
    }
}

fn breach_of_place(file: &str, krate: &str) -> Option<String> {
    if let Some((_, places)) = ONE_PLACE.iter().find(|(name, _)| *name == krate) {
        let inside = places.iter().any(|place| file.starts_with(&format!("{place}/")) || file == format!("{place}.rs"));
        return (!inside).then(|| format!("{krate} is used only under {}", places.join(" and ")));
    }
    let ours = krate == "metagov" || krate.starts_with("metagov_");
    let foundation = matches!(krate, "metagov_sdk" | "metagov_sdk_macros");
    if !ours || foundation || file == "src/plugins.rs" {
        return None;
    }
    // Of two plugins one may name itself: its tests and examples do.
    let own = file.strip_prefix("plugins/").and_then(|rest| rest.split('/').next()).map(crate_of);
    (own.as_deref() != Some(krate)).then(|| {
        if file.starts_with("src/") {
            format!("{krate} is named in src/plugins.rs only, the list of plugins")
        } else {
            format!(
                "{krate} is out of sight here: a plugin sees the SDK and its platform's client, nothing else of ours"
            )
        }
    })
}

/// Which of our crates a crate of ours depends on, by the keys of its manifest's dependency tables.
fn breaches_in_manifest(file: &str, text: &str) -> Vec<Breach> {
    let folder = file.trim_end_matches("/Cargo.toml");
    let allowed =
        MAY_DEPEND_ON.iter().find(|(name, _)| *name == folder).map_or(PLUGIN_MAY_DEPEND_ON, |(_, allowed)| *allowed);
    // With another feature of itself, for its tests.
    let own = text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or_default().trim_matches('"');
    let mut table = String::new();
    let mut breaches = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            header.trim_end_matches(']').clone_into(&mut table);
        }
        let key = match table.rsplit_once("dependencies.") {
            Some((_, key)) if line.starts_with('[') => key,
            _ if table.ends_with("dependencies") => line.split(['.', '=', ' ']).next().unwrap_or_default(),
            _ => continue,
        };
        if (key == "metagov" || key.starts_with("metagov-")) && key != own && !allowed.contains(&key) {
            let rule = match allowed {
                [] => format!("{folder} must not depend on {key}: it stands on the ground floor"),
                _ => format!("{folder} must not depend on {key}: of our crates only on {}", allowed.join(", ")),
            };
            breaches.push(Breach { file: file.into(), line: index + 1, rule });
        }
    }
    breaches
}

/// Every plugin's folder is in the list of plugins: a crate that nothing names is not linked.
fn breaches_in_list(plugins: &[String], list: &str) -> Vec<Breach> {
    let source = Source::parse(&["plugins".into()], list).expect("src/plugins.rs is Rust");
    plugins
        .iter()
        .filter(|plugin| plugin.as_str() != "sdk")
        .filter(|plugin| !source.paths.iter().any(|path| path.segments[0] == crate_of(plugin)))
        .map(|plugin| Breach {
            file: "src/plugins.rs".into(),
            line: 1,
            rule: format!(
                "plugins/{plugin} is not in the list: name {} here, or it is not in the binary",
                crate_of(plugin)
            ),
        })
        .collect()
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// `example-plugin` → `metagov_example_plugin`.
fn crate_of(plugin: &str) -> String {
    format!("metagov_{}", plugin.replace('-', "_"))
}

/// The module of the service that a file belongs to: `src/bus/topology.rs` → `bus`; none outside `src`.
fn module_of(file: &str) -> Option<&str> {
    let rest = file.strip_prefix("src/")?;
    Some(rest.split_once('/').map_or_else(|| rest.trim_end_matches(".rs"), |(module, _)| module))
}

/// `src/bus/topology.rs` → `bus`, `topology`; outside `src` the root of the crate is unknown and not needed.
fn module_path(file: &str) -> Vec<String> {
    let inner = file.split_once("src/").map_or(file, |(_, inner)| inner).trim_end_matches(".rs");
    inner.split('/').filter(|part| !matches!(*part, "mod" | "lib")).map(str::to_owned).collect()
}

/// Files that are compiled for tests only.
fn is_test_code(file: &str) -> bool {
    file.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches" | "examples"))
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a directory entry can be read").path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn folders_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut folders: Vec<String> = entries
        .map(|entry| entry.expect("a directory entry can be read"))
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    folders
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
