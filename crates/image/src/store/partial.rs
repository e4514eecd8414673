//! Beginnings of blobs, kept so that a transfer goes on where it broke.
//!
//! What such a file holds is nobody's promise: after a crash it may be zeros.
//! The digest of the whole decides, and bytes that do not fit are fetched anew.

use std::{
    fs::File,
    os::fd::AsFd as _,
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{Inner, Kept};
use crate::{
    Error,
    layer::{open_beneath, read_names},
    name::Digest,
};

/// Fewer bytes are not worth a file.
const LENGTH_MIN: u64 = 64 << 10;

/// How much of what broke is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartialLimits {
    files: usize,
    bytes: u64,
    age: Duration,
}

/// A pull is tried again within minutes, or by somebody else within a day; ten images
/// of a few layers each may break together.
pub(super) const PARTIAL_LIMITS: PartialLimits = PartialLimits {
    files: 64,
    bytes: 8 << 30,
    age: Duration::from_secs(24 * 60 * 60),
};

/// The file that one transfer writes; it alone, as long as this lives.
#[derive(Debug)]
pub(crate) struct Partial {
    store: Arc<Inner>,
    name: String,
    pub(crate) file: File,
    /// Bytes that an earlier transfer has left.
    pub(crate) length: u64,
}

fn partial_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

impl Partial {
    /// Opens the beginning of the blob `digest` of `size` bytes; an empty one if there is none.
    ///
    /// The caller sees to it that there is one at a time for each digest.
    pub(crate) fn open(store: &Arc<Inner>, digest: &Digest, size: u64) -> Result<Self, Error> {
        let name = partial_name(digest);
        let shown = || format!("partial/{name}");
        store.busy_partials().insert(name.clone());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = fs::openat(&store.partial, &*name, flags, Mode::RUSR | Mode::WUSR);
        let file = opened.map(File::from).map_err(|errno| {
            store.busy_partials().remove(&name);
            Error::store("open", shown())(errno)
        })?;
        let mut partial = Self {
            store: Arc::clone(store),
            name: name.clone(),
            file,
            length: 0,
        };
        let meta = partial.file.metadata();
        partial.length = meta.map_err(Error::store_io("look at", shown()))?.len();
        if partial.length > size {
            partial.empty()?;
        }
        store.trim_partials(&PARTIAL_LIMITS)?;
        Ok(partial)
    }

    /// Forgets what was there.
    pub(crate) fn empty(&mut self) -> Result<(), Error> {
        self.length = 0;
        self.file
            .set_len(0)
            .map_err(Error::store_io("empty", format!("partial/{}", self.name)))
    }

    /// What to name the blob `digest` after.
    pub(crate) fn kept<'a>(&'a self, digest: &'a Digest) -> Kept<'a> {
        Kept {
            directory: self.store.partial.as_fd(),
            name: &self.name,
            digest,
        }
    }

    /// Removes the file.
    pub(crate) fn discard(self) -> Result<(), Error> {
        self.store.remove_partial(&self.name)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // If it has become a blob meanwhile, there is nothing under this name.
        let small = self.file.metadata();
        if small.is_ok_and(|meta| meta.len() < LENGTH_MIN)
            && let Err(error) = self.store.remove_partial(&self.name)
        {
            tracing::warn!(name = self.name, %error, "cannot remove the beginning of a blob");
        }
        self.store.busy_partials().remove(&self.name);
    }
}

impl Inner {
    fn busy_partials(&self) -> std::sync::MutexGuard<'_, std::collections::HashSet<String>> {
        self.partials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_partial(&self, name: &str) -> Result<(), Error> {
        match fs::unlinkat(&self.partial, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::store("remove", format!("partial/{name}"))(errno)),
        }
    }

    /// Bytes of a blob that are here from an earlier transfer.
    pub(crate) fn partial_length(&self, digest: &Digest) -> u64 {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        fs::statat(&self.partial, partial_name(digest), flags)
            .map_or(0, |stat| stat.st_size.unsigned_abs())
    }

    /// Bytes and number of all beginnings.
    pub(super) fn partial_use(&self) -> Result<(u64, u64), Error> {
        let list = self.partials_by_age()?;
        let bytes = list.iter().map(|(_, _, bytes)| bytes).sum();
        Ok((bytes, list.len() as u64))
    }

    /// Removes beginnings that nobody writes: too old, too many, too large; the oldest first.
    pub(super) fn trim_partials(&self, limits: &PartialLimits) -> Result<(), Error> {
        let mut list = self.partials_by_age()?;
        let busy = self.busy_partials();
        list.retain(|(_, name, _)| !busy.contains(name));
        let mut files = list.len();
        let mut bytes: u64 = list.iter().map(|(_, _, bytes)| bytes).sum();
        let born = SystemTime::now().checked_sub(limits.age);
        for (time, name, size) in list {
            let old = born.is_some_and(|born| time < born);
            if !old && files <= limits.files && bytes <= limits.bytes {
                break;
            }
            // Under the lock, so that nobody begins to write it meanwhile.
            self.remove_partial(&name)?;
            files -= 1;
            bytes -= size;
        }
        Ok(())
    }

    /// Removes all that nobody writes but `spared`; for a disk that is full.
    pub(crate) fn drop_partials(&self, spared: &[&Digest]) -> Result<(), Error> {
        let spared: Vec<String> = spared.iter().map(|digest| partial_name(digest)).collect();
        let list = self.partials_by_age()?;
        let busy = self.busy_partials();
        for (_, name, _) in list {
            if !busy.contains(&name) && !spared.contains(&name) {
                self.remove_partial(&name)?;
            }
        }
        Ok(())
    }

    /// Time of the last write, name and size of each, oldest first.
    fn partials_by_age(&self) -> Result<Vec<(SystemTime, String, u64)>, Error> {
        let mut list = Vec::new();
        for name in read_names(&self.partial).map_err(Error::store("list", "partial"))? {
            let Ok(file) = open_beneath(&self.partial, &name, OFlags::PATH | OFlags::NOFOLLOW)
            else {
                continue;
            };
            let meta = File::from(file).metadata();
            let meta = meta.map_err(Error::store_io("look at", "partial"))?;
            let time = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            list.push((
                time,
                String::from_utf8_lossy(&name).into_owned(),
                meta.len(),
            ));
        }
        list.sort();
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::Store;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    fn leave(store: &Store, text: &str, bytes: usize) -> Digest {
        let digest = Digest::of(text.as_bytes());
        let mut partial = Partial::open(&store.0, &digest, u64::MAX).unwrap();
        partial.file.write_all(&vec![7; bytes]).unwrap();
        digest
    }

    #[test]
    fn a_beginning_is_found_again_unless_it_is_too_small_or_too_long() {
        let (_directory, store) = store();
        let digest = leave(&store, "a", 100_000);
        let again = Partial::open(&store.0, &digest, 200_000).unwrap();
        assert_eq!(again.length, 100_000);
        drop(again);
        let longer_than_the_blob = Partial::open(&store.0, &digest, 99_999).unwrap();
        assert_eq!(longer_than_the_blob.length, 0);
        drop(longer_than_the_blob);
        leave(&store, "small", 10);
        assert_eq!(store.0.partial_use().unwrap(), (0, 0));
    }

    #[test]
    fn beginnings_are_bounded_in_number_size_and_age_but_not_while_they_are_written() {
        let (_directory, store) = store();
        let limits = |files, bytes, age| PartialLimits {
            files,
            bytes,
            age: Duration::from_secs(age),
        };
        let names: Vec<_> = (0..4)
            .map(|n| leave(&store, &n.to_string(), 70_000))
            .collect();
        let left = || {
            let there = names.iter().map(|name| store.0.partial_length(name) > 0);
            there.collect::<Vec<_>>()
        };
        let written = Partial::open(&store.0, &names[0], u64::MAX).unwrap();
        store.0.trim_partials(&limits(2, 1 << 30, 3600)).unwrap();
        assert_eq!(left(), [true, false, true, true]);
        store.0.trim_partials(&limits(9, 100_000, 3600)).unwrap();
        assert_eq!(left(), [true, false, false, true]);
        let file = std::fs::File::open(store.path().join("partial").join(partial_name(&names[3])));
        let old = SystemTime::now() - Duration::from_secs(7200);
        file.unwrap().set_modified(old).unwrap();
        store.0.trim_partials(&limits(9, 1 << 30, 3600)).unwrap();
        assert_eq!(left(), [true, false, false, false]);
        drop(written);
        store.0.drop_partials(&[&names[0]]).unwrap();
        assert_eq!(left(), [true, false, false, false]);
        store.0.drop_partials(&[]).unwrap();
        assert_eq!(left(), [false; 4]);
    }
}
