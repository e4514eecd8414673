//! What containers really have, against what was found and judged before.
//!
//! `make probe-reference` writes the files in `reference/` anew. What depends on the
//! machine is replaced by what it is to the container, so that a difference is one
//! in what the container may do.

mod normal;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use berth_integration::{pod, wait};
use berth_proto::cri;
use serde_json::json;

use self::normal::Outside;
use crate::{
    ground::{Ground, bind},
    oci::{Oci, Runtime},
    probe::{self, Findings},
};

/// Set by `make probe-reference`.
const RECORD: &str = "BERTH_RECORD";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/security/reference")
}

/// Compares, or records.
fn judge(name: &str, found: &str, differences: &mut Vec<String>) -> Result<()> {
    let path = directory().join(format!("{name}.txt"));
    if std::env::var_os(RECORD).is_some() {
        fs::write(&path, normal::heading() + found)?;
        return Ok(());
    }
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{}: run `make probe-reference`", path.display()))?;
    for line in normal::differences(&text, found) {
        differences.push(format!("{name}: {line}"));
    }
    Ok(())
}

fn conclude(differences: &[String]) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "containers have (+) what they should not, or lack (-) what they should have:\n{}\n\
         if that is meant, record it with `make probe-reference`",
        differences.join("\n")
    )
}

/// The kinds of containers that an agent makes.
const KINDS: [&str; 6] = [
    "default",
    "privileged",
    "host-network",
    "host-pid",
    "read-only",
    "terminal",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_container_has_what_its_reference_says_and_nothing_else() -> Result<()> {
    let ground = Ground::start().await?;
    let node = &ground.node;
    let outside = Outside::of(node)?;
    let mut differences = Vec::new();
    for kind in KINDS {
        let out = ground.directory(kind)?;
        let mut config = pod::sandbox(node, kind);
        let mut container =
            ground.of_image(&ground.image, "main", &["/bin/probe", "/out/init", "hold"]);
        container.mounts.push(bind(&out, "/out"));
        match kind {
            "privileged" => {
                let linux = config.linux.get_or_insert_default();
                linux.security_context.get_or_insert_default().privileged = true;
                let context = pod::security(&mut container);
                context.privileged = true;
                context.seccomp = None;
                context.masked_paths.clear();
                context.readonly_paths.clear();
            }
            "host-network" => {
                pod::namespace_options(&mut config).network = cri::NamespaceMode::Node.into();
                let context = pod::security(&mut container);
                let options = context.namespace_options.get_or_insert_default();
                options.network = cri::NamespaceMode::Node.into();
                config.hostname.clear();
            }
            "host-pid" => {
                pod::namespace_options(&mut config).pid = cri::NamespaceMode::Node.into();
                let context = pod::security(&mut container);
                let options = context.namespace_options.get_or_insert_default();
                options.pid = cri::NamespaceMode::Node.into();
            }
            "read-only" => pod::security(&mut container).readonly_rootfs = true,
            "terminal" => container.tty = true,
            _ => {}
        }
        let pod = ground.pod_with(config).await?;
        let id = pod.run(&container).await?;
        appears(&out.join("init")).await?;
        if kind == "terminal" {
            let done = node.ctl(&["exec", "-t", &id, "/bin/probe", "/out/exec"])?;
            anyhow::ensure!(done.status.success(), "{done:?}");
        } else {
            node.exec_sync(&id, &["/bin/probe", "/out/exec"], 30)
                .await?;
        }
        for part in ["init", "exec"] {
            let found = Findings::read(&out.join(part))?;
            let text = outside.normalise(&found, &[&id, &pod.id, &node.name()]);
            judge(&format!("{kind}-{part}"), &text, &mut differences)?;
        }
        node.stop_pod(&pod.id).await?;
        node.remove_pod(&pod.id).await?;
    }
    ground.finish().await?;
    conclude(&differences)
}

#[test]
fn a_container_with_a_user_namespace_has_what_its_reference_says() -> Result<()> {
    let oci = Oci::new()?;
    let out = oci.directory("out")?;
    nix::unistd::chown(&out, Some(100_000.into()), Some(100_000.into()))?;
    fs::copy(probe::program()?, oci.rootfs().join("bin/probe"))?;
    let mut config = oci.config("");
    config["process"]["args"] = json!(["/bin/probe", "/out/init", "hold"]);
    let namespaces = config["linux"]["namespaces"].as_array_mut();
    namespaces.context("a list")?.push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    let mounts = config["mounts"].as_array_mut().context("a list")?;
    mounts
        .push(json!({"destination": "/out", "type": "bind", "source": out, "options": ["rbind"]}));
    oci.start(Runtime::Berth, &config)?;
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !out.join("init").exists() && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    oci.runtime(Runtime::Berth, &["exec", "c", "/bin/probe", "/out/exec"])?
        .ok()?;
    let outside = Outside::of_this_process()?;
    let mut differences = Vec::new();
    for part in ["init", "exec"] {
        let found = Findings::read(&out.join(part))?;
        let text = outside.normalise(&found, &[&oci.name()]);
        judge(&format!("user-namespace-{part}"), &text, &mut differences)?;
    }
    oci.finish()?;
    conclude(&differences)
}

async fn appears(path: &std::path::Path) -> Result<()> {
    wait::until("the probe has written", Duration::from_secs(20), || async {
        Ok(path.exists().then_some(()))
    })
    .await
}
