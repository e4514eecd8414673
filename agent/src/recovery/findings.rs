//! What recovery found without an owner, by kind.

use std::collections::BTreeMap;

/// The stable names of what can be found: values of a metric's label. Those that
/// the ledger knows are called as there.
pub(crate) mod kind {
    /// A container that was being made.
    pub(crate) const CONTAINER: &str = "container";
    /// A pod sandbox that was being made.
    pub(crate) const POD_SANDBOX: &str = "pod_sandbox";
    /// Pinned namespaces.
    pub(crate) const POD_PIN: &str = "pod_pin";
    /// A link on the node.
    pub(crate) const VETH: &str = "veth";
    /// A shim's run directory.
    pub(crate) const SHIM_DIR: &str = "shim_dir";
    /// A pod's directory with the files that the runtime provides.
    pub(crate) const POD_DIR: &str = "pod_dir";
    /// Logs of a pod that people made.
    pub(crate) const LOG_DIR: &str = "log_dir";
    /// A control group of a container.
    pub(crate) const CGROUP: &str = "cgroup_path";
    /// A container's writable layer.
    pub(crate) const WRITABLE_LAYER: &str = "writable_layer";
    /// A layer that no image and no container has.
    pub(crate) const IMAGE_LAYER: &str = "image_layer";
    /// A manifest or configuration that no image has.
    pub(crate) const IMAGE_BLOB: &str = "image_blob";

    /// All of them.
    pub(crate) const ALL: [&str; 11] = [
        CONTAINER,
        POD_SANDBOX,
        POD_PIN,
        VETH,
        SHIM_DIR,
        POD_DIR,
        LOG_DIR,
        CGROUP,
        WRITABLE_LAYER,
        IMAGE_LAYER,
        IMAGE_BLOB,
    ];
}

/// How many of each kind were found; kinds of which there was none are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings(BTreeMap<&'static str, u64>);

impl Findings {
    pub(crate) fn add(&mut self, kind: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(kind).or_insert(0) += count;
        }
    }

    pub(crate) fn absorb(&mut self, other: Self) {
        for (kind, count) in other.0 {
            self.add(kind, count);
        }
    }

    pub(crate) fn of(&self, kind: &str) -> u64 {
        self.0.get(kind).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(kind, count)| (*kind, *count))
    }
}

/// `2 shim_dir, 1 veth`, or `nothing`.
impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (index, (kind, count)) in self.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{count} {kind}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_summed_by_kind_and_told_in_one_line() {
        let mut found = Findings::default();
        assert_eq!(found.to_string(), "nothing");
        found.add(kind::VETH, 1);
        found.add(kind::IMAGE_BLOB, 0);
        let mut more = Findings::default();
        more.add(kind::SHIM_DIR, 2);
        more.add(kind::VETH, 1);
        found.absorb(more);
        assert_eq!(found.to_string(), "2 shim_dir, 2 veth");
        assert_eq!((found.total(), found.of("veth")), (4, 2));
    }
}
