//! What a group uses beyond [`crate::Stats`]: figures that are asked for seldom.

use std::{collections::BTreeMap, fs};

use crate::{Group, apply::NO_LIMIT, file};

/// Where the kernel lists the sizes of huge pages that it has.
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages";

/// Use of a group at a moment, in detail. What the node does not account is 0, none or
/// missing from its list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Bytes of page cache.
    pub memory_cache: u64,
    /// Bytes of files that are mapped.
    pub memory_mapped_file: u64,
    /// Bytes of page cache that was used twice of late.
    pub memory_active_file: u64,
    /// Bytes of page cache that is dropped first.
    pub memory_inactive_file: u64,
    /// Bytes that the kernel holds for the group.
    pub memory_kernel: Option<u64>,
    /// Bytes of memory that are swapped out.
    pub memory_swap: u64,
    /// How often the limit of memory was reached.
    pub memory_failures: u64,
    /// Page faults of the group itself, without those below it.
    pub own_page_faults: u64,
    /// Of them those that read from disk.
    pub own_major_page_faults: u64,
    /// Bytes that are spared while memory is short; none if there is no such limit.
    pub memory_reservation: Option<u64>,
    /// Huge pages by size.
    pub hugepages: Vec<HugepageUse>,
    /// Block devices, by number.
    pub io: Vec<DeviceIo>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugepageUse {
    /// As the kernel spells it: `2MB`.
    pub size: String,
    /// Bytes.
    pub usage: u64,
    /// The most at one time in bytes; v2 does not say.
    pub most: Option<u64>,
}

/// Traffic with one block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
}

impl Group {
    /// Reads what it uses, in detail.
    #[must_use]
    pub fn details(&self) -> Details {
        let mut details = Details::default();
        self.read_memory_details(&mut details);
        details.hugepages = self.hugepages();
        details.io = self.io();
        details
    }

    fn read_memory_details(&self, details: &mut Details) {
        let Some(dir) = self.with("memory") else {
            return;
        };
        let text = file::read(&dir.fd, "memory.stat").unwrap_or_default();
        let keyed = |key| file::keyed(&text, key);
        let number = |name| file::number(&dir.fd, name);
        details.own_page_faults = keyed("pgfault").unwrap_or(0);
        details.own_major_page_faults = keyed("pgmajfault").unwrap_or(0);
        if dir.v2 {
            let events = file::read(&dir.fd, "memory.events").unwrap_or_default();
            details.memory_failures = file::keyed(&events, "max").unwrap_or(0);
            details.memory_cache = keyed("file").unwrap_or(0);
            details.memory_mapped_file = keyed("file_mapped").unwrap_or(0);
            details.memory_active_file = keyed("active_file").unwrap_or(0);
            details.memory_inactive_file = keyed("inactive_file").unwrap_or(0);
            details.memory_kernel = keyed("kernel");
            details.memory_swap = number("memory.swap.current").unwrap_or(0);
            details.memory_reservation = number("memory.low").filter(|&bytes| bytes > 0);
        } else {
            details.memory_failures = number("memory.failcnt").unwrap_or(0);
            details.memory_cache = keyed("total_cache").unwrap_or(0);
            details.memory_mapped_file = keyed("total_mapped_file").unwrap_or(0);
            details.memory_active_file = keyed("total_active_file").unwrap_or(0);
            details.memory_inactive_file = keyed("total_inactive_file").unwrap_or(0);
            details.memory_kernel = number("memory.kmem.usage_in_bytes");
            details.memory_swap = keyed("total_swap").unwrap_or(0);
            details.memory_reservation =
                number("memory.soft_limit_in_bytes").filter(|&limit| limit < NO_LIMIT);
        }
    }

    fn hugepages(&self) -> Vec<HugepageUse> {
        let Some(dir) = self.with("hugetlb") else {
            return Vec::new();
        };
        let sizes = hugepage_sizes().into_iter();
        let used = sizes.filter_map(|size| {
            let number = |kind: &str| file::number(&dir.fd, &format!("hugetlb.{size}.{kind}"));
            let (usage, most) = if dir.v2 {
                (number("current")?, None)
            } else {
                (number("usage_in_bytes")?, number("max_usage_in_bytes"))
            };
            Some(HugepageUse { size, usage, most })
        });
        used.collect()
    }

    fn io(&self) -> Vec<DeviceIo> {
        let mut devices = BTreeMap::new();
        if let Some(dir) = self.v1("blkio") {
            for (name, bytes) in [
                ("blkio.throttle.io_service_bytes_recursive", true),
                ("blkio.throttle.io_serviced_recursive", false),
            ] {
                let text = file::read(&dir.fd, name).unwrap_or_default();
                parse_v1(&text, bytes, &mut devices);
            }
        } else if let Some(dir) = self.with("io") {
            parse_v2(
                &file::read(&dir.fd, "io.stat").unwrap_or_default(),
                &mut devices,
            );
        }
        devices.into_values().collect()
    }
}

type Devices = BTreeMap<(u32, u32), DeviceIo>;

fn device<'a>(devices: &'a mut Devices, name: &str) -> Option<&'a mut DeviceIo> {
    let (major, minor) = name.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    Some(devices.entry((major, minor)).or_insert(DeviceIo {
        major,
        minor,
        ..DeviceIo::default()
    }))
}

/// Lines such as `253:0 Read 4096`; the last is a total without a device.
fn parse_v1(text: &str, bytes: bool, devices: &mut Devices) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(name), Some(kind), Some(number)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        let Some(device) = device(devices, name) else {
            continue;
        };
        match (kind, bytes) {
            ("Read", true) => device.read_bytes = number,
            ("Write", true) => device.write_bytes = number,
            ("Read", false) => device.reads = number,
            ("Write", false) => device.writes = number,
            _ => {}
        }
    }
}

/// Lines such as `253:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn parse_v2(text: &str, devices: &mut Devices) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some(device) = words.next().and_then(|name| device(devices, name)) else {
            continue;
        };
        for (name, number) in words.filter_map(|word| word.split_once('=')) {
            let Ok(number) = number.parse() else { continue };
            match name {
                "rbytes" => device.read_bytes = number,
                "wbytes" => device.write_bytes = number,
                "rios" => device.reads = number,
                "wios" => device.writes = number,
                _ => {}
            }
        }
    }
}

/// As the names of control files spell them, smallest first.
fn hugepage_sizes() -> Vec<String> {
    let entries = fs::read_dir(HUGEPAGES).into_iter().flatten().flatten();
    let mut kilobytes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let size = name.to_str()?.strip_prefix("hugepages-")?;
            size.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    kilobytes.sort_unstable();
    kilobytes.into_iter().map(size_name).collect()
}

fn size_name(kilobytes: u64) -> String {
    match kilobytes {
        kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
        kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
        kb => format!("{kb}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_the_same_of_a_device() {
        let (mut v1, mut v2) = (Devices::new(), Devices::new());
        parse_v1(
            "253:0 Read 4096\n253:0 Write 8192\nTotal 1\n",
            true,
            &mut v1,
        );
        parse_v1(
            "253:0 Read 1\n253:0 Write 2\n253:0 Sync 9\n",
            false,
            &mut v1,
        );
        parse_v2(
            "253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\nnonsense\n",
            &mut v2,
        );
        assert_eq!(v1, v2);
        assert_eq!(v1[&(253, 0)].write_bytes, 8192);
    }

    #[test]
    fn sizes_are_spelled_as_the_files_are() {
        let names = [64, 2048, 32768, 1 << 20].map(size_name);
        assert_eq!(names, ["64KB", "2MB", "32MB", "1GB"]);
    }
}
