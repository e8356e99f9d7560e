//! A RabbitMQ node of a test's own, which it may starve, pause and misconfigure.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

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

    /// Begins to listen with TLS, too, where every client shows a certificate of this authority; tells the port.
    pub(crate) fn listen_with_tls(&self, ca: &Path, certificate: &Path, key: &Path) -> u16 {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let settings = self.directory.path().join("rabbitmq.conf");
        let before = std::fs::read_to_string(&settings).expect("it was started");
        let (ca, certificate, key) = (ca.display(), certificate.display(), key.display());
        let lines = format!(
            "{before}\nlisteners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {ca}\n\
             ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n\
             ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
        );
        std::fs::write(settings, lines).expect("it can be written");
        self.tell("restart", &[]);
        port
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
