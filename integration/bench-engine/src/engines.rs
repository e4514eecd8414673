//! What is measured: each engine lives a container's life and runs an exec.

mod bare;
mod command;
mod shim;

use std::time::Instant;

use anyhow::Result;

pub(crate) use self::{bare::Bare, command::CommandLine, shim::ShimPath};

/// Milliseconds of the parts of one life.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Life {
    pub(crate) create: f64,
    pub(crate) start: f64,
    pub(crate) wait: f64,
    pub(crate) delete: f64,
    pub(crate) whole: f64,
}

/// Milliseconds of one exec: until the program runs, and until its end is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exec {
    pub(crate) running: Option<f64>,
    pub(crate) ended: f64,
}

/// An engine under measurement.
pub(crate) trait Engine {
    fn name(&self) -> &'static str;

    /// Creates, starts, awaits and deletes a container of `/bin/true`.
    fn life(&mut self) -> Result<Life>;

    /// Makes a container that stays, for execs.
    fn settle(&mut self) -> Result<()>;

    /// Runs `/bin/true` in it.
    fn exec(&mut self) -> Result<Exec>;

    /// Ends it.
    fn unsettle(&mut self) -> Result<()>;
}

/// Milliseconds since the last call.
#[derive(Debug)]
pub(crate) struct Watch(Instant);

impl Watch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let passed = now - self.0;
        self.0 = now;
        passed.as_secs_f64() * 1e3
    }
}
