//! Making a unix socket that nobody else can have opened or replaced unseen.

use std::{
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::sys::{
    socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr},
    stat::{Mode, fchmod},
};

use super::{ListenError, directory::parent_directory};

/// Connections that wait for an accept; the kernel's own default maximum.
const BACKLOG: i32 = 4096;

/// A socket and the file that stands for it.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    /// Device and inode, to tell our file from one that took its place.
    pub(super) file: (u64, u64),
}

/// Binds `path`. A socket that nobody answers on is replaced.
///
/// # Errors
/// If somebody answers, if it is something else than a socket, or what the
/// kernel refused.
pub(super) fn bind(path: &Path) -> Result<Bound, ListenError> {
    parent_directory(path)?;
    remove_stale(path)?;
    let fd = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .map_err(|errno| ListenError::io("create a socket for", path)(errno.into()))?;
    // bind(2) gives the file the mode of the socket's own inode (less the
    // umask), so that there is no moment at which others could connect.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|errno| ListenError::io("set the mode of", path)(errno.into()))?;
    let address = UnixAddr::new(path)
        .map_err(|errno| ListenError::io("make an address of", path)(errno.into()))?;
    socket::bind(fd.as_raw_fd(), &address)
        .map_err(|errno| ListenError::io("bind", path)(errno.into()))?;
    let backlog = Backlog::new(BACKLOG)
        .map_err(|errno| ListenError::io("choose a backlog for", path)(errno.into()))?;
    socket::listen(&fd, backlog)
        .map_err(|errno| ListenError::io("listen on", path)(errno.into()))?;
    let made = fs::symlink_metadata(path).map_err(ListenError::io("look at", path))?;
    Ok(Bound {
        listener: UnixListener::from(fd),
        path: path.to_owned(),
        file: (made.dev(), made.ino()),
    })
}

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ListenError::io("look at", path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        // Nobody listens: the socket of an agent that was killed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(ListenError::io("remove the stale socket", path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ListenError::io("ask who serves", path)(error)),
        Ok(_) => Err(ListenError::Taken(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_its_owner_alone_in_a_directory_of_its_own() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("new/agent.sock");
        let bound = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777,
            0o700
        );
        UnixStream::connect(&bound.path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("agent.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists());
        let live = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(ListenError::Taken(_))));
        UnixStream::connect(&path).unwrap();
        drop(live);
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("agent.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
