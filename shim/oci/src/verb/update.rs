//! `update`: other limits for a container.

use std::{io::Read as _, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{cli, container::Container, verb::Context};

/// Larger input is a mistake.
const LARGEST: u64 = 1024 * 1024;

pub(super) fn run(context: &Context<'_>, args: &cli::Update) -> Result<()> {
    let container = Container::find(context.root, &args.id)?;
    let resources = match &args.resources {
        Some(path) => {
            if has_options(args) {
                bail!("--resources and the options for single limits exclude each other");
            }
            read(path)?
        }
        None => from_options(args)?,
    };
    let empty = resources.as_object().is_none_or(serde_json::Map::is_empty);
    if empty {
        bail!("nothing to update: no limit is given");
    }
    let mut spec = container.home.config()?;
    spec["linux"]["resources"] = resources;
    let spec = crate::bundle::parse(&spec).context("the limits")?;
    let mut limits = berth_plan::limits(&spec)?;
    // What may be opened is decided when the container is created.
    limits.devices.clear();
    let group = container.group()?.context("container not running")?;
    group.update(&limits).context("updating the limits")?;
    crate::scope::update(&container.record.scope, &limits).context("telling systemd of the limits")
}

fn read(path: &Path) -> Result<Value> {
    let mut text = String::new();
    let what = || format!("--resources {}", path.display());
    if path == Path::new("-") {
        std::io::stdin().take(LARGEST).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .with_context(what)?
            .take(LARGEST)
            .read_to_string(&mut text)
    }
    .with_context(what)?;
    let mut value: Value = serde_json::from_str(&text).with_context(what)?;
    // Callers send every field, zero where nothing is meant.
    strip(&mut value);
    Ok(value)
}

/// Drops nulls, zeroes and what is empty then: "not given" in the specification.
fn strip(value: &mut Value) {
    if let Value::Object(fields) = value {
        for field in fields.values_mut() {
            strip(field);
        }
        fields.retain(|_, field| match field {
            Value::Null => false,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            Value::Bool(_) => true,
        });
    }
}

fn has_options(args: &cli::Update) -> bool {
    from_options(args)
        .map(|value| value.as_object().is_some_and(|fields| !fields.is_empty()))
        .unwrap_or(true)
}

fn from_options(args: &cli::Update) -> Result<Value> {
    for (option, given) in [
        ("--kernel-memory", args.kernel_memory.is_some()),
        ("--kernel-memory-tcp", args.kernel_memory_tcp.is_some()),
    ] {
        if given {
            bail!("{option}: Linux has no such limit any more");
        }
    }
    let mut resources = json!({});
    let mut set = |part: &str, field: &str, value: Option<Value>| {
        if let Some(value) = value {
            resources[part][field] = value;
        }
    };
    let bytes = |option: &str, text: &Option<String>| -> Result<Option<Value>> {
        text.as_deref()
            .map(|text| bytes(text).with_context(|| format!("{option} {text}")))
            .transpose()
            .map(|number| number.map(Value::from))
    };
    set("memory", "limit", bytes("--memory", &args.memory)?);
    set("memory", "swap", bytes("--memory-swap", &args.memory_swap)?);
    let reservation = bytes("--memory-reservation", &args.memory_reservation)?;
    set("memory", "reservation", reservation);
    set("cpu", "period", args.cpu_period.map(Value::from));
    set("cpu", "quota", args.cpu_quota.map(Value::from));
    set("cpu", "burst", args.cpu_burst.map(Value::from));
    set("cpu", "shares", args.cpu_share.map(Value::from));
    set("cpu", "realtimePeriod", args.cpu_rt_period.map(Value::from));
    set(
        "cpu",
        "realtimeRuntime",
        args.cpu_rt_runtime.map(Value::from),
    );
    set("cpu", "idle", args.cpu_idle.map(Value::from));
    set("cpu", "cpus", args.cpuset_cpus.clone().map(Value::from));
    set("cpu", "mems", args.cpuset_mems.clone().map(Value::from));
    set("blockIO", "weight", args.blkio_weight.map(Value::from));
    set("pids", "limit", args.pids_limit.map(Value::from));
    Ok(resources)
}

/// A number with k, m, g or t behind it, in powers of 1024; -1 for no limit.
fn bytes(text: &str) -> Result<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 10),
        Some(b'm') => (&lower[..lower.len() - 1], 20),
        Some(b'g') => (&lower[..lower.len() - 1], 30),
        Some(b't') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number: i64 = digits.parse().context("expected a number of bytes")?;
    number
        .checked_mul(1 << shift)
        .context("larger than any memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        for (text, number) in [
            ("512", 512),
            ("4k", 4096),
            ("1M", 1 << 20),
            ("2gb", 2 << 30),
            ("-1", -1),
        ] {
            assert_eq!(bytes(text).unwrap(), number, "{text}");
        }
        for text in ["", "x", "1x", "9999999999t"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn zero_means_not_given() {
        let mut value =
            json!({"cpu": {"shares": 0, "cpus": ""}, "memory": {"limit": 5, "swap": 0}});
        strip(&mut value);
        assert_eq!(value, json!({"memory": {"limit": 5}}));
    }
}
