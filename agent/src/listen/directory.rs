//! Directories that nobody else may look into.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use super::ListenError;

/// For the owner alone.
const PRIVATE: u32 = 0o700;

/// Makes `path` a directory of mode 0700: creates it with its parents, or
/// tightens what an older installation or a person left open. The umask does
/// not matter.
///
/// # Errors
/// If `path` is something else (a symbolic link, too), belongs to another user,
/// or the kernel refuses.
pub(crate) fn private_directory(path: &Path) -> Result<(), ListenError> {
    let created = fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE)
        .create(path);
    match created {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ListenError::io("create directory", path)(error));
        }
        _ => {}
    }
    // Not through a link: what is changed must be what was asked for.
    let found = fs::symlink_metadata(path).map_err(ListenError::io("look at", path))?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(ListenError::NotADirectory(path.to_owned()));
    }
    if found.mode() & 0o7777 != PRIVATE {
        fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE))
            .map_err(ListenError::io("change the mode of", path))?;
    }
    Ok(())
}

/// Creates the directory that `path` lies in, with mode 0700; leaves one that
/// is there as it is, since it may be everybody's (`/run`).
pub(super) fn parent_directory(path: &Path) -> Result<(), ListenError> {
    match path.parent() {
        Some(parent) if !parent.exists() => private_directory(parent),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_directory_is_created_private_and_an_open_one_is_tightened() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b");
        private_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&home.path().join("a")), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        private_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn links_and_files_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink(home.path(), &link).unwrap();
        assert!(private_directory(&file).is_err());
        assert!(private_directory(&link).is_err());
    }
}
