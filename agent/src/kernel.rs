//! What this kernel has of what newer ones have, and what is done without it.
//!
//! The code that does without tries and falls back by itself; this table is for
//! people, who find here why two nodes differ. It is made once, at the start.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_cgroup::Layout;
use berth_engine::{PodRequest, Users};
use berth_proto::{berth::v1::KernelFeature, shim::IdMapping};
use berth_sys::{
    mount,
    probe::{self, OverlayLayers},
};

use crate::{
    error::{Error, Result},
    node::{Node, blocking},
};

/// Overlay with layers whose ids are mapped.
const MAPPED_LAYERS: (u32, u32) = (5, 19);

/// The oldest kernel that Berth is tested on; all before it that a feature needs is required.
const OLDEST: &str = "6.1";

/// One feature of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    /// The first release of Linux that has it.
    pub(crate) since: &'static str,
    pub(crate) present: bool,
    /// What is done without it; nothing works where this is `None`.
    pub(crate) instead: Option<&'static str>,
}

/// Asks the kernel. `dir` is a directory on the file system of the layers.
pub(crate) fn features(layout: &Layout, dir: impl AsFd) -> Vec<Feature> {
    let layers = probe::overlay_layers(dir);
    let layers_at_least = |wanted| layers.as_ref().is_ok_and(|&layers| layers >= wanted);
    let required = |name, since, present| Feature {
        name,
        since,
        present,
        instead: None,
    };
    let optional = |name, since, present, instead| Feature {
        name,
        since,
        present,
        instead: Some(instead),
    };
    vec![
        required("openat2", "5.6", probe::openat2()),
        required("clone-into-cgroup", "5.7", probe::clone_into_cgroup()),
        required("close-range", "5.9", probe::close_range()),
        required("mount-setattr", "5.12", probe::mount_setattr()),
        required("overlay", "3.18", layers.is_ok()),
        optional(
            "cgroup-kill",
            "5.14",
            has_group_file(layout, "cgroup.kill", (5, 14)),
            "the processes of a group are signalled one by one until none is left",
        ),
        optional(
            "pressure",
            "4.20",
            fs::read("/proc/pressure/cpu").is_ok()
                && has_group_file(layout, "cpu.pressure", (4, 20)),
            "statistics say nothing of pressure; the kernel's option psi=1 may bring it",
        ),
        optional(
            "memfd-exec-seal",
            "6.3",
            probe::exec_seal(),
            "the mode of the shims' program is not sealed, its content is",
        ),
        optional(
            "executable-memfd",
            "3.17",
            probe::executable_memory(),
            "vm.memfd_noexec forbids it: shims start from a read-only mount of their program",
        ),
        optional(
            "overlay-layers-by-name",
            "6.7",
            layers_at_least(OverlayLayers::OneByOne),
            "all layers of an image are given in one value, which holds some sixty",
        ),
        optional(
            "overlay-layers-by-descriptor",
            "6.13",
            layers_at_least(OverlayLayers::ByDescriptor),
            "layers are given by the names of their descriptors",
        ),
        optional(
            "pidfd-exit-status",
            "6.15",
            // Only a process that has ended could tell.
            release().is_some_and(|release| release >= (6, 15)),
            "a container whose shim was killed ends with 255 whatever its program said",
        ),
    ]
}

/// Why Berth cannot run here: the required features that are missing.
pub(crate) fn problem(features: &[Feature]) -> Option<String> {
    let missing: Vec<String> = features
        .iter()
        .filter(|feature| !feature.present && feature.instead.is_none())
        .map(|feature| format!("{} (Linux {})", feature.name, feature.since))
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "this kernel lacks or a filter forbids what Berth needs: {}; use Linux {OLDEST} or \
             newer and start the agent outside of containers",
            missing.join(", ")
        )
    })
}

/// A sentence for each feature that is missing.
pub(crate) fn tell(features: &[Feature]) {
    for feature in features.iter().filter(|feature| !feature.present) {
        tracing::info!(
            feature = feature.name,
            since = feature.since,
            instead = feature.instead.unwrap_or_default(),
            "the kernel lacks a feature"
        );
    }
}

impl From<&Feature> for KernelFeature {
    fn from(feature: &Feature) -> Self {
        Self {
            name: feature.name.to_owned(),
            since: feature.since.to_owned(),
            present: feature.present,
            instead: feature.instead.unwrap_or_default().to_owned(),
        }
    }
}

/// Why pods cannot have users of their own, if they cannot: tried out, since it depends on
/// the kernel, on its settings and on the file system of the layers.
pub(crate) async fn user_namespaces(node: &Arc<Node>) -> Option<String> {
    if release().is_none_or(|release| release < MAPPED_LAYERS) {
        return Some(format!(
            "overlay takes layers with mapped ids from Linux {}.{} on",
            MAPPED_LAYERS.0, MAPPED_LAYERS.1
        ));
    }
    let problem = try_users(node).await.err().map(|error| error.sentence());
    if let Some(problem) = &problem {
        tracing::info!(problem, "pods cannot have users of their own");
    }
    problem
}

/// Makes a user namespace and maps the ids of the layers' file system to it.
async fn try_users(node: &Arc<Node>) -> Result<()> {
    let map = IdMapping {
        inside: 0,
        outside: 65_536,
        count: 65_536,
    };
    let request = PodRequest {
        // No pod's: ids of pods are hexadecimal.
        id: "try-users".to_owned(),
        users: Some(Users {
            uids: vec![map],
            gids: vec![map],
        }),
        ..PodRequest::default()
    };
    let made = node.launcher.create_pod(&request, &[]).await;
    let tried = made
        .map_err(|error| Error::internal("make a user namespace").with_source(error))
        .map(|pod| pod.user);
    let root = node.dirs.root.clone();
    let outcome = match tried {
        Ok(Some(users)) => {
            blocking("map ids", move || {
                let failed = |error| Error::io(format!("map the ids of {}", root.display()), error);
                let directory = fs::File::open(&root).map_err(failed)?;
                let tree = mount::clone_tree(&directory, c"", false).map_err(failed)?;
                mount::map_ids(&tree, &users, false).map_err(failed)
            })
            .await
        }
        Ok(None) => Err(Error::internal("no user namespace came of it")),
        Err(error) => Err(error),
    };
    if let Err(error) = node.launcher.remove_pod(&request.id).await {
        tracing::warn!(%error, "the namespace of a trial could not be unpinned");
    }
    outcome
}

/// The features as JSON, for the CRI's verbose status.
pub(crate) fn json(features: &[Feature]) -> serde_json::Value {
    features
        .iter()
        .map(|feature| {
            serde_json::json!({
                "name": feature.name,
                "since": feature.since,
                "present": feature.present,
                "instead": feature.instead,
            })
        })
        .collect()
}

/// Whether groups of the v2 hierarchy have the file `name`, which came with `since`.
/// The root has fewer files than others, so the groups below it are asked; the
/// release counts where there is none yet.
fn has_group_file(layout: &Layout, name: &str, since: (u32, u32)) -> bool {
    let Some(v2) = layout.hierarchies().iter().find(|one| one.v2) else {
        return false;
    };
    let has = |group: &Path| group.join(name).exists();
    let groups: Vec<PathBuf> = fs::read_dir(&v2.mount)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    if groups.is_empty() {
        return has(&v2.mount) || release().is_some_and(|release| release >= since);
    }
    groups.iter().any(|group| has(group))
}

/// Version and patch level of the running kernel.
fn release() -> Option<(u32, u32)> {
    let name = nix::sys::utsname::uname().ok()?;
    parse_release(name.release().to_str()?)
}

fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Vec<Feature> {
        let dir = fs::File::open("/").unwrap();
        features(&Layout::detect().unwrap(), &dir)
    }

    #[test]
    fn every_feature_has_a_name_of_its_own_and_a_release() {
        let features = here();
        let mut names: Vec<_> = features.iter().map(|feature| feature.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), features.len());
        for feature in &features {
            assert!(parse_release(feature.since).is_some(), "{feature:?}");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(feature.name.chars().all(plain), "{feature:?}");
        }
        assert_eq!(json(&features).as_array().unwrap().len(), features.len());
    }

    #[test]
    fn a_kernel_on_which_the_tests_run_has_all_that_is_required() {
        assert_eq!(problem(&here()), None);
    }

    #[test]
    fn what_is_required_and_missing_is_named_and_what_is_not_is_passed_over() {
        let mut features = here();
        for feature in &mut features {
            feature.present = feature.name != "openat2" && feature.instead.is_none();
        }
        let problem = problem(&features).unwrap();
        assert!(problem.contains("openat2 (Linux 5.6)"), "{problem}");
        assert!(!problem.contains("overlay"), "{problem}");
    }

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(parse_release("6.12.95+deb12-cloud-amd64"), Some((6, 12)));
        assert_eq!(parse_release("6.9-rc1"), Some((6, 9)));
        assert_eq!(parse_release("six"), None);
        assert!((6, 15) > (6, 9));
    }
}
