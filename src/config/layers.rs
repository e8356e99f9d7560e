//! Where settings come from: each layer read, its keys and the kinds of its values checked, its origin noted.
//!
//! The built-in defaults say which keys there are and of which kind each is, so no list of keys stands anywhere else.
//! Values are never re-typed: `00123` for a text stays `00123`. Up: [`Sources`], filled by `src/cli`. Down:
//! [`super::rules`], then the `config` crate, which merges the layers and keeps each value's origin.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use config::{ConfigError, Map, Source, Value, ValueKind};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};

use super::{
    DEFAULTS,
    fault::{Fault, hint},
};

/// What every variable of ours starts with.
const PREFIX: &str = "METAGOV__";

/// The origin of a value that no layer set.
pub(super) const DEFAULT: &str = "default";

/// What kind of value a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Switch,
    List,
}

impl Kind {
    const fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a whole number",
            Self::Switch => "true or false",
            Self::List => "a list of texts",
        }
    }
}

/// The keys that exist, with their kinds.
pub(super) type Known = BTreeMap<String, Kind>;

/// A setting that a flag of the command line overrides.
#[derive(Debug, Clone)]
pub struct Flag {
    /// As it is written, `--concurrency`.
    pub flag: &'static str,
    /// The key that it sets.
    pub key: &'static str,
    /// The value, as in an environment variable.
    pub value: String,
}

/// Everything that settings are read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that `--config` names. It must exist.
    pub file: Option<PathBuf>,
    /// Files to look for where neither flag nor variable names one; the first that exists counts.
    pub search: Vec<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The flags.
    pub flags: Vec<Flag>,
}

impl Sources {
    /// The sources of this process: its environment, and the files that are looked for.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let search = ["metagov.toml", "/etc/metagov/metagov.toml"].map(PathBuf::from).to_vec();
        Self { file, search, environment: env::vars_os().collect(), flags }
    }

    /// The layers over the defaults, lowest first. What is wrong with them goes to `faults`.
    pub(super) fn layers(&self, known: &Known, faults: &mut Vec<Fault>) -> Vec<Layer> {
        let mut layers = Vec::new();
        if let Some(path) = self.config_file() {
            match fs::read_to_string(&path) {
                Ok(text) => layers.push(Layer::toml(&path.display().to_string(), &text, known, faults)),
                Err(error) => faults.push(unreadable(format!("file {}", path.display()), None, &error)),
            }
        }
        let (variables, files) = self.variables(known, faults);
        layers.push(variables);
        layers.push(files);
        layers.push(self.flag_layer(known, faults));
        layers
    }

    fn config_file(&self) -> Option<PathBuf> {
        let named = || self.environment.iter().find(|(name, value)| name == "METAGOV_CONFIG" && !value.is_empty());
        self.file
            .clone()
            .or_else(|| named().map(|(_, path)| PathBuf::from(path)))
            .or_else(|| self.search.iter().find(|path| path.exists()).cloned())
    }

    /// The two layers of the environment: values, and files that hold values.
    fn variables(&self, known: &Known, faults: &mut Vec<Fault>) -> (Layer, Layer) {
        let (mut values, mut files) = (Layer::default(), Layer::default());
        for (name, value) in &self.environment {
            // An empty variable counts as absent: compose files pass on what is not set as empty.
            let Some(name) = name.to_str().filter(|_| !value.is_empty()) else { continue };
            if let Some((key, kind)) = known.iter().find(|(key, _)| variable(key) == name) {
                match value.to_str() {
                    Some(text) => values.text(name, key, *kind, text, faults),
                    None => faults.push(Fault::at(name, key, "must be UTF-8")),
                }
            } else if let Some((key, kind)) = known.iter().find(|(key, _)| variable(key) + "_FILE" == name) {
                files.secret_file(name, key, *kind, value, faults);
            } else if name.starts_with(PREFIX) || is_near_miss(name, known) {
                let names: Vec<String> = known.keys().map(|key| variable(key)).collect();
                let meant = names.iter().find(|known| letters(known) == letters(name));
                let hint = meant.map_or_else(
                    || hint(name, names.iter().map(String::as_str)),
                    |meant| format!("; did you mean '{meant}'?"),
                );
                let reason = format!("no setting has this name{hint}");
                faults.push(Fault { origin: format!("variable {name}"), key: None, reason });
            }
        }
        (values, files)
    }

    fn flag_layer(&self, known: &Known, faults: &mut Vec<Fault>) -> Layer {
        let mut layer = Layer::default();
        for Flag { flag, key, value } in &self.flags {
            let kind = known.get(*key).copied().expect("a flag overrides a key that exists");
            layer.insert_text(&format!("flag {flag}"), key, kind, value, faults);
        }
        layer
    }
}

/// The one form that a key has in the environment.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

fn letters(name: &str) -> String {
    name.chars().filter(|c| *c != '_').collect()
}

/// One underscore where two belong, or the reverse: the mistake that costs people half an hour.
fn is_near_miss(name: &str, known: &Known) -> bool {
    name.starts_with("METAGOV_") && known.keys().any(|key| letters(&variable(key)) == letters(name))
}

fn unreadable(origin: String, key: Option<&str>, error: &std::io::Error) -> Fault {
    Fault { origin, key: key.map(str::to_owned), reason: format!("the file cannot be read: {error}") }
}

/// One source of settings: keys with values that carry their origin.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pub(super) values: BTreeMap<String, Value>,
}

impl Layer {
    pub(super) fn defaults() -> Self {
        let table: toml::Table = DEFAULTS.parse().expect("the built-in defaults are TOML");
        let values = flatten(table).map(|(key, value)| (key, tagged(DEFAULT, value))).collect();
        Self { values }
    }

    /// Which keys there are, and what each takes.
    pub(super) fn kinds(&self) -> Known {
        let kind = |value: &Value| match value.kind {
            ValueKind::I64(_) => Kind::Number,
            ValueKind::Boolean(_) => Kind::Switch,
            ValueKind::Array(_) => Kind::List,
            _ => Kind::Text,
        };
        self.values.iter().map(|(key, value)| (key.clone(), kind(value))).collect()
    }

    /// A file. The message of a syntax error is given with its place, never with the line itself.
    pub(super) fn toml(origin: &str, text: &str, known: &Known, faults: &mut Vec<Fault>) -> Self {
        let mut layer = Self::default();
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(text));
                let reason = format!("line {}: this is not TOML: {}", before.matches('\n').count() + 1, syntax(&error));
                faults.push(Fault { origin: format!("file {origin}"), key: None, reason });
                return layer;
            }
        };
        let origin = format!("file {origin}");
        for (key, value) in flatten(table) {
            match known.get(&key) {
                Some(kind) if fits(*kind, &value) => {
                    layer.values.insert(key, tagged(&origin, value));
                }
                Some(kind) => {
                    let reason = format!("must be {}, found {}", kind.expected(), found(&value));
                    faults.push(Fault::at(&origin, &key, reason));
                }
                None => faults.push(Fault::at(&origin, &key, unknown(&key, &value, known))),
            }
        }
        layer
    }

    fn text(&mut self, name: &str, key: &str, kind: Kind, text: &str, faults: &mut Vec<Fault>) {
        self.insert_text(&format!("variable {name}"), key, kind, text, faults);
    }

    /// `METAGOV__SECTION__KEY_FILE`: the content counts, without the end of line that editors leave at the end, whichever
    /// they write, and without the byte order mark that some put at the beginning.
    fn secret_file(&mut self, name: &str, key: &str, kind: Kind, path: &OsStr, faults: &mut Vec<Fault>) {
        let origin = format!("file {} (variable {name})", Path::new(path).display());
        match fs::read_to_string(path) {
            Ok(text) => {
                let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
                let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
                self.insert_text(&origin, key, kind, text, faults);
            }
            Err(error) => faults.push(unreadable(origin, Some(key), &error)),
        }
    }

    fn insert_text(&mut self, origin: &str, key: &str, kind: Kind, text: &str, faults: &mut Vec<Fault>) {
        let value = match kind {
            Kind::Text => Some(ValueKind::from(text)),
            Kind::Number => text.trim().parse::<i64>().ok().map(ValueKind::from),
            Kind::Switch => text.trim().parse::<bool>().ok().map(ValueKind::from),
            Kind::List => {
                Some(text.split([',', '\n']).map(str::trim).filter(|word| !word.is_empty()).collect::<Vec<_>>().into())
            }
        };
        match value {
            Some(value) => {
                self.values.insert(key.to_owned(), Value::new(Some(&origin.to_owned()), value));
            }
            None => faults.push(Fault::at(origin, key, format!("must be {}, found a text", kind.expected()))),
        }
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl Fault {
    pub(super) fn at(origin: &str, key: &str, reason: impl Into<String>) -> Self {
        Self { origin: origin.to_owned(), key: Some(key.to_owned()), reason: reason.into() }
    }
}

/// `[section] key` as `section.key`. Settings have one level of sections; deeper tables are found to be of a wrong kind.
fn flatten(table: toml::Table) -> impl Iterator<Item = (String, toml::Value)> {
    table.into_iter().flat_map(|(name, value)| match value {
        toml::Value::Table(section) if !section.is_empty() => {
            section.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)).collect::<Vec<_>>()
        }
        value => vec![(name, value)],
    })
}

fn unknown(key: &str, value: &toml::Value, known: &Known) -> String {
    let sections = || known.keys().filter_map(|known| known.split_once('.').map(|(section, _)| section));
    if sections().any(|section| section == key) {
        return if value.is_table() { "the section is empty".to_owned() } else { "must be a section".to_owned() };
    }
    let hint = match key.split_once('.') {
        // A key of another section, spelled right or nearly so.
        Some((_, last)) => known
            .keys()
            .map(String::as_str)
            .find(|known| known.split('.').next_back() == Some(last))
            .map_or_else(|| hint(key, known.keys().map(String::as_str)), |meant| format!("; did you mean '{meant}'?")),
        None => hint(key, known.keys().map(String::as_str).chain(sections())),
    };
    format!("no setting has this name{hint}")
}

fn fits(kind: Kind, value: &toml::Value) -> bool {
    match kind {
        Kind::Text => value.is_str(),
        Kind::Number => value.is_integer(),
        Kind::Switch => value.is_bool(),
        Kind::List => value.as_array().is_some_and(|items| items.iter().all(toml::Value::is_str)),
    }
}

const fn found(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "a text",
        toml::Value::Integer(_) => "a whole number",
        toml::Value::Float(_) => "a number with a fraction",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list of other things",
        toml::Value::Table(_) => "a section",
    }
}

fn tagged(origin: &str, value: toml::Value) -> Value {
    let origin = origin.to_owned();
    let kind = match value {
        toml::Value::String(text) => ValueKind::from(text),
        toml::Value::Integer(number) => ValueKind::from(number),
        toml::Value::Float(number) => ValueKind::from(number),
        toml::Value::Boolean(switch) => ValueKind::from(switch),
        toml::Value::Datetime(date) => ValueKind::from(date.to_string()),
        toml::Value::Array(items) => items.into_iter().map(|item| tagged(&origin, item)).collect::<Vec<_>>().into(),
        toml::Value::Table(_) => unreachable!("a table fits no kind"),
    };
    Value::new(Some(&origin), kind)
}

/// What the parser says, without what it quotes: the quote may be a secret.
fn syntax(error: &toml::de::Error) -> &str {
    error.message().split(['`', '\'', '"', '\n']).next().unwrap_or_default().trim_end_matches([' ', ','])
}

/// Puts the data directory where a SQLite URL asks for it.
pub(super) fn in_data_dir(url: &SecretString, data_dir: &Path) -> SecretString {
    let text = url.expose_secret();
    if text.starts_with("sqlite:") {
        // In a URL these mean something: a directory may be named `a%2Fb` or `what?`.
        const MEANINGFUL: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');
        text.replace("{data_dir}", &utf8_percent_encode(&data_dir.display().to_string(), MEANINGFUL).to_string()).into()
    } else {
        url.clone()
    }
}
