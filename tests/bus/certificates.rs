//! Certificates of a test's own, made by the command `openssl`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// An authority, whose files lie in a directory.
pub(crate) struct Authority<'a> {
    directory: &'a Path,
    name: &'static str,
}

impl<'a> Authority<'a> {
    pub(crate) fn new(directory: &'a Path, name: &'static str) -> Self {
        let authority = Self { directory, name };
        let (key, certificate) = (authority.file("key"), authority.file("pem"));
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -subj /CN={name} -days 2 \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign"
        ));
        authority
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join(format!("{}.pem", self.name))
    }

    /// Signs a certificate for 127.0.0.1, good for so many days: `name.pem` and `name.key`.
    pub(crate) fn sign(&self, name: &str, days: i32) -> (PathBuf, PathBuf) {
        let file = |ending: &str| self.directory.join(format!("{name}.{ending}")).display().to_string();
        let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        fs::write(file("ext"), extensions).expect("the directory can be written");
        let (key, request, certificate, extensions) = (file("key"), file("csr"), file("pem"), file("ext"));
        openssl(&format!("req -newkey rsa:2048 -nodes -keyout {key} -out {request} -subj /CN={name}"));
        let (ca, ca_key) = (self.file("pem"), self.file("key"));
        openssl(&format!(
            "x509 -req -in {request} -CA {ca} -CAkey {ca_key} -CAcreateserial -days {days} -extfile {extensions} \
             -out {certificate}"
        ));
        (certificate.into(), key.into())
    }

    fn file(&self, ending: &str) -> String {
        self.directory.join(format!("{}.{ending}", self.name)).display().to_string()
    }
}

fn openssl(line: &str) {
    let output = Command::new("openssl").args(line.split_whitespace()).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
}
