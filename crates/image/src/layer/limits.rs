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
    /// Of each hundred bytes of the file system so many must stay free; the larger of
    /// the two reserves counts.
    pub reserve_percent: u8,
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
            reserve_bytes: 256 << 20,
            reserve_percent: 0,
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
    /// Decompression would take too much memory.
    #[error(
        "the layer needs {mebibytes} MiB of memory to decompress, more than the {limit} MiB allowed"
    )]
    Window {
        /// What it asks for.
        mebibytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The disk would be full.
    #[error(
        "the image store's file system has {free} bytes left, and {reserve} are kept in reserve \
         (image.disk_reserve); free some space"
    )]
    Space {
        /// Bytes left.
        free: u64,
        /// The limit.
        reserve: u64,
    },
    /// The disk would be out of inodes.
    #[error("the image store's file system has less than {0} inodes left; free some")]
    Inodes(u64),
}

impl Exceeded {
    /// Whether it is the disk that has too little, not the archive that has too much.
    pub(crate) fn is_about_disk(&self) -> bool {
        match self {
            Self::Space { .. } | Self::Inodes(_) => true,
            Self::Bytes(_) | Self::Entries(_) | Self::Ratio { .. } | Self::Window { .. } => false,
        }
    }
}

/// Between two looks at the free space of the file system.
const LOOK_BYTES: u64 = 8 << 20;
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
        self.limits.room(fs)
    }
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Left for us.
    pub(crate) free: u64,
    /// To be kept free.
    pub(crate) reserve: u64,
}

impl Limits {
    /// What is free on the file system of `fs`; `None` if it cannot say.
    pub(crate) fn space(&self, fs: impl AsFd) -> Option<Room> {
        let stat = rustix::fs::fstatvfs(fs).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let percent = bytes(stat.f_blocks) / 100 * u64::from(self.reserve_percent);
        Some(Room {
            free: bytes(stat.f_bavail),
            reserve: self.reserve_bytes.max(percent),
        })
    }

    /// Fails if less than the reserve is free on the file system of `fs`.
    pub(crate) fn room(&self, fs: impl AsFd) -> Result<(), Exceeded> {
        let fs = fs.as_fd();
        // A file system that cannot say is left to answer ENOSPC itself.
        let Some(Room { free, reserve }) = self.space(fs) else {
            return Ok(());
        };
        if free < reserve {
            return Err(Exceeded::Space { free, reserve });
        }
        let Ok(stat) = rustix::fs::fstatvfs(fs) else {
            return Ok(());
        };
        // Some file systems (btrfs) have no fixed number of inodes and say 0.
        if stat.f_files > 0 && stat.f_favail < self.reserve_inodes {
            return Err(Exceeded::Inodes(self.reserve_inodes));
        }
        Ok(())
    }
}
