//! `ps`: the processes of a container, in ps(1)'s words.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{
    cli::{self, Format},
    container::Container,
    verb::Context,
};

pub(super) fn run(context: &Context<'_>, args: &cli::Ps) -> Result<()> {
    let container = Container::find(context.root, &args.id)?;
    let pids = match container.group()? {
        Some(group) => group.processes().context("listing the processes")?,
        None => Vec::new(),
    };
    if args.format == Format::Json {
        return super::print_json(&pids);
    }
    let options: Vec<&str> = match args.options.as_slice() {
        [] => vec!["-ef"],
        given => given.iter().map(String::as_str).collect(),
    };
    let output = Command::new("ps").args(options).output().context("ps")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("ps: {}: {}", output.status, words.trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    super::print(&filter(&text, &pids)?);
    Ok(())
}

/// The heading and the lines of these processes.
fn filter(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading
        .split_whitespace()
        .position(|title| title == "PID")
        .context("ps prints no column PID")?;
    let mut kept = vec![heading];
    for line in lines {
        let pid = line.split_whitespace().nth(column);
        if pid
            .and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
        {
            kept.push(line);
        }
    }
    Ok(kept.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_own_processes_are_shown() {
        let text = "UID   PID  PPID CMD\nroot  12  1 a 13\nroot  13  1 b\n";
        assert_eq!(
            filter(text, &[13]).unwrap(),
            "UID   PID  PPID CMD\nroot  13  1 b\n"
        );
        assert!(filter("CMD\nx\n", &[1]).is_err());
    }
}
