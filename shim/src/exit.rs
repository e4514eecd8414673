//! The exit record: what is known of a container's end, on disk before anybody is told.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use berth_proto::shim::Exited;
use berth_sys::resolve::{self, Scope};
use nix::{fcntl::renameat, libc};
use prost::Message as _;

/// Its name in the shim's directory.
const RECORD: &str = "exit";

/// Writes the record under a temporary name and renames it: a reader finds the
/// whole record or none. Not synced: it must survive this process, and the
/// directory does not survive the machine.
pub(crate) fn write_record(dir: &OwnedFd, exited: &Exited) -> io::Result<()> {
    let temporary = Path::new("exit.new");
    let flags = libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY | libc::O_NOFOLLOW;
    let file = resolve::open(dir, temporary, flags, 0o600, Scope::Beneath)?;
    File::from(file).write_all(&exited.encode_to_vec())?;
    renameat(dir.as_fd(), temporary, dir.as_fd(), RECORD)?;
    Ok(())
}
