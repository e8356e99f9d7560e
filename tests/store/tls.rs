//! TLS with PostgreSQL, with certificates of one's own: used where all is right, else refused in one line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use metagov::store::{Settings, Store};

use crate::certificates::Authority;

/// A PostgreSQL of the test's own, which speaks TLS.
struct Server {
    script: PathBuf,
    directory: PathBuf,
    url: String,
}

impl Server {
    fn start(directory: &Path, settings: &[String]) -> Self {
        let services = std::env::var("METAGOV_TEST_SERVICES")
            .expect("METAGOV_TEST_SERVICES is not set: run tests/run, which knows where the scripts are");
        let script = PathBuf::from(services).join("postgres");
        let mut server = Self { script, directory: directory.join("server"), url: String::new() };
        server.url = server.tell("start", settings);
        server
    }

    /// A verb of `tests/services/postgres`.
    fn tell(&self, verb: &str, arguments: &[String]) -> String {
        let mut command = Command::new(&self.script);
        let output = command.arg(verb).arg(&self.directory).args(arguments).output().expect("it can be run");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "postgres {verb} {arguments:?}: {out}{err}");
        out.trim().to_owned()
    }

    /// Changes one of its files; it is read at the next [`Self::reload`].
    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.directory.join("data").join(name), bytes).expect("the server was started");
    }

    fn reload(&self) {
        self.tell("ctl", &["reload".to_owned()]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("stop").arg(&self.directory).output();
    }
}

async fn opens(url: String) -> Result<(), String> {
    let opened = Store::connect(&Settings { url, max_connections: 2 }).await;
    opened.map(drop).map_err(|error| error.to_string())
}

async fn refused(url: &str, said: &str) {
    let why = opens(url.to_owned()).await.expect_err(url);
    assert!(why.contains(said) && why.lines().count() == 1 && !why.contains("hunter2"), "{url}: {said}: {why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_an_authority_of_its_own_is_used_and_every_other_one_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    // PostgreSQL runs as a user of its own, who has to get through.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    fs::set_permissions(directory.path(), mode).expect("the directory is ours");
    let (ours, others) = (Authority::new(directory.path(), "ours"), Authority::new(directory.path(), "others"));
    let (certificate, key) = ours.sign("database", 2);
    let (client, client_key) = ours.sign("client", 2);
    let (stranger, stranger_key) = others.sign("stranger", 2);
    let (expired, expired_key) = ours.sign("expired", -1);
    let server = Server::start(
        directory.path(),
        &[
            "ssl=on".to_owned(),
            format!("ssl_ca_file={}", ours.certificate().display()),
            format!("ssl_cert_file={}", certificate.display()),
            format!("ssl_key_file={}", key.display()),
        ],
    );
    let psql = ["--command", "CREATE ROLE clerk LOGIN"].map(str::to_owned);
    server.tell("sql", &psql);
    // The superuser comes in as before; the clerk over TLS only, and shows a certificate.
    let rules = "hostssl all clerk 127.0.0.1/32 trust clientcert=verify-ca\nhost all postgres 127.0.0.1/32 trust\n";
    server.write("pg_hba.conf", rules.as_bytes());
    server.reload();

    let plain = server.url.clone();
    let clerks = plain.replace("postgres@", "clerk:hunter2@");
    let ca = format!("sslrootcert={}", ours.certificate().display());
    let pair = |certificate: &Path, key: &Path| format!("sslcert={}&sslkey={}", certificate.display(), key.display());
    let verified = format!("{plain}?sslmode=verify-full&{ca}");
    let shown = format!("{clerks}?sslmode=verify-full&{ca}&{}", pair(&client, &client_key));
    for url in [&verified, &shown] {
        opens(url.clone()).await.unwrap_or_else(|why| panic!("{url}: {why}"));
    }
    // What is not checked is not refused: the operator asked for it.
    opens(format!("{plain}?sslmode=require")).await.expect("nothing is checked");
    opens(format!("{}?sslmode=verify-ca&{ca}", plain.replace("127.0.0.1", "localhost")))
        .await
        .expect("the name is not");

    let other = format!("{plain}?sslmode=verify-full&sslrootcert={}", others.certificate().display());
    refused(&other, "signed by no authority that we know").await;
    refused(&format!("{plain}?sslmode=verify-full"), "signed by no authority that we know").await;
    refused(&verified.replace("127.0.0.1", "localhost"), "for another name").await;
    refused(&format!("{clerks}?sslmode=verify-full&{ca}"), "(code 28000)").await;
    let strange = format!("{clerks}?sslmode=verify-full&{ca}&{}", pair(&stranger, &stranger_key));
    refused(&strange, "does not accept the certificate").await;
    refused(&format!("{clerks}?sslmode=disable"), "no encryption").await;
    refused(&format!("{plain}?{ca}"), "sslmode=verify-full").await;
    refused(&format!("{plain}?sslmode=require&{ca}"), "sslmode=verify-full").await;
    let absent = directory.path().join("absent.pem");
    refused(&format!("{plain}?sslmode=verify-full&sslrootcert={}", absent.display()), "absent.pem").await;
    refused(&format!("{plain}?sslmode=verify-full&sslrootcert={}", key.display()), "holds no certificate").await;
    refused(&format!("{shown}&sslkey={}", absent.display()), "absent.pem").await;

    server.write("ssl_cert_file", &fs::read(expired).expect("a certificate"));
    server.write("ssl_key_file", &fs::read(expired_key).expect("a key"));
    server.reload();
    refused(&verified, "has expired").await;

    let plaintext = std::env::var("METAGOV_TEST_DATABASE_URL").expect("tests/run sets it");
    refused(&format!("{plaintext}?sslmode=verify-full&{ca}"), "server does not support TLS").await;
}
