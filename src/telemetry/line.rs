//! One line of the log on its way out: it forges nothing, tells no password, and never fails.
//!
//! Whatever a library or a stranger's text puts into a line passes here, once it is whole: control characters are shown
//! instead of obeyed, and secrets in URLs and in `name=value` are masked. A line that cannot be written is lost, and
//! nothing else: the log's reader may have gone, or its disk be full, and the service has other work. Up:
//! [`super::start`]. Down: stderr.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use metagov_sdk::schema::MASK;

use crate::config::mask_url;

/// What ends a URL or a value in running text.
const ENDS: [char; 10] = [' ', '\n', '\t', '"', '\'', '`', '<', '>', '\\', '\x1b'];

/// What stands between a name and its value: in the lines of both formats, with colours and without.
const LINKS: [&str; 5] = ["=\"", "\":\"", "=", "\x1b[0m\x1b[2m=\x1b[0m\"", "\x1b[0m\x1b[2m=\x1b[0m"];

/// Writes whole lines.
pub(super) struct Line<W> {
    to: W,
    coloured: bool,
}

impl<W: Write> Line<W> {
    /// With colours, the escapes that make them stay; those in values were taken out before.
    pub(super) fn new(to: W, coloured: bool) -> Self {
        Self { to, coloured }
    }
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let mut line = shown(&mask(text.trim_end_matches('\n')), self.coloured).into_owned();
        line.push('\n');
        // There is nowhere left to report it.
        let _ = self.to.write_all(line.as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.to.flush();
        Ok(())
    }
}

/// Control characters in the notation of Rust.
fn shown(line: &str, coloured: bool) -> Cow<'_, str> {
    let is_obeyed = |c: char| c.is_control() && !(coloured && c == '\x1b') && c != '\t';
    if !line.contains(is_obeyed) {
        return line.into();
    }
    let mut shown = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if is_obeyed(c) {
            let _ = write!(shown, "{}", c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// The line without passwords, wherever they come from.
fn mask(line: &str) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let start = rest[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).map_or(0, |c| c + 1);
        let end = rest[at..].find(ENDS).map_or(rest.len(), |length| at + length);
        // What stands before it may end in a character of more than one byte.
        let start = (start..=at).find(|start| rest.is_char_boundary(*start)).unwrap_or(at);
        masked.push_str(&rest[..start]);
        masked.push_str(&mask_url(&rest[start..end]));
        rest = &rest[end..];
    }
    masked.push_str(rest);
    mask_values(masked)
}

/// The same for what is no part of a URL: `sslpassword=…`, `"token":"…"`.
fn mask_values(mut line: String) -> String {
    for link in LINKS {
        let mut from = 0;
        while let Some(at) = line[from..].find(link).map(|at| from + at) {
            let value = at + link.len();
            let name = line[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').next();
            if name.is_some_and(is_secret) {
                let end =
                    line[value..].find(|c| c == '&' || ENDS.contains(&c)).map_or(line.len(), |length| value + length);
                if end > value {
                    line.replace_range(value..end, MASK);
                }
            }
            from = value;
        }
    }
    line
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passwd", "secret", "token"].iter().any(|word| name.ends_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, coloured: bool) -> String {
        let mut written = Vec::new();
        Line::new(&mut written, coloured).write_all(text.as_bytes()).expect("it never fails");
        String::from_utf8(written).expect("text")
    }

    #[test]
    fn one_event_is_one_line_whatever_is_in_it() {
        let forged = "WARN unknown key action.x\n2026-01-01 ERROR all is lost\x1b[2J\r\u{9b}1m\u{7f}\n";
        let shown = "WARN unknown key action.x\\n2026-01-01 ERROR all is lost\\u{1b}[2J\\r\\u{9b}1m\\u{7f}\n";
        assert_eq!(line(forged, false), shown);
        assert_eq!(line("\x1b[2mINFO\x1b[0m a\tb ü\n", true), "\x1b[2mINFO\x1b[0m a\tb ü\n");
    }

    #[test]
    fn secrets_are_masked_in_every_line() {
        for told in [
            "cannot use postgres://u:hunter2@h/d?sslpassword=hunter2&sslmode=require now",
            "error=\"amqps://u:hunter2@[::1]:5671/%2f\" what=that",
            r#"{"message":"at amqp://u:hunter2@h","sslpassword":"hunter2"}"#,
            "ignored sslpassword=hunter2",
            "ignored access_token=\"hunter2\" next=1",
            "ühttps://h/?client_secret=hunter2",
            "two https://a:hunter2@h https://b:hunter2@h/",
        ] {
            let written = line(told, false);
            assert!(!written.contains("hunter2"), "{written}");
            assert!(written.contains(MASK), "{written}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for told in ["plain", "a=1 b=\"two\"", "https://h:8080/p?q=1#f", "x://", "://", "ü://ü", "token=", "é=é"] {
            assert_eq!(line(told, false), format!("{told}\n"));
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_no_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut full = Line::new(Full, false);
        assert!(full.write_all(b"lost").is_ok() && full.flush().is_ok());
    }
}
