//! Servers that a scenario may break: a RabbitMQ node and a PostgreSQL cluster of the rig's own, by the scripts of
//! `tests/services`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A server in a directory of its own. It keeps its port over every stop and start.
#[derive(Clone)]
pub(crate) struct Server {
    script: PathBuf,
    directory: PathBuf,
    environment: Vec<(String, String)>,
    /// Its address.
    pub(crate) url: String,
}

impl Server {
    /// Starts `rabbitmq` or `postgres`; the arguments are those of the script's `start`.
    pub(crate) async fn start(service: &str, directory: &Path, arguments: &[&str]) -> Self {
        Self::start_with(service, directory, arguments, Vec::new()).await
    }

    /// The same, with these variables for the server itself.
    pub(crate) async fn start_with(
        service: &str,
        directory: &Path,
        arguments: &[&str],
        environment: Vec<(String, String)>,
    ) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services").join(service);
        let mut server = Self { script, directory: directory.join(service), environment, url: String::new() };
        server.url = server.run("start", arguments).await;
        server
    }

    /// Stops it in order and starts it again.
    pub(crate) async fn restart(&self) {
        self.run("restart", &[]).await;
    }

    /// Stops it in order.
    pub(crate) async fn stop(&self) {
        self.run("stop", &[]).await;
    }

    /// SIGKILL for RabbitMQ, `-m immediate` for PostgreSQL: it ends as in a crash.
    pub(crate) async fn kill(&self) {
        self.run("kill", &[]).await;
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`].
    pub(crate) async fn start_again(&self) {
        self.run("start", &[]).await;
    }

    /// Waits until its port answers.
    pub(crate) async fn answers(&self) {
        let address = self.address();
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// SIGSTOP: its connections stay open and nothing answers.
    pub(crate) async fn pause(&self) {
        self.run("pause", &[]).await;
    }

    /// SIGCONT.
    pub(crate) async fn resume(&self) {
        self.run("resume", &[]).await;
    }

    /// `rabbitmqctl` or `psql` on it; what it printed.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> String {
        self.run("ctl", arguments).await
    }

    /// What PostgreSQL has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("server.log")).expect("PostgreSQL has a log")
    }

    /// SQL on PostgreSQL, in the database postgres; at once, so that a guard can call it as it is dropped.
    pub(crate) fn sql(&self, statements: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.script);
        command.arg("sql").arg(&self.directory).args(["--quiet", "--set", "ON_ERROR_STOP=1"]);
        command.args(statements.iter().flat_map(|statement| ["--command", statement]));
        let output = command.output().expect("the script can be run");
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        let (_, rest) = self.url.split_once('@').expect("the URL has a user");
        rest.split('/').next().expect("a split has a first part").to_owned()
    }

    /// Its URL with another address in it: that of a proxy.
    pub(crate) fn url_through(&self, address: std::net::SocketAddr) -> String {
        self.url.replace(&self.address(), &address.to_string())
    }

    /// Brings it back into service whatever a scenario left it in.
    pub(crate) async fn repair(&self) {
        let _ = self.command("resume", &[]).await;
        let address = self.address();
        if tokio::net::TcpStream::connect(&address).await.is_err() {
            let _ = self.command("kill", &[]).await;
            self.start_again().await;
        }
    }

    async fn run(&self, verb: &str, arguments: &[&str]) -> String {
        match self.command(verb, arguments).await {
            Ok(output) => output,
            Err(message) => panic!("{} {verb} {arguments:?}: {message}", self.script.display()),
        }
    }

    async fn command(&self, verb: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.script);
        command.arg(verb).arg(&self.directory).args(arguments).envs(self.environment.iter().cloned());
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("nothing panics there")
            .expect("the script can be run");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.trim().to_owned()) } else { Err(format!("{out}{err}")) }
    }

    /// Ends it for good; called once, by the rig, which owns it.
    pub(crate) fn end(&self) {
        let _ = Command::new(&self.script).arg("resume").arg(&self.directory).output();
        let _ = Command::new(&self.script).arg("stop").arg(&self.directory).output();
    }
}
