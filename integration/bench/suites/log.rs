//! What containers write: from start to exit by the runtime's own clock, with
//! the CPU time of the writer included, beside the same writer into `cat > file`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use berth_integration::programs;
use tokio::time::sleep;

use super::{Bench, milliseconds};
use crate::group::Group;

const SUITE: &str = "log";
/// Between two looks whether the container has ended; few, since they cost CPU time.
const LOOK: Duration = Duration::from_millis(100);
/// The slowest writes a gigabyte in tens of seconds.
const LIMIT: Duration = Duration::from_secs(180);
/// The file that is written again and again.
const PIECE: usize = 32 << 20;

/// (name, bytes of a line, bytes of a write, how many times [`PIECE`]).
const KINDS: [(&str, usize, &str, usize); 3] = [
    ("64 KiB lines in 64 KiB writes", 64 << 10, "64k", 32),
    ("100-byte lines in 64 KiB writes", 100, "64k", 16),
    ("100-byte lines in 100-byte writes", 100, "100", 2),
];

pub(crate) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let data = bench.node.home().join("lines");
    fs::create_dir_all(&data)?;
    let group = Group::make(&format!("{}-cat", bench.node.name()))?;
    let mut done = Ok(());
    'all: for (name, line, write, times) in KINDS {
        fs::write(data.join("piece"), piece(line))?;
        for round in 0..bench.rounds.div_ceil(2) {
            for peer in bench.order(round) {
                bench.begin_profile(peer)?;
                done = logged(bench, peer, &data, name, write, times).await;
                bench.end_profile()?;
                if done.is_err() {
                    break 'all;
                }
            }
            done = copied(bench, &group, &data, name, write, times);
            if done.is_err() {
                break 'all;
            }
        }
    }
    group.clear()?;
    done
}

fn piece(line: usize) -> Vec<u8> {
    let mut one = vec![b'x'; line - 1];
    one.push(b'\n');
    let mut piece = one.repeat(PIECE / line);
    piece.resize(PIECE, b'\n');
    piece
}

fn script(file: &str, write: &str, times: usize, dd: &str) -> String {
    format!(
        "i=0; while [ $i -lt {times} ]; do {dd} if={file} bs={write} 2>/dev/null; i=$((i+1)); done"
    )
}

async fn logged(
    bench: &mut Bench<'_>,
    peer: usize,
    data: &Path,
    name: &str,
    write: &str,
    times: usize,
) -> Result<()> {
    let mut client = bench.peers[peer].client.clone();
    let pod = client.run_pod(&format!("log-{write}")).await?;
    let script = script("/data/piece", write, times, "dd");
    let command = ["/bin/sh", "-c", script.as_str()];
    let container = client.create(&pod, "main", &command, Some(data)).await?;
    let before = bench.peers[peer].cpu()?;
    client.start(&container).await?;
    let end = Instant::now() + LIMIT;
    let life = loop {
        let life = client.life(&container).await?;
        if life.exited {
            break life;
        }
        ensure!(Instant::now() < end, "the writer has not ended: {life:?}");
        sleep(LOOK).await;
    };
    let cpu = bench.peers[peer].cpu()? - before;
    let size = fs::metadata(&life.log)
        .with_context(|| format!("the log {}", life.log.display()))?
        .len();
    let written = times * PIECE;
    ensure!(
        size >= written as u64,
        "the log of {written} bytes has {size}: lines were lost"
    );
    client.remove(&container).await?;
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await?;
    // A runtime may remove the log with its container.
    drop(fs::remove_file(&life.log));
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let seconds = life.nanoseconds as f64 / 1e9;
    let runtime = bench.peers[peer].name;
    add(bench, runtime, name, written, seconds, cpu);
    Ok(())
}

/// The same writer outside any container, into `cat > file`.
fn copied(
    bench: &mut Bench<'_>,
    group: &Group,
    data: &Path,
    name: &str,
    write: &str,
    times: usize,
) -> Result<()> {
    let busybox = programs::tool("debian/bin/busybox")?;
    let file: PathBuf = data.join("copy");
    let script = script(
        &data.join("piece").display().to_string(),
        write,
        times,
        &format!("{} dd", busybox.display()),
    );
    let before = group.cpu()?;
    let start = Instant::now();
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "echo $$ >{}; ({script}) | cat >{}",
            group.door().display(),
            file.display()
        ))
        .stdin(Stdio::null())
        .status()?;
    let seconds = milliseconds(start) / 1e3;
    ensure!(status.success(), "cat: {status}");
    let cpu = group.cpu()? - before;
    fs::remove_file(file)?;
    add(bench, "cat > file", name, times * PIECE, seconds, cpu);
    Ok(())
}

fn add(
    bench: &mut Bench<'_>,
    runtime: &'static str,
    name: &str,
    written: usize,
    seconds: f64,
    cpu: f64,
) {
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let mebibytes = written as f64 / f64::from(1 << 20);
    let speed = vec![mebibytes / seconds];
    bench.results.add(SUITE, name, "MiB/s", runtime, speed);
    let name = format!("{name}, CPU for a GiB");
    let cpu = vec![cpu * 1024.0 / mebibytes];
    bench.results.add(SUITE, &name, "ms CPU", runtime, cpu);
}
