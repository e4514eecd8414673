//! Debian's docker-registry, the reference implementation of the distribution
//! specification, and skopeo, a client that is not ours.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{NetNs, programs, wait};

/// The user that a registry with a password knows.
pub const USER: &str = "me";
/// That user's password; it has the characters that encodings stumble over.
pub const PASSWORD: &str = "pa55:word";
/// `me:pa55:word` in htpasswd's form (bcrypt, five rounds: it is no secret).
const HTPASSWD: &str = "me:$2y$05$berthberthberthberthbepfh71SxqNjQyqk2rIHwifcMki9BZSSa\n";
/// From the start of the program until it listens; it takes tens of milliseconds.
const READY: Duration = Duration::from_secs(20);

/// What a registry wants of its clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// [`USER`] and [`PASSWORD`].
    pub password: bool,
    /// TLS, with a certificate of an authority of its own.
    pub tls: bool,
}

/// A running docker-registry; it ends when this value is dropped.
#[derive(Debug)]
pub struct Distribution {
    child: Child,
    home: TempDir,
    host: String,
}

impl Distribution {
    /// Starts a registry on `port` of the loopback address of `netns`.
    ///
    /// # Errors
    /// If the program is missing, or does not listen in time.
    pub async fn start(netns: &NetNs, port: u16, wants: Wants) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let host = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}/data}}}}\n\
             http:\n  addr: {host}\n  secret: of the tests\n",
            home.path().display()
        );
        let file = |name: &str| home.path().join(name);
        if wants.tls {
            certificates(home.path())?;
            config += &format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                file("server.crt").display(),
                file("server.key").display()
            );
        }
        if wants.password {
            fs::write(file("htpasswd"), HTPASSWD)?;
            let path = file("htpasswd");
            config += &format!(
                "auth: {{htpasswd: {{realm: tests, path: {}}}}}\n",
                path.display()
            );
        }
        fs::write(file("config.yml"), config)?;
        let program = programs::tool("debian/usr/bin/docker-registry")?;
        let log = fs::File::create(file("log"))?;
        let child = netns.enter(|| {
            Command::new(program)
                .arg("serve")
                .arg(home.path().join("config.yml"))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("start docker-registry")
        })?;
        let registry = Self { child, home, host };
        wait::until("the registry listens", READY, || async {
            let connected =
                netns.enter(|| Ok(std::net::TcpStream::connect(&registry.host).is_ok()))?;
            Ok(connected.then_some(()))
        })
        .await?;
        Ok(registry)
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The directory with `ca.crt`, the authority of its certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.home.path().join("ca")
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        // Ended already: nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An authority, and a certificate of its for the loopback address.
fn certificates(home: &Path) -> Result<()> {
    let openssl = |arguments: &str| -> Result<()> {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(home)
            .stdin(Stdio::null())
            .output()
            .context("run openssl")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "openssl {arguments}: {said}");
        Ok(())
    };
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    fs::create_dir(home.join("ca"))?;
    openssl(&format!(
        "req -x509 {KEY} -days 2 -subj /CN=tests -keyout ca.key -out ca/ca.crt"
    ))?;
    openssl(&format!(
        "req -new {KEY} -subj /CN=127.0.0.1 -keyout server.key -out server.csr"
    ))?;
    fs::write(
        home.join("extensions"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )?;
    openssl(
        "x509 -req -in server.csr -CA ca/ca.crt -CAkey ca.key -CAcreateserial -days 2 \
         -extfile extensions -out server.crt",
    )
}

/// Runs skopeo in `netns`; its standard output.
///
/// # Errors
/// If it is missing, or fails.
pub fn skopeo(netns: &NetNs, arguments: &[&str]) -> Result<String> {
    let program = programs::tool("debian/usr/bin/skopeo")?;
    let home = tempfile::tempdir()?;
    let Output {
        status,
        stdout,
        stderr,
    } = netns.enter(|| {
        Command::new(program)
            // Debian's policy file is in another package; this is about bytes.
            .arg("--insecure-policy")
            .args(arguments)
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .stdin(Stdio::null())
            .output()
            .context("run skopeo")
    })?;
    let said = String::from_utf8_lossy(&stderr).into_owned();
    ensure!(status.success(), "skopeo {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}
