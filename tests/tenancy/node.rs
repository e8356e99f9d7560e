//! A RabbitMQ node of the test's own, by the script of `tests/services`: its users and permissions may be changed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A node in a directory of its own; it stops when this is dropped.
pub(crate) struct Node {
    directory: PathBuf,
    /// `host:port`, for URLs of any user.
    pub(crate) address: String,
}

impl Node {
    pub(crate) fn start(directory: &Path) -> Self {
        let mut node = Self { directory: directory.join("rabbitmq"), address: String::new() };
        let url = node.run("start", &[]);
        let (_, rest) = url.split_once('@').expect("the URL has a user");
        rest.trim_end_matches("/%2f").clone_into(&mut node.address);
        node
    }

    /// `rabbitmqctl` on it; what it says.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        self.run("ctl", arguments)
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/rabbitmq");
        let output = Command::new(script)
            .arg(verb)
            .arg(&self.directory)
            .args(arguments)
            .output()
            .expect("the script can be run");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "rabbitmq {verb} {arguments:?}: {out}{err}");
        out.trim().to_owned()
    }

    /// The URL of a user whose password is its name.
    pub(crate) fn url(&self, user: &str) -> String {
        format!("amqp://{user}:{user}@{}/%2f", self.address)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/rabbitmq");
        let _ = Command::new(script).arg("stop").arg(&self.directory).output();
    }
}
