//! Failpoints: `BERTH_FAILPOINTS="run-pod-sandbox.netns=kill;pull.fetch=error"`.
//!
//! Grammar: entries separated by `;`, each `NAME=ACTION` or `NAME=N*ACTION`
//! (only at the Nth hit, counted from 1). NAME is `operation.phase`,
//! `operation.phase.step` or `operation.done`. ACTION is `kill` (SIGKILL to
//! this process), `error`, `panic`, `delay(MILLISECONDS)` or `off`.
//! `BERTH_FAILPOINT_TRACE=FILE` appends the name of every boundary that is
//! passed, so that a sweep can enumerate them from one clean run.

use std::{
    collections::HashMap,
    fmt,
    fs::{File, OpenOptions},
    io::Write as _,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::Phase;

/// The error that a failpoint asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected(String);

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failpoint {} asked for an error", self.0)
    }
}

impl std::error::Error for Injected {}

/// Why a failpoint specification was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "failpoint {:?}: expected NAME=[N*]kill|error|panic|delay(MS)|off",
            self.0
        )
    }
}

impl std::error::Error for ParseError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Error,
    Panic,
    Delay(Duration),
    Off,
}

#[derive(Debug)]
struct Point {
    action: Action,
    /// Act only at this hit; 0 means at every one.
    only_at: u64,
    hits: u64,
}

#[derive(Debug, Default)]
struct Table {
    points: HashMap<String, Point>,
    trace: Option<File>,
}

// One relaxed load is all that a production run pays per boundary.
static ARMED: AtomicBool = AtomicBool::new(false);
static TABLE: OnceLock<Mutex<Table>> = OnceLock::new();

/// Arms the failpoints that the environment names; without the variables this does nothing.
///
/// # Errors
/// [`ParseError`] if `BERTH_FAILPOINTS` does not parse; none is armed then.
pub fn configure_from_env() -> Result<(), ParseError> {
    let spec = std::env::var("BERTH_FAILPOINTS").unwrap_or_default();
    let trace = std::env::var_os("BERTH_FAILPOINT_TRACE");
    if spec.is_empty() && trace.is_none() {
        return Ok(());
    }
    configure(&spec)?;
    if let Some(path) = trace {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| ParseError(format!("{}: {error}", path.display())))?;
        with_table(|table| table.trace = Some(file));
    }
    Ok(())
}

/// Replaces the armed failpoints by those of `spec`.
///
/// # Errors
/// [`ParseError`] if `spec` does not parse; what was armed stays.
pub fn configure(spec: &str) -> Result<(), ParseError> {
    let mut points = HashMap::new();
    for entry in spec.split(';').map(str::trim).filter(|e| !e.is_empty()) {
        let (name, point) = parse(entry).ok_or_else(|| ParseError(entry.to_owned()))?;
        points.insert(name, point);
    }
    with_table(|table| table.points = points);
    ARMED.store(true, Ordering::Release);
    Ok(())
}

fn parse(entry: &str) -> Option<(String, Point)> {
    let (name, action) = entry.split_once('=')?;
    let (only_at, action) = match action.split_once('*') {
        Some((count, action)) => (count.parse().ok()?, action),
        None => (0, action),
    };
    let action = match action {
        "kill" => Action::Kill,
        "error" => Action::Error,
        "panic" => Action::Panic,
        "off" => Action::Off,
        other => {
            let ms = other.strip_prefix("delay(")?.strip_suffix(')')?;
            Action::Delay(Duration::from_millis(ms.parse().ok()?))
        }
    };
    let point = Point {
        action,
        only_at,
        hits: 0,
    };
    (!name.is_empty()).then(|| (name.to_owned(), point))
}

pub(crate) fn hit(operation: &str, phase: Phase, step: &str) -> Result<(), Injected> {
    if !ARMED.load(Ordering::Relaxed) {
        return Ok(());
    }
    if step.is_empty() {
        hit_armed(format!("{operation}.{phase}"))
    } else {
        hit_armed(format!("{operation}.{phase}.{step}"))
    }
}

pub(crate) fn hit_named(operation: &str, name: &str) -> Result<(), Injected> {
    if !ARMED.load(Ordering::Relaxed) {
        return Ok(());
    }
    hit_armed(format!("{operation}.{name}"))
}

fn hit_armed(name: String) -> Result<(), Injected> {
    let action = with_table(|table| {
        if let Some(trace) = &mut table.trace {
            // One write per line; a trace that cannot be written fails the sweep by its absence.
            let line = format!("{name}\n");
            if trace.write_all(line.as_bytes()).is_err() {
                table.trace = None;
            }
        }
        let point = table.points.get_mut(&name)?;
        point.hits += 1;
        (point.only_at == 0 || point.only_at == point.hits).then_some(point.action)
    });
    match action {
        None | Some(Action::Off) => Ok(()),
        Some(Action::Error) => Err(Injected(name)),
        Some(Action::Panic) => panic!("failpoint {name} asked for a panic"),
        Some(Action::Delay(time)) => {
            thread::sleep(time);
            Ok(())
        }
        Some(Action::Kill) => kill_self(),
    }
}

/// As a crash would have it: no destructor, no buffer, no handler.
fn kill_self() -> ! {
    loop {
        // A child with `kill -9` needs neither unsafe code nor a dependency here.
        let pid = std::process::id().to_string();
        match std::process::Command::new("kill")
            .args(["-9", &pid])
            .status()
        {
            Ok(_) => thread::sleep(Duration::from_secs(1)),
            Err(_) => std::process::abort(),
        }
    }
}

fn with_table<T>(f: impl FnOnce(&mut Table) -> T) -> T {
    let table = TABLE.get_or_init(Mutex::default);
    f(&mut table.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_acts_only_at_the_hit_it_names() {
        configure("t.netns=2*error;t.mount.bind=error;t.exec=off").unwrap();
        assert!(hit("t", Phase::Netns, "").is_ok());
        assert!(hit("t", Phase::Netns, "").is_err());
        assert!(hit("t", Phase::Netns, "").is_ok());
        assert!(hit("t", Phase::Mount, "").is_ok());
        assert!(hit("t", Phase::Mount, "bind").is_err());
        assert!(hit("t", Phase::Exec, "").is_ok());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["x", "=kill", "x=boom", "x=delay(a)", "x=q*kill"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
