//! What a shim costs while many containers run.

use std::fs;

use anyhow::{Context as _, Result};

use crate::engines::ShimPath;

/// KiB of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) pss: f64,
    pub(crate) private: f64,
    pub(crate) rss: f64,
}

/// Runs `count` containers and reads what each of their shims has.
pub(crate) fn measure(engine: &ShimPath<'_>, count: usize) -> Result<Vec<Memory>> {
    let mut containers = Vec::new();
    for number in 0..count {
        containers.push(engine.run(&format!("memory-{number}"))?);
    }
    let read = containers
        .iter()
        .map(|container| of(container.shim_process.pid))
        .collect();
    for container in containers {
        engine.end(container)?;
    }
    read
}

fn of(pid: i32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |key: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        Ok(number.with_context(|| format!("no {key}"))?.parse()?)
    };
    Ok(Memory {
        pss: field("Pss:")?,
        private: field("Private_Clean:")? + field("Private_Dirty:")?,
        rss: field("Rss:")?,
    })
}
