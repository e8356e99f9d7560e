//! Commands: a routing key on the first line, a body on the rest.
//!
//! What is read and written again is the same; what is refused is told in a problem of bounded size that can be read.

use metagov_sdk::contract::{Command, Problem, ProblemKind};

/// Neither a body nor a key of any size makes a longer problem.
const LONGEST_PROBLEM: usize = 32 * 1024;

/// Panics where the property does not hold.
pub(crate) fn holds(input: &[u8]) {
    let (key, body) = input.split_at(input.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let (Ok(key), body) = (std::str::from_utf8(key), body.strip_prefix(b"\n").unwrap_or(body)) else { return };
    match Command::decode(key, body) {
        Ok(command) => {
            assert_eq!(command.key().to_string(), key, "another key than it came under");
            assert!(key.len() <= 255, "a command that no broker can carry");
            let written = command.body();
            assert!(!written.windows(6).any(|six| six == b"\\u0000"), "no database keeps the character NUL");
            assert_eq!(Command::decode(key, &written), Ok(command), "what was written reads as something else");
        }
        Err(refused) => {
            let kinds = [ProblemKind::InvalidJson, ProblemKind::InvalidCommand, ProblemKind::UnknownCommand];
            assert!(kinds.contains(&refused.problem.kind), "{}", refused.problem);
            let told = serde_json::to_string(&refused.problem).expect("a problem is plain data");
            assert!(told.len() <= LONGEST_PROBLEM, "a problem of {} bytes", told.len());
            assert_eq!(serde_json::from_str::<Problem>(&told).ok(), Some(refused.problem), "it cannot be read");
        }
    }
}
