//! The service's processes. The rig's own binary runs again as a worker, a scheduler or `dev`: production code through
//! the library, with the puppet for its one plugin. Each is killed by its own process id.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use metagov::{
    app::{self, App},
    config::{Config, Sources},
    registry::Registry,
    shutdown::Shutdown,
    telemetry,
};
use tokio::time::Instant;

use crate::{
    double::{DOUBLE, Double},
    puppet::Puppet,
};

/// The first argument of a process that is not the harness.
pub(crate) const ROLE: &str = "role";
/// How many MiB of memory a process may take for itself, where its environment says so.
pub(crate) const MEMORY: &str = "FAULTS_MEMORY";

/// What a process of the service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Worker,
    Scheduler,
    Dev,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Scheduler => "scheduler",
            Self::Dev => "dev",
        }
    }

    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        let all = [Self::Worker, Self::Scheduler, Self::Dev];
        all.into_iter().find(|role| role.as_str() == name).with_context(|| format!("there is no role {name}"))
    }

    /// Is this role until a signal ends it.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let _armed = metagov::failpoint::arm();
        let config = Config::load(&Sources::of_process(None, Vec::new()))?.config;
        telemetry::start_serving(config.log.format, telemetry::parse_filter(&config.log.filter)?)?;
        let shutdown = Shutdown::new();
        shutdown.listen()?;
        let app = App::with_plugins(config, registry()).await?;
        let ended = match self {
            Self::Worker => app::run_worker(app, shutdown).await,
            Self::Scheduler => app::run_scheduler(app, shutdown).await,
            Self::Dev => app::run_dev(app, shutdown, |_| {}).await,
        };
        telemetry::flush();
        ended
    }
}

/// The plugins of the rig: the puppet, and its double where there is one.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::builder().add::<Puppet>().expect("the puppet is well-formed");
    if std::env::var_os(DOUBLE).is_some() {
        registry = registry.add::<Double>().expect("its double is well-formed");
    }
    registry.build()
}

/// The rig's own binary, within the limit that the environment names.
fn program(environment: &[(String, String)]) -> Command {
    let program = std::env::current_exe().expect("a running program has a path");
    let Some((_, mib)) = environment.iter().find(|(name, _)| name == MEMORY) else { return Command::new(program) };
    let bytes = mib.parse::<u64>().expect("the limit is a number") << 20;
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--data={bytes}")).arg("--core=0").arg(program);
    limited
}

/// A process of the service.
pub(crate) struct Process {
    child: Child,
    /// `worker-3`, as its log is called.
    pub(crate) name: String,
    log: PathBuf,
    /// Whether the scenario has ended it, so that its end is no surprise.
    ended: bool,
}

impl Process {
    pub(crate) fn start(role: Role, name: String, directory: &Path, environment: &[(String, String)]) -> Self {
        let log = directory.join(format!("{name}.log"));
        let stderr = File::options().create(true).append(true).open(&log).expect("the directory is ours");
        let child = program(environment)
            .args([ROLE, role.as_str()])
            .current_dir(directory)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the rig's own binary can be run, and prlimit of util-linux where memory is limited");
        Self { child, name, log, ended: false }
    }

    /// SIGKILL, and gone when this returns.
    pub(crate) fn kill(&mut self) {
        self.ended = true;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `TERM`, `STOP`, `CONT`, …
    pub(crate) fn signal(&mut self, signal: &str) {
        self.ended |= matches!(signal, "TERM" | "INT");
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().expect("kill is installed");
        assert!(sent.success(), "{} cannot be sent SIG{signal}", self.name);
    }

    /// Whether it stands still, as after SIGSTOP.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
    }

    /// Waits until it has ended by itself; `None` where that takes longer.
    pub(crate) async fn ended_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = true;
                return Some(status);
            }
            if Instant::now() > until {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether it ended although no scenario asked it to.
    pub(crate) fn has_died(&mut self) -> bool {
        !self.ended && !matches!(self.child.try_wait(), Ok(None))
    }

    /// How many bytes it has logged so far.
    pub(crate) fn log_length(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    /// What it has logged from this byte on.
    pub(crate) fn log_from(&self, from: u64) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut log| {
            log.seek(SeekFrom::Start(from))?;
            log.read_to_end(&mut text)
        });
        read.expect("its log is there");
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until it has logged this; `None` where that takes longer, else how long it took.
    pub(crate) async fn logs_within(&self, text: &str, patience: Duration) -> Option<Duration> {
        self.logs_after(0, text, patience).await
    }

    /// The same, from this byte of the log on; see [`Self::log_length`].
    pub(crate) async fn logs_after(&self, from: u64, text: &str, patience: Duration) -> Option<Duration> {
        self.logs_until(from, |log| log.contains(text), patience).await
    }

    /// Waits until what it logs from this byte on is as it should be.
    pub(crate) async fn logs_until(
        &self,
        from: u64,
        wanted: impl Fn(&str) -> bool,
        patience: Duration,
    ) -> Option<Duration> {
        let began = Instant::now();
        while !wanted(&self.log_from(from)) {
            if began.elapsed() > patience {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(began.elapsed())
    }

    /// The time that its threads have spent on a processor, for itself and in the kernel, in steps of 10 ms.
    ///
    /// # Panics
    /// Where it has ended.
    pub(crate) fn processor_time(&self) -> Duration {
        // The kernel tells it in hundredths of a second, whatever its own clock does.
        const TICK: Duration = Duration::from_millis(10);
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("the process is there");
        // The second field is its name, in brackets, and may hold anything.
        let (_, fields) = stat.rsplit_once(") ").expect("its name stands in brackets");
        let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u32>().expect("a number of ticks"));
        TICK * ticks.sum::<u32>()
    }

    /// The variables that it was started with, as everybody of its user may read them.
    pub(crate) fn environment(&self) -> Vec<u8> {
        fs::read(format!("/proc/{}/environ", self.child.id())).expect("the process is there")
    }

    /// Its memory in KiB, as the kernel counts what is in use.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    /// How many files and sockets it has open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
