//! Containers that another OCI runtime makes: the shim drives it, the agent writes its
//! bundle.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use berth_plan::{POD_SHM, PlanOutput, Slot};
use berth_proto::shim::OtherRuntime;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    spec::POD_DIR,
};

/// Kinds of namespaces that a pod may share.
const SHARED: [&str; 4] = ["pid", "net", "ipc", "uts"];

/// The version of the specification that every runtime takes.
const OLDEST: &str = "1.0.2";

/// A bundle that is still to be written.
#[derive(Debug)]
pub(super) struct Bundle {
    path: PathBuf,
    config: String,
}

impl Bundle {
    /// Changes `output` so that `program` makes the container, in a bundle at `path` and
    /// in the control group `group`.
    ///
    /// # Errors
    /// Unimplemented for mounts that are to reach the node.
    pub(super) fn plan(
        output: &mut PlanOutput,
        spec: &Spec,
        program: &Path,
        path: PathBuf,
        group: &str,
    ) -> Result<Self> {
        let config = config(spec, &path, group)?.to_string();
        let text = |name: &str| path.join(name).to_string_lossy().into_owned();
        if let Some(root) = &mut output.plan.root {
            root.staging = text("rootfs");
            root.layers_staging = text("layers");
        }
        // Slot 0 is the plan's own.
        let slot = |at: usize| u32::try_from(at + 1).unwrap_or(u32::MAX);
        let shm = output.slots.iter().position(|one| *one == Slot::PodShm);
        output.plan.other = Some(OtherRuntime {
            program: program.as_os_str().as_bytes().to_vec(),
            bundle: path.as_os_str().as_bytes().to_vec(),
            // Opened after all others.
            mounts_slot: slot(output.slots.len()),
            shm_slot: shm
                .and_then(|at| i32::try_from(slot(at)).ok())
                .unwrap_or(-1),
        });
        Ok(Self { path, config })
    }

    /// Writes it, and opens what the shim needs beside the plan's slots.
    ///
    /// # Errors
    /// The errno of making a file.
    pub(super) fn write(&self) -> Result<OwnedFd> {
        let what = |path: &Path| format!("make {}", path.display());
        for name in ["", "rootfs", "layers", "shm", "ns"] {
            let dir = self.path.join(name);
            fs::create_dir_all(&dir).map_err(|error| Error::io(what(&dir), error))?;
        }
        for name in SHARED {
            let file = self.path.join("ns").join(name);
            fs::write(&file, "").map_err(|error| Error::io(what(&file), error))?;
        }
        let file = self.path.join("config.json");
        fs::write(&file, &self.config).map_err(|error| Error::io(what(&file), error))?;
        File::open("/proc/self/ns/mnt")
            .map(OwnedFd::from)
            .map_err(|error| Error::io("open the node's mount namespace", error))
    }
}

/// The specification as another runtime takes it: what stands for the pod becomes a path
/// in the bundle.
fn config(spec: &Spec, bundle: &Path, group: &str) -> Result<Value> {
    let mut config = serde_json::to_value(spec)
        .map_err(|error| Error::internal("write the bundle").with_source(error))?;
    // Versions of the specification only add to it, and runtimes refuse those that are
    // newer than themselves, whether anything new is asked for or not.
    config["ociVersion"] = OLDEST.into();
    config["root"]["path"] = json!(bundle.join("rootfs"));
    config["linux"]["cgroupsPath"] = format!("/{}", group.trim_start_matches('/')).into();
    let mut own_name = false;
    for namespace in list(&mut config, "/linux/namespaces") {
        let path = namespace.get("path").and_then(Value::as_str);
        let shared = path.and_then(|path| Path::new(path).strip_prefix(POD_DIR).ok());
        if let Some(kind) = shared {
            namespace["path"] = json!(bundle.join("ns").join(kind));
        } else if namespace["type"] == "uts" {
            own_name = true;
        }
        if namespace["type"] == "user" {
            return Err(
                Error::unimplemented("user namespaces with this runtime handler")
                    .with_remedy("use the default handler, or the users of the node"),
            );
        }
    }
    if !own_name && let Some(fields) = config.as_object_mut() {
        // It was set when the pod was made.
        fields.remove("hostname");
    }
    let shm = Path::new(POD_DIR).join("shm");
    for mount in list(&mut config, "/mounts") {
        let source = mount.get("source").and_then(Value::as_str).map(Path::new);
        if source == Some(Path::new(POD_SHM)) || source == Some(shm.as_path()) {
            mount["source"] = json!(bundle.join("shm"));
        }
        let options = mount.get("options").and_then(Value::as_array);
        let reaches = |option: &Value| matches!(option.as_str(), Some("shared" | "rshared"));
        if options.is_some_and(|options| options.iter().any(reaches)) {
            return Err(Error::unimplemented(format!(
                "bidirectional propagation of the mount at {} with this runtime handler",
                mount["destination"]
            ))
            .with_remedy("use the default handler, or propagation from the host only"));
        }
    }
    Ok(config)
}

fn list<'a>(config: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = config.pointer_mut(pointer).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "hostname": "pod",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/x"], "cwd": "/"},
            "mounts": [{
                "destination": "/dev/shm", "type": "bind", "source": format!("{POD_DIR}/shm"),
                "options": ["rbind"],
            }],
            "linux": {"namespaces": [
                {"type": "mount"},
                {"type": "network", "path": format!("{POD_DIR}/net")},
                {"type": "uts", "path": format!("{POD_DIR}/uts")},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn what_stands_for_the_pod_is_found_in_the_bundle() {
        let config = config(&spec(), Path::new("/run/b"), "berth/c").unwrap();
        assert_eq!(config["root"]["path"], "/run/b/rootfs");
        assert_eq!(config["linux"]["cgroupsPath"], "/berth/c");
        assert_eq!(config["linux"]["namespaces"][1]["path"], "/run/b/ns/net");
        assert_eq!(config["mounts"][0]["source"], "/run/b/shm");
        assert!(config.get("hostname").is_none());
    }

    #[test]
    fn mounts_that_are_to_reach_the_node_are_refused() {
        let mut spec = spec();
        let mounts = spec.mounts_mut().as_mut().unwrap();
        mounts[0].set_options(Some(vec!["rbind".to_owned(), "rshared".to_owned()]));
        assert!(config(&spec, Path::new("/run/b"), "c").is_err());
    }
}
