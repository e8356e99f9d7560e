//! Drains queued `random-int` commands through the real worker and prints what came of them, on one line.
//!
//! The commands are published while no worker runs; then one is started, and the time counts at a subscriber, from the
//! first twentieth of the outcomes to the last, as the hand-written yardstick counts it. It looks at the wire only; rows
//! and what is left in the queue are counted by `tests/bench/run`, which starts it. Up: `tests/bench/run`. Down:
//! `metagov worker`, built in the same profile.

use std::{
    collections::{HashMap, HashSet},
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use metagov::bus::{Bus, Destination, Message, Outgoing, Properties, Published, Settings, Subscription};
use metagov_sdk::contract::Name;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const METAGOV: &str = env!("CARGO_BIN_EXE_metagov");
const COMMUNITY: &str = "community-000001";
const CHUNK: usize = 1000;
/// How long to wait for the next outcome before the run counts as stuck.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, Parser)]
struct Arguments {
    /// How the run is called in its line
    #[arg(long, default_value = "metagov")]
    name: String,
    /// `RabbitMQ`, with a virtual host of its own
    #[arg(long)]
    amqp: String,
    /// A database of its own
    #[arg(long)]
    database: String,
    /// How many commands
    #[arg(long, default_value_t = 20_000)]
    commands: usize,
    /// Bytes of a command's body
    #[arg(long, default_value_t = 512)]
    size: usize,
    /// What cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // `cargo test --benches` asks for a quick look, not for a figure.
    if !arguments.bench {
        return Ok(());
    }
    let service = Service::new(&arguments);
    service.run("migrate")?;
    let bus = Bus::connect(&service.bus_settings(), CancellationToken::new()).await?;
    bus.apply_topology(&[Name::new("randomness")?]).await?;
    let mut events = bus.subscribe(&["#".to_owned()]).await?;
    enable(&service, &bus, &mut events).await?;

    let commands = publish(&bus, &arguments).await?;
    let (outcomes, worker) = drain(&service, &mut events, &commands).await?;
    worker.stop()?;
    bus.close().await;

    let Outcomes { rate, startup, distinct, copies, cpu } = outcomes;
    println!(
        "drain name={} n={} size={} rate={rate:.0}/s startup_s={startup:.2} ids={distinct} dups={copies} \
         cpu_us/msg worker={:.0} broker={:.0} pg={:.0} driver={:.0}",
        arguments.name, arguments.commands, arguments.size, cpu.worker, cpu.broker, cpu.database, cpu.driver,
    );
    Ok(())
}

/// The community that all commands are for.
async fn enable(service: &Service, bus: &Bus, events: &mut Subscription) -> Result<()> {
    let worker = service.start_worker()?;
    let body = format!(
        r#"{{"slug":"{COMMUNITY}","plugins":[{{"name":"randomness","config":{{"default_low":1,"default_high":7}}}}]}}"#
    );
    bus.publish(vec![command("community.apply", Uuid::new_v4(), body)]).await?;
    loop {
        let event = timeout(PATIENCE, events.recv()).await.context("no answer to community.apply")?;
        let kind = event.context("the bus closed")?.properties.message_type.unwrap_or_default();
        match kind.as_str() {
            "org.metagov.community.applied" => break,
            "org.metagov.plugin.enabled" => {}
            other => bail!("community.apply was answered by {other}"),
        }
    }
    worker.stop()
}

/// Queues the commands, each with a key of its own; gives key and place.
async fn publish(bus: &Bus, arguments: &Arguments) -> Result<HashMap<String, usize>> {
    let body = |filling: usize| {
        format!(
            r#"{{"community":"{COMMUNITY}","parameters":{{"low":1,"high":100000}},"initiator":{{"user_id":"U0123456789","provider":"slack"}}{}}}"#,
            " ".repeat(filling)
        )
    };
    let body = body(arguments.size.saturating_sub(body(0).len()));
    let keys: Vec<Uuid> = (0..arguments.commands).map(|_| Uuid::new_v4()).collect();
    for chunk in keys.chunks(CHUNK) {
        let messages =
            chunk.iter().map(|key| command("action.randomness.random-int", *key, body.clone())).collect::<Vec<_>>();
        let published = bus.publish(messages).await?;
        ensure!(published.iter().all(|each| *each == Published::Routed), "a command found no queue");
    }
    Ok(keys.iter().enumerate().map(|(place, key)| (key.to_string(), place)).collect())
}

fn command(routing_key: &str, key: Uuid, body: String) -> Outgoing {
    let properties = Properties {
        content_type: Some("application/json".to_owned()),
        message_id: Some(key.to_string()),
        ..Properties::default()
    };
    Outgoing {
        to: Destination::Commands,
        message: Message { routing_key: routing_key.to_owned(), body: body.into(), properties },
    }
}

struct Outcomes {
    rate: f64,
    /// Seconds from the start of the worker to its first outcome.
    startup: f64,
    /// Event ids; as many as commands where nothing is lost and nothing is doubled.
    distinct: usize,
    /// Outcomes that came more than once.
    copies: usize,
    cpu: Cpu,
}

/// Starts a worker and takes outcomes until each command has one.
async fn drain(
    service: &Service,
    events: &mut Subscription,
    commands: &HashMap<String, usize>,
) -> Result<(Outcomes, Worker)> {
    let worker = service.start_worker()?;
    let started = Instant::now();
    let warm_up = (commands.len() / 20).max(1);
    let (mut answered, mut ids) = (vec![false; commands.len()], HashSet::with_capacity(commands.len()));
    let (mut count, mut copies, mut startup) = (0, 0, 0.0);
    let mut from = (Instant::now(), Cpu::used(worker.id()));
    while count < commands.len() {
        let event = match timeout(PATIENCE, events.recv()).await {
            Ok(event) => event.context("the bus closed")?.properties,
            Err(_) => bail!("no outcome for {PATIENCE:?} after {count} of {}", commands.len()),
        };
        let kind = event.message_type.as_deref().unwrap_or_default();
        ensure!(kind == "org.metagov.action.completed", "a command was answered by {kind}");
        ids.insert(event.message_id.context("an event without message_id")?);
        let key = event.correlation_id.context("an event without correlation_id")?;
        let place = *commands.get(&key).context("an outcome of an unknown command")?;
        if std::mem::replace(&mut answered[place], true) {
            copies += 1;
            continue;
        }
        count += 1;
        if count == 1 {
            startup = started.elapsed().as_secs_f64();
        }
        if count == warm_up {
            from = (Instant::now(), Cpu::used(worker.id()));
        }
    }
    let seconds = from.0.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a count of messages is far below 2^52")]
    let measured = (count - warm_up).max(1) as f64;
    let cpu = Cpu::used(worker.id()).since(&from.1, measured);
    Ok((Outcomes { rate: measured / seconds, startup, distinct: ids.len(), copies, cpu }, worker))
}

/// The settings of the service that is measured: all defaults but the addresses.
struct Service {
    amqp: String,
    database: String,
}

impl Service {
    fn new(arguments: &Arguments) -> Self {
        Self { amqp: arguments.amqp.clone(), database: arguments.database.clone() }
    }

    fn bus_settings(&self) -> Settings {
        Settings {
            url: self.amqp.clone().into(),
            prefix: "metagov".to_owned(),
            heartbeat: Duration::from_secs(10),
            declare: true,
            delivery_limit: 100,
            service_users: std::collections::BTreeSet::new(),
            tls: metagov::bus::Tls::default(),
        }
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(METAGOV);
        command
            .arg(subcommand)
            .env("METAGOV__BROKER__URL", &self.amqp)
            .env("METAGOV__DATABASE__URL", &self.database)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, subcommand: &str) -> Result<()> {
        let status = self.command(subcommand).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "metagov {subcommand} ended with {status}");
        Ok(())
    }

    fn start_worker(&self) -> Result<Worker> {
        let mut command = self.command("worker");
        command.args(["--plugins", "randomness"]).stdout(Stdio::null());
        Ok(Worker(command.spawn().with_context(|| format!("cannot start {METAGOV}"))?))
    }
}

/// A running worker; killed where it is not stopped.
struct Worker(Child);

impl Worker {
    fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGTERM, which the standard library cannot send.
    fn stop(mut self) -> Result<()> {
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.id())]).status()?;
        ensure!(sent.success(), "cannot signal the worker");
        let status = self.0.wait()?;
        ensure!(status.success(), "the worker ended with {status}");
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An error is a worker that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time by who used it: seconds since their start, or microseconds for each message.
#[derive(Default)]
struct Cpu {
    worker: f64,
    broker: f64,
    database: f64,
    driver: f64,
}

impl Cpu {
    /// All brokers and database servers of this machine count: there must be no others. Zero where there is no `/proc`.
    fn used(worker: u32) -> Self {
        let mut cpu = Self::default();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for id in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            let Some((name, seconds)) = seconds_of(id) else { continue };
            match name.as_str() {
                _ if id == worker => cpu.worker += seconds,
                _ if id == std::process::id() => cpu.driver += seconds,
                "beam.smp" => cpu.broker += seconds,
                "postgres" => cpu.database += seconds,
                _ => {}
            }
        }
        cpu
    }

    fn since(&self, before: &Self, messages: f64) -> Self {
        let each = |now: f64, then: f64| (now - then) * 1e6 / messages;
        Self {
            worker: each(self.worker, before.worker),
            broker: each(self.broker, before.broker),
            database: each(self.database, before.database),
            driver: each(self.driver, before.driver),
        }
    }
}

/// Name and processor time of a process: fields 2, 14 and 15 of `/proc/<id>/stat` (proc(5)), in hundredths of a second.
fn seconds_of(id: u32) -> Option<(String, f64)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let ticks = after.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap_or(0.0));
    Some((name, ticks.sum::<f64>() / 100.0))
}
