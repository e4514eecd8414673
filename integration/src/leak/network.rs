//! Links and packet filter rules of the node's network namespace.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::Scope;

pub(super) fn links(scope: &Scope<'_>) -> Result<BTreeSet<String>> {
    let text = run(scope, "ip", &["-o", "link", "show"])?;
    let names = text.lines().filter_map(|line| line.split(": ").nth(1));
    Ok(names.map(str::to_owned).collect())
}

pub(super) fn rules(scope: &Scope<'_>) -> Result<BTreeSet<String>> {
    let text = run(scope, "nft", &["--stateless", "list", "ruleset"])?;
    let mut table = String::new();
    let mut rules = BTreeSet::new();
    for line in text.lines().map(str::trim).filter(|line| *line != "}") {
        if line.starts_with("table ") {
            table = line.trim_end_matches(" {").to_owned();
            rules.insert(table.clone());
        } else if !line.is_empty() {
            rules.insert(format!("{table}: {line}"));
        }
    }
    Ok(rules)
}

fn run(scope: &Scope<'_>, program: &str, arguments: &[&str]) -> Result<String> {
    let output = scope.netns.enter(|| {
        let mut command = Command::new(program);
        command.args(arguments);
        command
            .output()
            .with_context(|| format!("run {program} (packages iproute2 and nftables)"))
    })?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
