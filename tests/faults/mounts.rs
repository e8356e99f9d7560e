//! A disk of a scenario's own, small enough to be filled: a tmpfs. It takes root to mount one. Whatever becomes of the
//! scenario, it is gone afterwards.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use crate::servers::Server;

/// The file that takes what room there is.
const BALLAST: &str = "ballast";

/// A small file system.
pub(crate) struct Disk {
    /// Where it is mounted.
    pub(crate) path: PathBuf,
    tablespace: Option<Tablespace>,
}

impl Disk {
    /// Mounts one of this size in a directory.
    ///
    /// # Panics
    /// Where that is not allowed.
    pub(crate) fn mount(directory: &Path, name: &str, mib: u32) -> Self {
        let path = directory.join(name);
        fs::create_dir(&path).expect("the directory is ours");
        let size = format!("size={mib}m,mode=0755");
        if let Err(message) = run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs"], &path) {
            panic!("a disk that can be filled is a tmpfs, and only root may mount one: {message}");
        }
        Self { path, tablespace: None }
    }

    /// Moves a database of PostgreSQL here, with all that it will ever write but its log. Nobody may be connected to it.
    ///
    /// # Panics
    /// Where PostgreSQL refuses.
    pub(crate) fn take_in(&mut self, server: &Server, database: &str) {
        run("chown", &["postgres:"], &self.path).expect("whoever may mount may do this");
        self.tablespace = Some(Tablespace { server: server.clone(), name: database.to_owned() });
        let create = format!("CREATE TABLESPACE {database} LOCATION '{}'", self.path.display());
        let take_in = format!("ALTER DATABASE {database} SET TABLESPACE {database}");
        server.sql(&[&create, &take_in]).expect("the rig may do everything there");
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) {
        let mut ballast = File::create(self.path.join(BALLAST)).expect("the disk is ours");
        let full = loop {
            if let Err(error) = ballast.write_all(&[0x5a; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "the disk takes no more, and not because it is full: {full}");
    }

    /// Gives it back.
    pub(crate) fn free(&self) {
        fs::remove_file(self.path.join(BALLAST)).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path.join(BALLAST));
        drop(self.tablespace.take());
        // Lazily: whoever still has a file open there keeps it, and nobody else sees it any more.
        if let Err(message) = run("umount", &["--lazy"], &self.path) {
            eprintln!("{} is still mounted: {message}", self.path.display());
        }
    }
}

/// The part of a PostgreSQL that lies on a disk. While the server knows of it, it cannot recover from a crash without that
/// disk.
struct Tablespace {
    server: Server,
    /// Of the database that it was made for, too.
    name: String,
}

impl Drop for Tablespace {
    fn drop(&mut self) {
        let database = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let space = format!("DROP TABLESPACE IF EXISTS {}", self.name);
        if let Err(message) = self.server.sql(&[&database, &space, "CHECKPOINT"]) {
            eprintln!("PostgreSQL still knows of a disk that is gone: {message}");
        }
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new(program).args(arguments).arg(path).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
