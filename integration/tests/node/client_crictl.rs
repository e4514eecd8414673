//! The steps of the demo, driven by the CRI's own client.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use berth_integration::{Node, image, programs, registry::Registry};
use serde_json::json;

struct Crictl<'a> {
    node: &'a Node,
    program: std::path::PathBuf,
}

impl Crictl<'_> {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.node.netns().enter(|| {
            Command::new(&self.program)
                .args(["--runtime-endpoint", &self.node.endpoint()])
                .args(["--image-endpoint", &self.node.endpoint()])
                .args(["--timeout", "20s", "--config", "/dev/null"])
                .args(arguments)
                .output()
                .context("run crictl")
        })?;
        ensure!(
            output.status.success(),
            "crictl {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Where there is no Go, `make tools` says that these steps will not run.
fn program() -> Result<Option<std::path::PathBuf>> {
    match programs::tool("crictl") {
        Ok(program) => Ok(Some(program)),
        Err(error) if std::env::var_os("CI").is_some() => Err(error),
        Err(_) => Ok(None),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crictl_drives_a_pod_from_pull_to_removal() -> Result<()> {
    let Some(program) = program()? else {
        return Ok(());
    };
    let mut node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/count", "1", &image::demo()?);
    let pod_file = node.home().join("pod.json");
    let container_file = node.home().join("container.json");
    let pod = json!({
        "metadata": { "name": "crictl", "namespace": "test", "uid": node.name(), "attempt": 1 },
        "hostname": "crictl",
        "log_directory": node.home().join("logs"),
        "linux": { "cgroup_parent": node.pod_group("crictl")? },
    });
    let container = json!({
        "metadata": { "name": "count" },
        "image": { "image": reference },
        "log_path": "count.log",
        "linux": {},
    });
    std::fs::write(&pod_file, pod.to_string())?;
    std::fs::write(&container_file, container.to_string())?;
    let (pod_file, container_file) = (
        pod_file.display().to_string(),
        container_file.display().to_string(),
    );

    let crictl = Crictl {
        node: &node,
        program: program.clone(),
    };
    assert!(crictl.run(&["version"])?.contains("berth"));
    assert!(crictl.run(&["info"])?.contains("RuntimeReady"));
    crictl.run(&["pull", &reference])?;
    assert!(crictl.run(&["images"])?.contains("test/count"));
    let pod = crictl.run(&["runp", &pod_file])?;
    let container = crictl.run(&["create", &pod, &container_file, &pod_file])?;
    crictl.run(&["start", &container])?;
    assert_eq!(crictl.run(&["pods", "-q", "--no-trunc"])?, pod);
    assert_eq!(crictl.run(&["ps", "-q", "--no-trunc"])?, container);
    let said = crictl.run(&["exec", "-s", &container, "hostname"])?;
    assert_eq!(said, "crictl");
    berth_integration::wait::until_true("the log", std::time::Duration::from_secs(5), || {
        Ok(crictl.run(&["logs", &container])?.contains("count 3"))
    })
    .await?;
    assert!(
        crictl
            .run(&["stats", &container])?
            .contains(&container[..13])
    );

    node.crash_and_restart().await?;
    let crictl = Crictl {
        node: &node,
        program,
    };
    assert_eq!(crictl.run(&["ps", "-q", "--no-trunc"])?, container);
    crictl.run(&["stop", "--timeout", "10", &container])?;
    let inspected = crictl.run(&["inspect", &container])?;
    let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
    assert_eq!(inspected["status"]["exitCode"], json!(7));
    crictl.run(&["rm", &container])?;
    crictl.run(&["stopp", &pod])?;
    crictl.run(&["rmp", &pod])?;
    crictl.run(&["rmi", &reference])?;
    assert_eq!(crictl.run(&["pods", "-q"])?, "");
    node.finish().await
}
