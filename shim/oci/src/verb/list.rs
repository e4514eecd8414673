//! `list`: every container below the root.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    cli::{self, Format},
    container::{Container, Status},
    verb::Context,
};

pub(super) fn run(context: &Context<'_>, args: &cli::List) -> Result<()> {
    let containers = all(context.root)?;
    if args.quiet {
        let names = containers.iter().map(|one| format!("{}\n", one.record.id));
        super::print(&names.collect::<String>());
        return Ok(());
    }
    if args.format == Format::Json {
        let states = containers
            .iter()
            .map(|one| Ok(one.state(one.status()?)))
            .collect::<Result<Vec<Value>>>()?;
        return super::print_json(&states);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    for one in &containers {
        let status = one.status()?;
        let pid = if status == Status::Stopped {
            0
        } else {
            one.record.pid
        };
        rows.push([
            one.record.id.clone(),
            pid.to_string(),
            status.name().to_owned(),
            one.record.bundle.display().to_string(),
            one.record.created.clone(),
            "root".to_owned(),
        ]);
    }
    super::print(&table(&rows));
    Ok(())
}

/// By name. One that is removed meanwhile is left out.
fn all(root: &Path) -> Result<Vec<Container>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("listing {}", root.display()))?,
    };
    let mut containers = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Ok(container) = Container::find(root, &name) {
            containers.push(container);
        }
    }
    containers.sort_by(|one, other| one.record.id.cmp(&other.record.id));
    Ok(containers)
}

fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:<width$}   "))
            .collect();
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}
