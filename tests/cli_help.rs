//! Every `--help`, as a reviewed snapshot: what people read first is changed on purpose only.

use std::process::Command;

fn help(path: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_metagov"))
        .args(path)
        .arg("--help")
        .env_remove("COLUMNS")
        .output()
        .expect("the program was built");
    assert_eq!(output.status.code(), Some(0), "{path:?}");
    assert!(output.stderr.is_empty(), "{path:?}");
    String::from_utf8(output.stdout).expect("help is UTF-8")
}

/// The subcommands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

fn collect(path: &[String], into: &mut String) {
    let text = help(path);
    let line = [&["$ metagov".to_owned()], path, &["--help".to_owned()]].concat().join(" ");
    into.push_str(&[line, text.clone()].join("\n"));
    into.push('\n');
    for name in commands(&text) {
        collect(&[path, &[name]].concat(), into);
    }
}

#[test]
fn every_help_is_as_reviewed() {
    let mut all = String::new();
    collect(&[], &mut all);
    insta::assert_snapshot!(all);
}
