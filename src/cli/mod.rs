//! The command line: what can be asked for, and which file answers it.
//!
//! One file for each noun. Reads (`list`, `get`, `show`) come from the database; writes are commands on the bus, answered
//! by events, exactly as drivers see them. Data goes to stdout, words to stderr ([`output`]); the exit codes are decided in
//! [`exit`]. Up: the shell. Down: `src/app.rs` for the roles, [`connection`] for everything else.

mod action;
mod arguments;
mod asking;
mod asyncapi;
mod community;
mod completions;
mod confirm;
mod connection;
mod dead;
mod events;
mod exit;
mod export;
mod history;
mod keys;
mod output;
mod parameters;
mod plugin;
mod plugins;
mod process;
mod replay;
mod roles;
mod schemas;
mod settings;
mod topology;
mod uncertain;

use std::{env, path::PathBuf, process::ExitCode, thread, time::Duration};

use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource, value_parser};

use self::{
    exit::{EXIT_CODES, Exit, Stop},
    output::Output,
};
use crate::{
    config::{Config, Flag, Loaded, Sources},
    telemetry,
};

/// Connects communities to the platforms where they talk, pay and vote.
#[derive(Debug, Parser)]
#[command(name = "metagov", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    /// Print JSON on stdout: one object, or one object for each line
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    json: bool,
    /// Say nothing on stderr but errors
    #[arg(long, short, global = true, help_heading = EVERYWHERE)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

/// `metagov dev --help`
const DEV: &str = "Run everything in one process, with nothing else installed

With METAGOV__BROKER__URL=amqp://… and METAGOV__DATABASE__URL=postgres://… it uses those instead of its own. With \
METAGOV__EGRESS__ALLOW=loopback plugins reach servers on this machine, such as a fake of their platform.";

/// Threads of this program at least.
const FEWEST_THREADS: usize = 4;

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process, with nothing else installed
    #[command(long_about = DEV)]
    Dev,
    /// Run plugins: handle commands, store outcomes, publish events
    Worker(roles::WorkerArguments),
    /// Wake open processes and plugins when they are due
    Scheduler,
    /// Bring the database to the version of this program
    Migrate(roles::MigrateArguments),
    /// Exchanges, queues and bindings on the broker
    #[command(subcommand)]
    Topology(topology::Topology),
    /// The plugins in this program
    #[command(subcommand)]
    Plugins(plugins::Plugins),
    /// Communities
    #[command(subcommand)]
    Community(community::Community),
    /// Plugins enabled in a community
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Actions: one call with one outcome
    #[command(subcommand)]
    Action(action::Action),
    /// Governance processes: decisions that take time
    #[command(subcommand)]
    Process(process::Process),
    /// Outcomes, and what happens on platforms
    #[command(subcommand)]
    Events(events::Events),
    /// Actions that may have happened, for a person to decide on
    #[command(subcommand)]
    Uncertain(uncertain::Uncertain),
    /// Messages that could not be handled
    #[command(subcommand)]
    Dead(dead::Dead),
    /// The keys that seal secrets in plugin configs
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Settings, and where they come from
    #[command(subcommand)]
    Config(settings::Settings),
    /// The published JSON Schemas of commands and events
    #[command(subcommand)]
    Schemas(schemas::Schemas),
    /// The AsyncAPI document: every routing key with the schema of its message
    Asyncapi,
    /// A completion script for a shell
    Completions(completions::Arguments),
}

/// Runs the command that the shell asks for.
#[must_use]
pub fn main() -> ExitCode {
    let read = command().try_get_matches().and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match read {
        Ok(read) => read,
        Err(error) => return not_a_command(&error).into(),
    };
    let out = Output::new(cli.json, cli.quiet);
    let given = Given { settings_file: settings_file(&matches), timeout: timeout(&matches) };
    let exit = run(cli.command, out, given).unwrap_or_else(|error| out.fail(&error));
    telemetry::flush();
    exit.into()
}

/// Help and version, which were asked for, and wrong usage: clap has the words for all three.
fn not_a_command(error: &clap::Error) -> Exit {
    if error.use_stderr() {
        // Nothing has been read that could say so.
        let json = env::args_os().skip(1).take_while(|argument| argument != "--").any(|argument| argument == "--json");
        return Output::new(json, false).refuse(error);
    }
    // Whoever asked may not read to the end.
    let _ = error.print();
    Exit::Success
}

/// What any command may be given.
struct Given {
    settings_file: Option<PathBuf>,
    timeout: Option<Duration>,
}

fn run(command: Command, out: Output, given: Given) -> anyhow::Result<Exit> {
    // What says something about this program only must work whatever the settings are.
    match &command {
        Command::Plugins(plugins) => return plugins.run(out),
        Command::Schemas(schemas) => return schemas.run(out),
        Command::Completions(arguments) => return arguments.run(out),
        Command::Keys(keys::Keys::Generate) => return keys::Keys::generate(out),
        Command::Config(settings::Settings::Defaults) => return settings::Settings::print_defaults(out),
        _ => {}
    }
    let flags = if let Command::Worker(arguments) = &command { arguments.flags() } else { Vec::new() };
    let loaded = load(&command, out, given.settings_file, flags)?;
    // However few the cores are, one handler that blocks its thread must leave threads for the others.
    let threads = thread::available_parallelism().map_or(FEWEST_THREADS, |cores| cores.get().max(FEWEST_THREADS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let answered = runtime.block_on(async {
        match given.timeout {
            None => answer(command, out, loaded).await,
            Some(limit) => {
                let late = |_| Stop::TimedOut(format!("it took longer than {limit:?}"));
                let answered = tokio::time::timeout(limit.saturating_add(GRACE), answer(command, out, loaded)).await;
                answered.map_err(late)?
            }
        }
    });
    // Not for what still waits for a server that does not answer.
    runtime.shutdown_background();
    answered
}

async fn answer(command: Command, out: Output, loaded: Loaded) -> anyhow::Result<Exit> {
    let config = &loaded.config;
    match command {
        Command::Dev => roles::dev(out, loaded.config).await,
        Command::Worker(_) => roles::worker(loaded.config).await,
        Command::Scheduler => roles::scheduler(loaded.config).await,
        Command::Migrate(arguments) => arguments.run(out, config).await,
        Command::Topology(topology) => topology.run(out, config).await,
        Command::Community(community) => community.run(out, config).await,
        Command::Plugin(plugin) => plugin.run(out, config).await,
        Command::Action(action) => action.run(out, config).await,
        Command::Process(process) => process.run(out, config).await,
        Command::Events(events) => events.run(out, config).await,
        Command::Uncertain(uncertain) => uncertain.run(out, config).await,
        Command::Dead(dead) => dead.run(out, config).await,
        Command::Keys(keys) => keys.run(out, config).await,
        Command::Config(settings) => settings.run(out, &loaded),
        Command::Asyncapi => asyncapi::run(out, config),
        Command::Plugins(plugins) => plugins.run(out),
        Command::Schemas(schemas) => schemas.run(out),
        Command::Completions(arguments) => arguments.run(out),
    }
}

/// Reads the settings and starts the log. The roles log as they are set to; the other commands say what matters in words
/// of their own, and log only what goes wrong unless `log.filter` is set.
fn load(command: &Command, out: Output, file: Option<PathBuf>, flags: Vec<Flag>) -> anyhow::Result<Loaded> {
    let loaded = Config::load(&Sources::of_process(file, flags))?;
    let is_role = matches!(command, Command::Dev | Command::Worker(_) | Command::Scheduler);
    let filter = match (is_role, loaded.is_set("log.filter")) {
        _ if out.is_quiet() => "error",
        (false, false) => "warn",
        _ => &loaded.config.log.filter,
    };
    let start = if is_role { telemetry::start_serving } else { telemetry::start };
    start(loaded.config.log.format, telemetry::parse_filter(filter)?)?;
    Ok(loaded)
}

/// The command line, with `--config FILE` wherever a command has no `--config` of its own, and `--timeout` likewise.
fn command() -> clap::Command {
    with_settings_file(Cli::command()).mut_subcommands(|command| {
        if WITHOUT_TIMEOUT.contains(&command.get_name()) { command } else { with_timeout(command) }
    })
}

/// Roles run until they are ended, a migration is never cut, and the others ask nobody.
const WITHOUT_TIMEOUT: [&str; 9] =
    ["dev", "worker", "scheduler", "migrate", "plugins", "schemas", "asyncapi", "config", "completions"];

/// What waits for an outcome ends by itself in time, with better words; the others, and what hangs below, end so much later.
const GRACE: Duration = Duration::from_millis(250);

fn with_timeout(command: clap::Command) -> clap::Command {
    let taken = command.has_subcommands() || command.get_arguments().any(|known| known.get_id() == TIMEOUT);
    let command = if taken { command } else { command.arg(timeout_argument()) };
    command.mut_subcommands(with_timeout)
}

fn timeout_argument() -> Arg {
    Arg::new(TIMEOUT)
        .long(TIMEOUT)
        .value_name("DURATION")
        .value_parser(arguments::duration)
        .help_heading(EVERYWHERE)
        .help("How long the command may take, such as 500ms, 60s or 5m [default: as long as it takes]")
}

/// The id of `--timeout` in every command.
const TIMEOUT: &str = "timeout";

/// The innermost `--timeout`, unless it is the default.
fn timeout(matches: &ArgMatches) -> Option<Duration> {
    if let Some((_, inner)) = matches.subcommand() {
        return timeout(inner);
    }
    let is_given =
        matches.ids().any(|id| id == TIMEOUT) && matches.value_source(TIMEOUT) == Some(ValueSource::CommandLine);
    if is_given { matches.try_get_one(TIMEOUT).ok().flatten().copied() } else { None }
}

/// `--config` cannot be a global argument of clap: `plugin enable` has one for the plugin's config.
fn with_settings_file(command: clap::Command) -> clap::Command {
    let taken = command.get_arguments().any(|argument| argument.get_long() == Some("config"));
    let command = if taken { command } else { command.arg(settings_argument()) };
    command.mut_subcommands(with_settings_file)
}

fn settings_argument() -> Arg {
    Arg::new(SETTINGS_FILE)
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help_heading(EVERYWHERE)
        .help("The file with the settings [default: $METAGOV_CONFIG, ./metagov.toml, /etc/metagov/metagov.toml]")
}

/// Where `--help` lists what every command takes.
const EVERYWHERE: &str = "Options of every command";

const SETTINGS_FILE: &str = "settings-file";

/// The innermost `--config FILE`.
fn settings_file(matches: &ArgMatches) -> Option<PathBuf> {
    let inner = matches.subcommand().and_then(|(_, inner)| settings_file(inner));
    inner.or_else(|| matches.try_get_one(SETTINGS_FILE).ok().flatten().cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn the_file_with_the_settings_can_be_named_anywhere_but_where_a_plugin_has_a_config() {
        let file = |line: &str| settings_file(&command().get_matches_from(line.split(' ')));
        assert_eq!(file("metagov config show"), None);
        assert_eq!(file("metagov --config a config show"), Some("a".into()));
        assert_eq!(file("metagov config show --config b"), Some("b".into()));
        assert_eq!(file("metagov --config a config show --config b"), Some("b".into()));
        assert_eq!(file("metagov --config a plugin enable p --community c --config k=v"), Some("a".into()));
    }
}
