//! The way of lines to stderr, for which nobody who has something to say ever waits.
//!
//! A pipe that nobody reads takes 64 KiB and then blocks each writer, for ever; a full disk refuses. So lines go into a
//! queue of bounded size, and one thread writes them out. What finds the queue full is dropped and counted; where the
//! writing goes on, a line says how many are missing there. `tracing-appender` does nearly this, but bounds lines and not
//! bytes, leaves no mark, and prints on stdout, waiting for it, where its queue is full at the end of the program.
//!
//! Up: [`super::start`], and the words of `src/cli`. Down: stderr.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use metrics::counter;
use tracing_subscriber::fmt::MakeWriter;

use super::measures;

/// How many bytes may wait.
const ROOM: usize = 1 << 20;

/// The entrance: a cheap handle.
#[derive(Clone)]
pub(super) struct Outlet {
    queue: Sender<Entry>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    waiting: AtomicUsize,
    /// Dropped since a line said so last.
    lost: AtomicU64,
}

enum Entry {
    /// A line, and how many were dropped just before it.
    Line(Vec<u8>, u64),
    /// To be answered when everything before it is out.
    Flush(Sender<()>),
}

impl Outlet {
    /// Begins to write; `tell` writes the line that says how many are missing.
    pub(super) fn open(to: impl Write + Send + 'static, tell: impl Fn(u64) + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = mpsc::channel();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        thread::Builder::new().name("log".into()).spawn(move || write_out(&entries, &shared, to, tell))?;
        Ok(Self { queue, state })
    }

    /// Takes a line in, unless too many wait.
    fn offer(&self, line: &[u8]) {
        if self.state.waiting.fetch_add(line.len(), Relaxed) + line.len() > ROOM {
            self.state.waiting.fetch_sub(line.len(), Relaxed);
            self.state.lost.fetch_add(1, Relaxed);
            counter!(measures::LOG_LINES_DROPPED).increment(1);
            return;
        }
        self.put(line, self.state.lost.swap(0, Relaxed));
    }

    /// Takes in what must not be dropped; there is little of it.
    pub(super) fn insist(&self, line: &[u8]) {
        self.state.waiting.fetch_add(line.len(), Relaxed);
        self.put(line, 0);
    }

    fn put(&self, line: &[u8], lost: u64) {
        // The thread ends with the process only.
        let _ = self.queue.send(Entry::Line(line.to_vec(), lost));
    }

    /// Waits until what was taken in is out, at most this long.
    pub(super) fn flush(&self, patience: Duration) {
        let (done, out) = mpsc::channel();
        if self.queue.send(Entry::Flush(done)).is_ok() {
            let _ = out.recv_timeout(patience);
        }
    }
}

fn write_out(entries: &Receiver<Entry>, state: &State, mut to: impl Write, tell: impl Fn(u64)) {
    let tell = |lost| {
        if lost > 0 {
            tell(lost);
        }
    };
    for entry in entries {
        match entry {
            Entry::Line(line, lost) => {
                tell(lost);
                // There is nowhere left to report it.
                let _ = to.write_all(&line);
                if state.waiting.fetch_sub(line.len(), Relaxed) == line.len() {
                    tell(state.lost.swap(0, Relaxed));
                }
            }
            Entry::Flush(done) => {
                let _ = to.flush();
                let _ = done.send(());
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Outlet {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Write for &Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.offer(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::SyncSender;

    use super::*;

    /// A reader that takes what it is let to take.
    struct Reader {
        lines: SyncSender<String>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let line = String::from_utf8_lossy(bytes).chars().take(20).collect();
            self.lines.send(line).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_missed_where_it_would_have_been() {
        let (lines, read) = mpsc::sync_channel(0);
        let notes = lines.clone();
        let outlet = Outlet::open(Reader { lines }, move |lost| {
            let _ = notes.send(format!("{lost} are missing"));
        })
        .expect("a thread can be started");
        let large = "x".repeat(ROOM / 4);
        for n in 0..10 {
            outlet.offer(format!("{n} {large}").as_bytes());
        }
        outlet.insist(b"an error");
        let mut kept = Vec::<String>::new();
        while kept.last().is_none_or(|line| !line.ends_with("missing")) {
            kept.push(read.recv().expect("a line").replace([' ', 'x'], ""));
        }
        assert_eq!(kept, ["0", "1", "2", "anerror", "7aremissing"]);
        outlet.offer(b"it goes on");
        assert_eq!(read.recv().expect("a line"), "it goes on");
        outlet.flush(Duration::from_mins(1));
        drop(read);
        outlet.offer(b"nobody reads");
        outlet.flush(Duration::from_mins(1));
    }

    #[test]
    fn a_flush_does_not_wait_for_ever() {
        let (lines, _read) = mpsc::sync_channel(0);
        let outlet = Outlet::open(Reader { lines }, |_| ()).expect("a thread can be started");
        outlet.offer(b"stuck");
        outlet.flush(Duration::from_millis(10));
    }
}
