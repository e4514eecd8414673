//! The images that demo and tests use.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Entry, Image, Layer};

/// Programs that every image here has, all of them links to one busybox.
pub const APPLETS: &[&str] = &[
    "[",
    "awk",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hostname",
    "httpd",
    "id",
    "ifconfig",
    "ip",
    "ipcs",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mount",
    "mv",
    "nc",
    "nslookup",
    "od",
    "ping",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "route",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tar",
    "tee",
    "test",
    "time",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "uname",
    "uniq",
    "unshare",
    "usleep",
    "vi",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
    "yes",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      daemon:x:1:1:daemon:/:/bin/false\n\
                      www-data:x:33:33:www-data:/var/www:/bin/false\n\
                      default-user:x:1000:1000::/home/default-user:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\n\
                     daemon:x:1:\n\
                     www-data:x:33:\n\
                     default-user:x:1000:\n\
                     extra:x:50000:default-user\n\
                     nogroup:x:65534:\n";

/// Where Debian's package busybox-static puts its program.
const BUSYBOX: &[&str] = &["target/tools/debian/bin/busybox", "/bin/busybox"];

/// Reads the busybox that `make tools` provides.
fn read_busybox() -> Result<Vec<u8>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var_os("BERTH_BUSYBOX").map(std::path::PathBuf::from);
    let found = named
        .into_iter()
        .chain(BUSYBOX.iter().map(|path| workspace.join(path)))
        .find(|path| path.is_file());
    let path = found.context("no static busybox: run `make tools` (package busybox-static)")?;
    std::fs::read(&path).with_context(|| format!("read {}", path.display()))
}

fn base(busybox: &[u8]) -> Vec<Entry> {
    let mut entries = vec![
        Entry::directory("bin", 0o755),
        Entry::file("bin/busybox", 0o755, busybox),
    ];
    for applet in APPLETS {
        entries.push(Entry::symlink(&format!("bin/{applet}"), "busybox"));
    }
    entries.extend([
        Entry::directory("etc", 0o755),
        Entry::file("etc/passwd", 0o644, PASSWD),
        Entry::file("etc/group", 0o644, GROUP),
        Entry::directory("home", 0o755),
        Entry::directory("home/default-user", 0o755).owner(1000, 1000),
        Entry::directory("root", 0o700),
        Entry::directory("tmp", 0o1777),
        Entry::directory("usr", 0o755),
        Entry::directory("var", 0o755),
    ]);
    entries
}

/// A small system with a shell.
///
/// # Errors
/// If there is no busybox.
pub fn busybox() -> Result<Image> {
    let layer = Layer::gzip(&base(&read_busybox()?))?;
    let config = json!({
        "Cmd": ["/bin/sh"],
        "Env": ["PATH=/bin:/usr/bin"],
        "Labels": { "org.opencontainers.image.title": "busybox" },
    });
    Image::new(&[layer], config)
}

/// A small system with a shell and `entries` over it.
///
/// # Errors
/// If there is no busybox, or a layer cannot be written.
pub fn busybox_with(entries: &[Entry], config: serde_json::Value) -> Result<Image> {
    let layers = [
        Layer::gzip(&base(&read_busybox()?))?,
        Layer::plain(entries)?,
    ];
    Image::new(&layers, config)
}

/// Counts aloud until it is asked to stop, says goodbye and exits with 7.
const DEMO: &str = "\
#!/bin/sh
trap 'echo \"asked to stop after $count counts\"; exit 7' TERM
count=0
while :; do
    count=$((count + 1))
    echo \"count $count\"
    usleep 200000
done
";

/// What the demo runs: a shell, and a script in a second layer that is stored
/// without compression.
///
/// # Errors
/// If there is no busybox.
pub fn demo() -> Result<Image> {
    let layers = [
        Layer::gzip(&base(&read_busybox()?))?,
        Layer::plain(&[Entry::file("bin/count", 0o755, DEMO)])?,
    ];
    let config = json!({
        "Entrypoint": ["/bin/count"],
        "Env": ["PATH=/bin:/usr/bin"],
        "StopSignal": "SIGTERM",
        "Labels": { "org.opencontainers.image.title": "count" },
    });
    Image::new(&layers, config)
}

/// What [`overlaying`] is made of: a gzip layer, and a plain one whose content
/// depends on what lies below.
///
/// # Errors
/// If a layer cannot be written.
pub fn overlaying(busybox: &[u8]) -> Result<Image> {
    let mut lower = base(busybox);
    lower.extend([
        Entry::directory("data", 0o755),
        Entry::file("data/keep", 0o640, "kept\n").owner(1000, 50000),
        Entry::file("data/gone", 0o644, "gone\n"),
        Entry::file("data/replaced", 0o644, "old\n"),
        Entry::directory("opaque", 0o755),
        Entry::file("opaque/below", 0o644, "below\n"),
        Entry::directory("usr/lib", 0o755),
        Entry::file("usr/lib/below", 0o644, "below\n"),
        Entry::symlink("lib", "usr/lib"),
        Entry::directory("private", 0o700).owner(1000, 1000),
        Entry::file("bin/setuid", 0o4755, busybox),
        Entry::file("data/noted", 0o644, "noted\n").xattr("user.berth", b"note"),
    ]);
    let upper = [
        // Both orders of a mark and an entry of one name are in use.
        Entry::whiteout("data/gone"),
        Entry::whiteout("data/replaced"),
        Entry::file("data/replaced", 0o600, "new\n"),
        Entry::opaque("opaque"),
        Entry::file("opaque/above", 0o644, "above\n"),
        // An implied parent that is a symlink below.
        Entry::file("lib/above", 0o644, "above\n"),
        // A link to a file of the layer below.
        Entry::hard_link("data/linked", "data/keep"),
        // An implied parent whose mode and owner are those below.
        Entry::file("private/inner", 0o600, "inner\n").owner(1000, 1000),
    ];
    let layers = [Layer::gzip(&lower)?, Layer::plain(&upper)?];
    Image::new(&layers, json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] }))
}

impl Image {
    /// [`overlaying`] with a real busybox.
    ///
    /// # Errors
    /// If there is no busybox.
    pub fn overlaying() -> Result<Self> {
        overlaying(&read_busybox()?)
    }
}

/// A layer whose entry climbs out of its root.
///
/// # Errors
/// If the layer cannot be written.
pub fn climbing(path: &str) -> Result<Image> {
    Image::new(
        &[Layer::gzip(&[Entry::file(path, 0o644, "escaped\n")])?],
        json!({}),
    )
}

/// A layer of `size` zero bytes, which gzip makes a thousandth of.
///
/// # Errors
/// If the layer cannot be written.
pub fn bomb(size: usize) -> Result<Image> {
    Image::new(
        &[Layer::gzip(&[Entry::file("zeros", 0o644, vec![0; size])])?],
        json!({}),
    )
}
