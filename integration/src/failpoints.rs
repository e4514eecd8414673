//! The boundaries between an agent's steps, and dying at each of them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

/// The variable that makes an agent write down each boundary that it passes.
pub const TRACE: &str = "BERTH_FAILPOINT_TRACE";
/// The variable that arms failpoints.
pub const ARM: &str = "BERTH_FAILPOINTS";

/// A boundary, and at which of its passes to act, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boundary {
    /// `operation.phase`, with a step where there are several.
    pub name: String,
    /// Which pass.
    pub pass: usize,
}

impl Boundary {
    /// The value of [`ARM`] that kills the agent there.
    #[must_use]
    pub fn kill(&self) -> String {
        format!("{}={}*kill", self.name, self.pass)
    }

    /// The value of [`ARM`] that makes the step hang for so long.
    #[must_use]
    pub fn hang(&self, milliseconds: u64) -> String {
        format!("{}={}*delay({milliseconds})", self.name, self.pass)
    }

    /// The value of [`ARM`] that makes the step fail.
    #[must_use]
    pub fn error(&self) -> String {
        format!("{}={}*error", self.name, self.pass)
    }
}

/// The boundaries of a trace, each pass of each name, in order.
///
/// # Errors
/// If the trace cannot be read.
pub fn read_trace(path: &Path) -> Result<Vec<Boundary>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut passes: BTreeMap<&str, usize> = BTreeMap::new();
    let boundaries = text.lines().map(|name| {
        let pass = passes.entry(name).or_default();
        *pass += 1;
        Boundary {
            name: name.to_owned(),
            pass: *pass,
        }
    });
    Ok(boundaries.collect())
}
