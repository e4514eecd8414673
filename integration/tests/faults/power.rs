//! Power cuts: the root directory is on a file system of its own that stops writing
//! at a step, as if the machine had been switched off there; then the machine "boots":
//! the run directory is empty, no process is left, and the file system has what was
//! synced.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use berth_integration::{
    Node,
    failpoints::{ARM, Boundary, TRACE, read_trace},
    image::{self, Image},
    pod,
    registry::Registry,
};
use berth_proto::cri;

use crate::life::selected;

/// `_IOR('X', 125, __u32)` of the kernel's fs/ext4: shut the file system down.
const SHUTDOWN: u64 = 0x8004_587d;
/// Without writing the journal back: what was not synced is lost.
const NO_LOG_FLUSH: u32 = 2;
/// Size of the file system: the reserve (`image.disk_reserve`) and some.
const SIZE: u64 = 768 << 20;
/// How long a step waits for its power cut.
const HELD: u64 = 3_000;
const SOON: Duration = Duration::from_secs(20);

nix::ioctl_write_ptr_bad!(shutdown, SHUTDOWN, u32);

/// An ext4 in a file, mounted.
struct Disk {
    file: PathBuf,
    at: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Disk {
    fn new(directory: &Path, at: &Path) -> Result<Self> {
        let file = directory.join("disk");
        File::create(&file)?.set_len(SIZE)?;
        run("mkfs.ext4", &["-q", "-F", &file.to_string_lossy()])?;
        let disk = Self {
            file,
            at: at.to_owned(),
        };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run(
            "mount",
            &[
                "-o",
                "loop",
                &self.file.to_string_lossy(),
                &self.at.to_string_lossy(),
            ],
        )
    }

    fn cut(&self) -> Result<()> {
        let root = File::open(&self.at)?;
        // SAFETY: the descriptor is open and the argument is a u32, as the request says.
        #[allow(unsafe_code, reason = "no crate wraps this request")]
        unsafe {
            shutdown(root.as_raw_fd(), &NO_LOG_FLUSH)?;
        }
        Ok(())
    }

    fn unmount(&self) -> Result<()> {
        run("umount", &["-l", &self.at.to_string_lossy()])
    }

    /// A damaged file system would excuse everything.
    fn check(&self) -> Result<()> {
        // 1: it has replayed the journal, as a mount would have.
        let output = Command::new("e2fsck")
            .args(["-p", &self.file.to_string_lossy()])
            .output()?;
        ensure!(
            matches!(output.status.code(), Some(0 | 1)),
            "e2fsck: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.unmount());
    }
}

/// What the node has acknowledged and must have after the cut.
#[derive(Clone, Debug, Default)]
struct Acknowledged {
    image: Option<String>,
    /// Of people's pods, which survive a power cut; a kubelet makes its own anew.
    container: Option<String>,
    exit: Option<i32>,
}

/// Pull, a container of a person's, its exit.
async fn life(node: &Node, reference: &str, done: &mut Acknowledged) -> Result<()> {
    done.image = Some(node.pull(reference).await?);
    let request = berth_proto::berth::v1::RunRequest {
        pod: Some(pod::sandbox(node, "power")),
        container: Some(pod::shell("main", reference, "exit 3")),
        ..Default::default()
    };
    let ran = node.berth()?.run(request).await?.into_inner();
    done.container = Some(ran.container_id.clone());
    let request = berth_proto::berth::v1::WaitRequest {
        container_id: ran.container_id,
    };
    let ended = node.berth()?.wait(request).await?.into_inner();
    done.exit = Some(ended.exit_code);
    Ok(())
}

async fn boundaries(image: &Image) -> Result<Vec<Boundary>> {
    let trace = tempfile::NamedTempFile::new()?;
    let path = trace.path().display().to_string();
    let mut node = Node::prepare("")?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/power", "1", image);
    node.launch(&[(TRACE, &path)]).await?;
    life(&node, &reference, &mut Acknowledged::default()).await?;
    let mut all = read_trace(trace.path())?;
    all.retain(|boundary| !boundary.name.starts_with("recover"));
    node.finish().await?;
    Ok(all)
}

/// The power goes at `boundary`. What was acknowledged before must be there after.
async fn cut_at(boundary: &Boundary, image: &Image, place: &Path) -> Result<bool> {
    let mut node = Node::prepare("")?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/power", "1", image);
    let disk = Disk::new(place, &node.home().join("root"))?;
    let trace = place.join("trace");
    drop(fs::remove_file(&trace));
    let hang = boundary.hang(HELD);
    node.launch(&[(ARM, &hang), (TRACE, &trace.to_string_lossy())])
        .await?;
    let mut done = Acknowledged::default();
    // The cut comes when the boundary is reached, while its step waits.
    let reached = async {
        loop {
            let seen = read_trace(&trace).unwrap_or_default();
            if seen.contains(boundary) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let met = tokio::select! {
        () = reached => true,
        lived = life(&node, &reference, &mut done) => {
            lived?;
            false
        }
        () = tokio::time::sleep(SOON) => bail!("{hang}: neither reached nor done"),
    };
    let before = done.clone();
    disk.cut()?;
    node.kill()?;
    // The machine is off: no process, no run directory, no namespaces.
    node.switch_off()?;
    disk.check()?;
    disk.mount()?;
    node.launch(&[]).await.context("after the power cut")?;
    verify(&node, &before, &reference).await?;
    node.remove_everything().await?;
    node.stop().await?;
    disk.unmount()?;
    node.finish_stopped()?;
    Ok(met)
}

async fn verify(node: &Node, before: &Acknowledged, reference: &str) -> Result<()> {
    if let Some(id) = &before.image {
        let there = node.image_status(reference).await?;
        let there = there.context("an acknowledged image is lost")?;
        ensure!(there.id == *id, "another image: {}", there.id);
    }
    if let Some(container) = &before.container {
        let status = node
            .status(container)
            .await
            .context("an acknowledged container is lost")?;
        ensure!(
            status.state() == cri::ContainerState::ContainerExited,
            "{status:?}"
        );
        if let Some(code) = before.exit {
            ensure!(status.exit_code == code, "another exit: {status:?}");
        }
    }
    // Whatever is said to be there works: a damaged layer would show.
    node.pull(reference).await.context("pull again")?;
    let config = pod::sandbox(node, "after");
    let pod = node.run_pod(&config).await?;
    let check = pod::shell(
        "main",
        reference,
        "for f in /bin/*; do cat $f; done >/dev/null",
    );
    let check = node.run(&pod, &check, &config).await?;
    let status = node.exited(&check).await?;
    ensure!(status.exit_code == 0, "the image is damaged: {status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost_to_a_power_cut() -> Result<()> {
    let image = image::busybox()?;
    let boundaries = selected(boundaries(&image).await?);
    let place = tempfile::tempdir_in("/var/tmp")?;
    let (mut cuts, mut wrong) = (0, Vec::new());
    for boundary in &boundaries {
        match cut_at(boundary, &image, place.path()).await {
            Ok(met) => cuts += usize::from(met),
            Err(error) => wrong.push(format!("{}: {error:#}", boundary.name)),
        }
    }
    println!(
        "faults: power cut: {} boundaries, {cuts} cuts, {} wrong",
        boundaries.len(),
        wrong.len()
    );
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(cuts * 10 >= boundaries.len() * 8, "most were not reached");
    Ok(())
}
