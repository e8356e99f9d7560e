//! Servers that a test may break: a RabbitMQ node and a PostgreSQL cluster of its own, by the scripts of
//! `tests/services`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A server in a directory of its own.
pub(crate) struct Server {
    script: PathBuf,
    directory: PathBuf,
    pub(crate) url: String,
}

impl Server {
    /// Starts `rabbitmq` or `postgres`.
    pub(crate) fn start(service: &str, directory: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services").join(service);
        let mut server = Self { script, directory: directory.join(service), url: String::new() };
        server.url = server.run("start");
        server
    }

    /// Stops it in order and starts it on the same port.
    pub(crate) fn restart(&self) {
        self.run("restart");
    }

    fn run(&self, verb: &str) -> String {
        let output = Command::new(&self.script).arg(verb).arg(&self.directory).output().expect("the script can be run");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{} {verb}: {out}{err}", self.script.display());
        out.trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("stop").arg(&self.directory).output();
    }
}
