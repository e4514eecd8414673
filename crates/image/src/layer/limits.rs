//! How much an archive may cost.

use std::os::fd::AsFd;

/// What one layer may cost at most. Each limit is far above any honest image.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one layer's archive after inflation.
    pub layer_bytes: u64,
    /// Entries of one layer.
    pub entries: u64,
    /// Bytes after inflation per compressed byte, beyond [`Limits::ratio_free`].
    ///
    /// Gzip reaches 1,032; programs and text stay below 20.
    pub ratio: u64,
    /// So many inflated bytes are never judged by the ratio.
    pub ratio_free: u64,
    /// Bytes that must stay free on the file system.
    pub reserve_bytes: u64,
    /// Inodes that must stay free on the file system.
    pub reserve_inodes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 128 << 30,
            entries: 4_000_000,
            ratio: 200,
            ratio_free: 256 << 20,
            reserve_bytes: 64 << 20,
            reserve_inodes: 1_000,
        }
    }
}

/// A limit that an archive exceeded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// Too many bytes.
    #[error("the layer inflates to more than {0} bytes, the limit for one layer")]
    Bytes(u64),
    /// Too many entries.
    #[error("the layer has more than {0} entries, the limit for one layer")]
    Entries(u64),
    /// Too good a compression.
    #[error(
        "the layer inflates {inflated} bytes from {compressed}: more than {ratio} to one is \
         taken for an attack"
    )]
    Ratio {
        /// Bytes so far.
        inflated: u64,
        /// Bytes they came from.
        compressed: u64,
        /// The limit.
        ratio: u64,
    },
    /// The disk would be full.
    #[error("the image store's file system has less than {0} bytes left; free some space")]
    Space(u64),
    /// The disk would be out of inodes.
    #[error("the image store's file system has less than {0} inodes left; free some")]
    Inodes(u64),
}

/// Between two looks at the free space of the file system.
const LOOK_BYTES: u64 = 32 << 20;
const LOOK_ENTRIES: u64 = 4_096;

/// What is left of the limits while one layer is unpacked.
#[derive(Debug)]
pub(crate) struct Budget<'a> {
    limits: &'a Limits,
    entries: u64,
    bytes: u64,
    look_bytes: u64,
    look_entries: u64,
}

impl<'a> Budget<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            entries: 0,
            bytes: 0,
            look_bytes: 0,
            look_entries: 0,
        }
    }

    pub(crate) fn entry(&mut self, fs: impl AsFd) -> Result<(), Exceeded> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Exceeded::Entries(self.limits.entries));
        }
        if self.entries > self.look_entries {
            self.look_entries = self.entries + LOOK_ENTRIES;
            self.look(fs)?;
        }
        Ok(())
    }

    pub(crate) fn bytes(&mut self, count: u64, fs: impl AsFd) -> Result<(), Exceeded> {
        self.bytes += count;
        if self.bytes > self.limits.layer_bytes {
            return Err(Exceeded::Bytes(self.limits.layer_bytes));
        }
        if self.bytes > self.look_bytes {
            self.look_bytes = self.bytes + LOOK_BYTES;
            self.look(fs)?;
        }
        Ok(())
    }

    fn look(&self, fs: impl AsFd) -> Result<(), Exceeded> {
        // A file system that cannot say is left to answer ENOSPC itself.
        let Ok(stat) = rustix::fs::fstatvfs(fs) else {
            return Ok(());
        };
        if stat.f_bavail.saturating_mul(stat.f_frsize) < self.limits.reserve_bytes {
            return Err(Exceeded::Space(self.limits.reserve_bytes));
        }
        // Some file systems (btrfs) have no fixed number of inodes and say 0.
        if stat.f_files > 0 && stat.f_favail < self.limits.reserve_inodes {
            return Err(Exceeded::Inodes(self.limits.reserve_inodes));
        }
        Ok(())
    }
}
