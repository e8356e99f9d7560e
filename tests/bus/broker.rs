//! A RabbitMQ node of a test's own, which it may starve, pause and misconfigure.

use std::{path::PathBuf, process::Command};

use metagov::bus::Settings;

use super::rig::settings;

pub(crate) struct Broker {
    script: PathBuf,
    directory: tempfile::TempDir,
    pub(crate) url: String,
}

impl Broker {
    pub(crate) fn start() -> Self {
        let services = std::env::var("METAGOV_TEST_SERVICES")
            .expect("METAGOV_TEST_SERVICES is not set: run tests/run, which knows where the scripts are");
        let directory = tempfile::tempdir().expect("a directory");
        let mut broker = Self { script: PathBuf::from(services).join("rabbitmq"), directory, url: String::new() };
        broker.url = broker.tell("start", &[]);
        broker
    }

    /// A verb of `tests/services/rabbitmq`.
    pub(crate) fn tell(&self, verb: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.script);
        let output = command.arg(verb).arg(self.directory.path()).args(arguments).output().expect("it can be run");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "rabbitmq {verb} {arguments:?}: {out}{err}");
        out.trim().to_owned()
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        self.tell("ctl", &[&["--quiet"], arguments].concat())
    }

    /// Sets something that channels and queues read when they begin.
    pub(crate) fn set(&self, key: &str, value: &str) {
        self.ctl(&["eval", &format!("application:set_env(rabbit, {key}, {value}).")]);
    }

    pub(crate) fn settings(&self) -> Settings {
        settings(&self.url)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // What is paused is resumed by it.
        let _ = Command::new(&self.script).arg("stop").arg(self.directory.path()).output();
    }
}
