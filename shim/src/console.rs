//! The container's terminal, opened in its own devpts and passed to the shim.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use berth_proto::shim::Failure;
use berth_sys::{
    mount,
    resolve::{self, Scope},
    terminal,
};
use nix::libc;

use crate::wire::Step as _;

/// Both ends of the container's terminal.
pub(crate) struct Console {
    pub(crate) master: OwnedFd,
    pub(crate) inside: OwnedFd,
}

impl Console {
    /// Sets its size in characters, unless one is 0.
    pub(crate) fn resize(&self, rows: u32, columns: u32) -> io::Result<()> {
        match (u16::try_from(rows), u16::try_from(columns)) {
            (Ok(0), _) | (_, Ok(0)) => Ok(()),
            (Ok(rows), Ok(columns)) => terminal::set_size(&self.inside, rows, columns),
            _ => Err(io::Error::from_raw_os_error(libc::ERANGE)),
        }
    }
}

/// Opens a terminal in the devpts below `root` and shows it as `/dev/console`.
pub(crate) fn open(root: &OwnedFd) -> Result<Console, Failure> {
    let console = open_pair(root)?;
    let target = resolve::make_file(root, Path::new("dev/console"), Scope::Beneath)
        .step("mount", || "making /dev/console".to_owned())?;
    let tree = mount::clone_tree(console.inside.as_fd(), c"", false)
        .step("mount", || "cloning the terminal's node".to_owned())?;
    mount::attach(&tree, &target).step("mount", || "mounting /dev/console".to_owned())?;
    Ok(console)
}

/// Opens a terminal in the devpts below `root`.
/// No links are followed: /dev is the runtime's, whatever the image says.
pub(crate) fn open_pair(root: &OwnedFd) -> Result<Console, Failure> {
    let ptmx = Path::new("dev/pts/ptmx");
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = resolve::open(root, ptmx, flags, 0, Scope::Beneath)
        .step("mount", || "opening /dev/pts/ptmx".to_owned())?;
    terminal::unlock(&master).step("mount", || "unlocking the terminal".to_owned())?;
    let inside = terminal::open_peer(&master)
        .step("mount", || "opening the terminal's other end".to_owned())?;
    Ok(Console { master, inside })
}
