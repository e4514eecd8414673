//! berthctl at a terminal: what people see who type at one.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use berth_integration::{Node, programs};
use nix::{
    pty::{Winsize, openpty},
    sys::termios::{LocalFlags, tcgetattr},
};

use crate::fixture::{Shell, ctl, ok};

/// Longest wait for something to appear.
const LIMIT: Duration = Duration::from_secs(20);

/// A terminal with berthctl at it.
struct Terminal {
    master: File,
    slave: OwnedFd,
    child: Child,
    seen: String,
}

impl Terminal {
    fn start(node: &Node, arguments: &[&str]) -> Result<Self> {
        let size = Winsize {
            ws_row: 33,
            ws_col: 111,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None)?;
        let program = programs::directory()?.join("berthctl");
        let child = node.netns().enter(|| {
            let stream = || pair.slave.try_clone();
            Command::new("setsid")
                .args(["--ctty", "--wait"])
                .arg(&program)
                .args(["-H", &node.endpoint()])
                .args(arguments)
                .env("HOME", node.home())
                .stdin(stream()?)
                .stdout(stream()?)
                .stderr(stream()?)
                .spawn()
                .context("run berthctl")
        })?;
        nix::fcntl::fcntl(
            &pair.master,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        Ok(Self {
            master: pair.master.into(),
            slave: pair.slave,
            child,
            seen: String::new(),
        })
    }

    fn write(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    /// Waits until `text` appears, and forgets what came up to its end.
    async fn sees(&mut self, text: &str) -> Result<()> {
        let until = Instant::now() + LIMIT;
        loop {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = self.master.read(&mut buffer) {
                self.seen
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{text:?} does not appear; there is {:?}", self.seen);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for berthctl's end; the terminal must echo again.
    async fn ends(mut self) -> Result<Option<i32>> {
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < until, "berthctl does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let flags = tcgetattr(&self.slave)?.local_flags;
        ensure!(
            flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG),
            "the terminal was left raw: {flags:?}"
        );
        Ok(status.code())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_is_used_left_found_again_and_ended() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let mut at = Terminal::start(
        node,
        &["run", "-it", "--rm", "--name", "one", &shell.image, "sh"],
    )?;
    at.sees("# ").await?;
    at.write("stty size; echo x$((40+2))\r")?;
    at.sees("33 111").await?;
    at.sees("x42").await?;
    at.write("sleep 4250\r")?;
    at.sees("sleep 4250").await?;
    // A shell that has not started it yet would not end it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    at.write("\x03")?;
    at.sees("# ").await?;
    at.write("echo after\r")?;
    at.sees("\nafter").await?;
    at.write("\x10\x11")?;
    at.sees("berthctl attach one").await?;
    assert_eq!(at.ends().await?, Some(0));

    let mut at = Terminal::start(node, &["attach", "one"])?;
    at.write("echo y$((40+3))\r")?;
    at.sees("y43").await?;

    let mut other = Terminal::start(node, &["exec", "-it", "one", "sh"])?;
    other.sees("# ").await?;
    other.write("tty; exit 6\r")?;
    other.sees("/dev/pts/1").await?;
    assert_eq!(other.ends().await?, Some(6));

    at.write("exit 3\r")?;
    assert_eq!(at.ends().await?, Some(3));
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_goes_through_run_and_a_terminal_needs_one() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let input = node.home().join("input");
    std::fs::write(&input, "one\ntwo\n")?;
    let output = node.ctl_from(
        &[
            "run",
            "-i",
            "--rm",
            &shell.image,
            "sh",
            "-c",
            "wc -l; exit 4",
        ],
        File::open(&input)?.into(),
    )?;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "2");
    assert_eq!(output.status.code(), Some(4));
    let refused = ctl(node, &["run", "-it", "--rm", &shell.image, "sh"])?;
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("not a terminal"), "{}", refused.err);
    berth_integration::wait::until_true("--rm removes it", LIMIT, || {
        Ok(ok(node, &["ps", "-a", "-q"])?.out.is_empty())
    })
    .await?;
    // A program that is not there leaves nothing behind, attached or not.
    let missing = ctl(node, &["run", "-i", &shell.image, "/no/such/program"])?;
    assert_eq!(missing.code, 127, "{}", missing.err);
    assert!(ok(node, &["pods", "-q"])?.out.is_empty());
    shell.finish().await
}

/// A terminal of tmux, as a person has it.
struct Tmux<'n> {
    node: &'n Node,
    socket: String,
}

impl<'n> Tmux<'n> {
    fn start(node: &'n Node) -> Result<Self> {
        let this = Self {
            node,
            socket: node.home().join("tmux").display().to_string(),
        };
        let shell = "env PS1='$ ' sh";
        this.run(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            shell,
        ])?;
        this.run(&["set", "-g", "window-size", "manual"])?;
        Ok(this)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.node.netns().enter(|| {
            Command::new("tmux")
                .args(["-S", &self.socket])
                .args(arguments)
                .env("HOME", self.node.home())
                .env_remove("TMUX")
                .output()
                .context("run tmux")
        })?;
        ensure!(
            output.status.success(),
            "tmux {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn types(&self, text: &str) -> Result<()> {
        self.run(&["send-keys", "-l", text])?;
        self.presses(&["Enter"])
    }

    fn presses(&self, keys: &[&str]) -> Result<()> {
        self.run(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Waits until a line of the screen is `wanted`.
    async fn sees(&self, wanted: &str) -> Result<()> {
        let mut screen = String::new();
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            screen = self.run(&["capture-pane", "-p"])?;
            if screen.lines().any(|line| line.trim_end() == wanted) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{wanted:?} does not appear; there is\n{screen}")
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        drop(self.run(&["kill-server"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_tmux_is_resized_interrupted_left_and_survived() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("tmux", crate::fixture::OBEYS).await?;
    let tmux = Tmux::start(node)?;
    let berthctl = programs::directory()?.join("berthctl");
    let alias = format!("alias b='{} -H {}'", berthctl.display(), node.endpoint());
    tmux.types(&alias)?;
    tmux.types(&format!("b exec -it {} sh", pod.container))?;
    tmux.types("stty size")?;
    tmux.sees("30 100").await?;
    tmux.run(&["resize-window", "-x", "90", "-y", "25"])?;
    // The change takes a moment to get there.
    tokio::time::sleep(Duration::from_millis(500)).await;
    tmux.types("stty size")?;
    tmux.sees("25 90").await?;
    tmux.types("sleep 4260; echo interrupted $?")?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    tmux.presses(&["C-c"])?;
    tmux.types("echo still here")?;
    tmux.sees("still here").await?;
    tmux.presses(&["C-p", "C-q"])?;
    tmux.types("clear; echo left $?")?;
    tmux.sees("left 0").await?;
    // A signal that ends it leaves a terminal in which one can go on.
    tmux.types("clear")?;
    tmux.types(&format!("b exec -it {} sleep 4261", pod.container))?;
    berth_integration::wait::until_true("it runs", LIMIT, || {
        let ps = ok(node, &["exec", &pod.container, "ps"])?.out;
        Ok(ps.contains("sleep 4261"))
    })
    .await?;
    let client = Command::new("pkill")
        .args([
            "-QUIT",
            "-f",
            &format!("{} exec -it.*sleep 4261", node.endpoint()),
        ])
        .status()?;
    ensure!(client.success(), "pkill: {client}");
    tmux.types("echo code $?; stty -a | grep -o ' echo '")?;
    tmux.sees("code 131").await?;
    tmux.sees(" echo").await?;
    drop(tmux);
    shell.finish().await
}
