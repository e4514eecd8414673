//! Network devices of the node that the container gets.

use std::{collections::BTreeMap, fs::File, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use oci_spec::runtime::Spec;

/// The devices, their names on the node and in the container.
#[derive(Debug, Default)]
pub(crate) struct NetDevices(BTreeMap<String, String>);

impl NetDevices {
    /// As the plan has checked them.
    pub(crate) fn of(spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        let given = linux.and_then(|linux| linux.net_devices().as_ref());
        let names = given.into_iter().flatten().map(|(from, device)| {
            let to = device.name().clone().filter(|name| !name.is_empty());
            (from.clone(), to.unwrap_or_else(|| from.clone()))
        });
        Self(names.collect())
    }

    /// Moves them into the network namespace of process `pid`.
    pub(crate) fn move_to(&self, pid: i32) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let namespace = File::open(format!("/proc/{pid}/ns/net"))
            .context("opening the container's network namespace")?;
        for (from, to) in &self.0 {
            berth_network::move_link(from, to, namespace.as_fd())
                .with_context(|| format!("linux.netDevices: moving {from} as {to}"))?;
        }
        Ok(())
    }
}
