//! The rows that scenarios end in, and the table that they make: on the terminal, and in `README.md` between its marks.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, time::Duration};

use crate::{checker::Tally, rig::Size};

/// What a scenario found.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// `T01`.
    pub(crate) id: &'static str,
    done: String,
    tally: Option<Tally>,
    figures: Vec<Figure>,
}

/// A figure against its limit.
#[derive(Debug, Clone)]
struct Figure {
    name: String,
    value: String,
    limit: String,
    kept: bool,
    /// Whether it is a time: whatever else the machine does is in it.
    timed: bool,
}

impl Row {
    /// A row of the scenario `id` in which this was done.
    pub(crate) fn new(id: &'static str, done: impl Into<String>) -> Self {
        Self { id, done: done.into(), tally: None, figures: Vec::new() }
    }

    /// The counts, and with them the line that every scenario must keep: nothing lost, doubled, unexpected or stuck.
    pub(crate) fn counts(mut self, tally: Tally) -> Self {
        let zero = |name: &str, value: usize| Figure::new(name, value.to_string(), "0".to_owned(), value == 0);
        let broken = [
            zero("lost", tally.lost),
            zero("duplicated", tally.duplicated),
            zero("unexpected", tally.unexpected),
            zero("stuck", tally.stuck),
            zero("stored and never heard", tally.unheard),
            zero("events that differ under one id", tally.differing),
            zero("processes whose sequence has gaps", tally.gaps),
            Figure::new("ok", tally.ok.to_string(), format!("= {}", tally.attempted), tally.ok == tally.attempted),
        ];
        // A line that is kept stands in the counts already.
        self.figures.extend(broken.into_iter().filter(|figure| !figure.kept));
        self.tally = Some(tally);
        self
    }

    /// A figure that must not be larger.
    pub(crate) fn at_most(mut self, name: &str, value: usize, limit: usize) -> Self {
        self.figures.push(Figure::new(name, value.to_string(), format!("≤ {limit}"), value <= limit));
        self
    }

    /// A figure that must not be smaller: mostly that the fault did happen.
    pub(crate) fn at_least(mut self, name: &str, value: usize, limit: usize) -> Self {
        self.figures.push(Figure::new(name, value.to_string(), format!("≥ {limit}"), value >= limit));
        self
    }

    /// A figure that must be this one.
    pub(crate) fn exactly(mut self, name: &str, value: usize, limit: usize) -> Self {
        self.figures.push(Figure::new(name, value.to_string(), format!("= {limit}"), value == limit));
        self
    }

    /// A time that must not be longer, judged in full size; `None` is for ever, and too long in any size.
    pub(crate) fn within(mut self, name: &str, value: impl Into<Option<Duration>>, limit: Duration) -> Self {
        let value = value.into();
        let shown = value.map_or_else(|| "never".to_owned(), |value| format!("{value:.2?}"));
        let kept = value.is_some_and(|value| value <= limit);
        self.figures
            .push(Figure { timed: value.is_some(), ..Figure::new(name, shown, format!("≤ {limit:?}"), kept) });
        self
    }

    /// How many a second, which must not be fewer; judged in full size, as a time is.
    pub(crate) fn at_rate(mut self, name: &str, value: usize, limit: usize) -> Self {
        let figure = Figure::new(name, value.to_string(), format!("≥ {limit}"), value >= limit);
        self.figures.push(Figure { timed: true, ..figure });
        self
    }

    /// In the sizes of CI counts decide: a time has no limit there, and is only printed.
    pub(crate) fn judged_in(mut self, size: Size) -> Self {
        for figure in self.figures.iter_mut().filter(|figure| figure.timed && size == Size::Ci) {
            (figure.limit, figure.kept) = ("–".to_owned(), true);
        }
        self
    }

    /// Something that must hold.
    pub(crate) fn holds(mut self, name: &str, kept: bool) -> Self {
        self.figures.push(Figure::new(name, if kept { "yes" } else { "no" }.to_owned(), "yes".to_owned(), kept));
        self
    }

    /// A figure without a limit.
    pub(crate) fn note(mut self, name: &str, value: String) -> Self {
        self.figures.push(Figure::new(name, value, "–".to_owned(), true));
        self
    }

    /// Whether every limit was kept.
    pub(crate) fn passed(&self) -> bool {
        self.figures.iter().all(|figure| figure.kept)
    }

    /// The figures that broke their limits.
    pub(crate) fn broken(&self) -> String {
        let broken = self.figures.iter().filter(|figure| !figure.kept);
        broken
            .map(|figure| format!("{} {} ({})", figure.name, figure.value, figure.limit))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn cells(&self, date: &str) -> Vec<String> {
        let count =
            |of: fn(&Tally) -> usize| self.tally.as_ref().map_or_else(|| "–".to_owned(), |tally| of(tally).to_string());
        let join = |of: fn(&Figure) -> String| self.figures.iter().map(of).collect::<Vec<_>>().join("; ");
        vec![
            self.id.to_owned(),
            self.done.clone(),
            count(|tally| tally.attempted),
            count(|tally| tally.acknowledged),
            count(|tally| tally.ok),
            count(|tally| tally.lost),
            count(|tally| tally.duplicated),
            count(|tally| tally.recovered),
            count(|tally| tally.unexpected),
            join(|figure| format!("{} {}", figure.name, figure.value)),
            join(|figure| figure.limit.clone()),
            if self.passed() { "pass" } else { "FAIL" }.to_owned(),
            date.to_owned(),
        ]
    }
}

impl Figure {
    fn new(name: &str, value: String, limit: String, kept: bool) -> Self {
        Self { name: name.to_owned(), value, limit, kept, timed: false }
    }
}

const HEAD: &str = "\
| test | done | attempted | acknowledged | ok | lost | duplicated | recovered | unexpected | figure | limit | | on |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";
const BEGIN: &str = "<!-- written by tests/run --faults --write: begin -->";
const END: &str = "<!-- written by tests/run --faults --write: end -->";

/// All rows as Markdown, which terminals show well enough.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let date = today();
    let mut text = HEAD.to_owned();
    for row in rows {
        let _ = write!(text, "\n{}", line(&row.cells(&date)));
    }
    text
}

/// Writes the rows into the README beside this file; rows of other tests stay as earlier runs left them.
pub(crate) fn write(rows: &[Row]) -> anyhow::Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/faults/README.md");
    let text = fs::read_to_string(&path)?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
    let Some((before, (between, after))) = parts else { anyhow::bail!("{} has no marks", path.display()) };
    let mut lines: BTreeMap<String, String> = between
        .lines()
        .filter(|line| line.starts_with("| T"))
        .map(|line| (line[2..].split(' ').next().unwrap_or_default().to_owned(), line.to_owned()))
        .collect();
    let date = today();
    lines.extend(rows.iter().map(|row| (row.id.to_owned(), line(&row.cells(&date)))));
    let lines = lines.into_values().collect::<Vec<_>>().join("\n");
    let between = format!("\n{}\n\n{HEAD}\n{lines}\n", machine());
    Ok(fs::write(&path, format!("{before}{BEGIN}{between}{END}{after}"))?)
}

/// How large the machine is, for whoever compares figures.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = kib.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    format!(
        "Measured with {cores} cores and {} GiB of memory, servers and service together on them.",
        kib.div_ceil(1 << 20)
    )
}

fn line(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

fn today() -> String {
    metagov_sdk::Environment::system().clock.now().format("%Y-%m-%d").to_string()
}
