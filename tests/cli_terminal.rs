//! The command line on a terminal: what is gone for good is asked for first, and colours are not forced on anybody.
//!
//! `script` of util-linux makes the terminal.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_metagov");

/// What a command prints on a terminal in an empty directory where somebody types this, with these variables.
fn on_a_terminal(dir: &TempDir, line: &str, typed: &str, environment: &[(&str, &str)]) -> (i32, String) {
    let inherited = std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("METAGOV_"));
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("{PROGRAM} {line}"), "/dev/null"])
        .current_dir(dir.path())
        .env_clear()
        .envs(inherited.filter(|(name, _)| name != "NO_COLOR"))
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux is there");
    child.stdin.take().expect("it is piped").write_all(typed.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    (output.status.code().expect("it was not killed"), String::from_utf8(output.stdout).expect("it is UTF-8"))
}

#[test]
fn what_is_gone_for_good_is_asked_for_before_anything_is_touched() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (line, question) in [
        ("community delete demo", "Delete the community 'demo' with all its plugins and processes? [y/N]"),
        ("dead discard --all", "Delete every dead letter for good? [y/N]"),
    ] {
        for no in ["\n", "n\n", "maybe\n"] {
            let (code, said) = on_a_terminal(&dir, line, no, &[("TERM", "xterm")]);
            // No service was looked for, and none was missed.
            assert_eq!(code, 0, "{line}: {said}");
            assert!(said.contains(question) && said.contains("nothing was d"), "{line}: {said}");
        }
        let (code, said) = on_a_terminal(&dir, line, "y\n", &[("TERM", "xterm")]);
        assert_eq!(code, 5, "{line}: {said}");
        let (code, said) = on_a_terminal(&dir, &format!("{line} --yes"), "", &[("TERM", "xterm")]);
        assert!(code == 5 && !said.contains("[y/N]"), "{line}: {said}");
    }
}

#[test]
fn colours_appear_on_a_terminal_that_has_them_and_for_whom_wants_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let coloured = |environment: &[(&str, &str)]| {
        let (list, words) = (
            on_a_terminal(&dir, "plugins list", "", environment).1,
            on_a_terminal(&dir, "community get demo", "", environment).1,
        );
        assert!(list.contains("randomness") && words.contains("error:"), "{list} {words}");
        [list, words].map(|text| text.contains('\u{1b}'))
    };
    assert_eq!(coloured(&[("TERM", "xterm")]), [true, true]);
    assert_eq!(coloured(&[("TERM", "dumb")]), [false, false]);
    assert_eq!(coloured(&[("TERM", "xterm"), ("NO_COLOR", "1")]), [false, false]);
}
