//! The shim's program as something that no container can overwrite.

use std::{
    fs::{self, File},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_sys::{memfd, mount};

use crate::Error;

/// What shims start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramSource {
    /// A memory sealed against every change.
    SealedMemory,
    /// A detached read-only mount of the file, where `vm.memfd_noexec` forbids the
    /// memory. Weaker: who reaches it as root can clear the read-only flag.
    ReadOnlyMount,
}

impl ProgramSource {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SealedMemory => "sealed-memfd",
            Self::ReadOnlyMount => "read-only-mount",
        }
    }
}

/// The shim's program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    source: ProgramSource,
}

impl Program {
    /// Takes the program at `path`.
    ///
    /// # Errors
    /// [`Error::System`] if it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let what = format!("reading the shim's program {}", path.display());
        let mut file = File::open(path).map_err(Error::system(&what))?;
        match memfd::sealed_program(c"berth-shim", &mut file) {
            Ok(fd) => Ok(Self {
                fd,
                source: ProgramSource::SealedMemory,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let tree = mount::clone_tree(&file, c"", false).map_err(Error::system(&what))?;
                mount::set_attributes(&tree, mount::attr::RDONLY, 0, 0, false)
                    .map_err(Error::system(&what))?;
                let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
                let fd = File::open(path).map_err(Error::system(&what))?.into();
                Ok(Self {
                    fd,
                    source: ProgramSource::ReadOnlyMount,
                })
            }
            Err(error) => Err(Error::system(what)(error)),
        }
    }

    /// Takes the memory that process `pid` runs from, if it is sealed and has the
    /// very bytes of `path`: each new memory begins a new set of pages, so an
    /// agent that starts again shares the one of the shims that are there.
    #[must_use]
    pub fn share(pid: i32, path: &Path) -> Option<Self> {
        let file = File::open(format!("/proc/{pid}/exe")).ok()?;
        let sealed = memfd::is_sealed_program(&file).ok()?;
        let same = sealed && same_bytes(&file, path)?;
        same.then(|| Self {
            fd: file.into(),
            source: ProgramSource::SealedMemory,
        })
    }

    /// What it is.
    #[must_use]
    pub fn source(&self) -> ProgramSource {
        self.source
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A path that executes it, valid while `self` lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

fn same_bytes(memory: &File, path: &Path) -> Option<bool> {
    // About a megabyte each, once at the agent's start.
    let memory = fs::read(format!("/proc/self/fd/{}", memory.as_raw_fd())).ok()?;
    Some(memory == fs::read(path).ok()?)
}
