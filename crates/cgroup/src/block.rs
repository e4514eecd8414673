//! Limits of block devices, and how each version spells them.

use crate::Error;

/// Weights as the runtime specification and v1 count them.
const WEIGHT: std::ops::RangeInclusive<u16> = 10..=1000;
/// More devices than a node has are a mistake.
const MAX_DEVICES: usize = 256;

/// Weights and limits of I/O. Empty: not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Against siblings, 10 to 1000; 500 is v1's default.
    pub weight: Option<u16>,
    /// Of the group's own processes against groups below it (v1 with CFQ only).
    pub leaf_weight: Option<u16>,
    /// Weights on single devices.
    pub device_weights: Vec<BlockWeight>,
    /// Limits on single devices.
    pub throttles: Vec<BlockThrottle>,
}

/// A weight on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockWeight {
    /// Of the device.
    pub major: u32,
    /// Of the device.
    pub minor: u32,
    /// As [`BlockIo::weight`].
    pub weight: Option<u16>,
    /// As [`BlockIo::leaf_weight`].
    pub leaf_weight: Option<u16>,
}

/// A limit on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockThrottle {
    /// Of what.
    pub kind: Throttle,
    /// Of the device.
    pub major: u32,
    /// Of the device.
    pub minor: u32,
    /// Bytes or operations per second; 0 takes the limit away.
    pub rate: u64,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttle {
    /// Bytes read per second.
    ReadBytes,
    /// Bytes written per second.
    WriteBytes,
    /// Reads per second.
    ReadOperations,
    /// Writes per second.
    WriteOperations,
}

impl Throttle {
    /// v1's file.
    fn file(self) -> &'static str {
        match self {
            Self::ReadBytes => "blkio.throttle.read_bps_device",
            Self::WriteBytes => "blkio.throttle.write_bps_device",
            Self::ReadOperations => "blkio.throttle.read_iops_device",
            Self::WriteOperations => "blkio.throttle.write_iops_device",
        }
    }

    /// v2's key in `io.max`.
    fn key(self) -> &'static str {
        match self {
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
            Self::ReadOperations => "riops",
            Self::WriteOperations => "wiops",
        }
    }
}

/// A value and the files that take it: the first that exists is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockWrite {
    pub(crate) field: &'static str,
    pub(crate) file: &'static str,
    pub(crate) value: String,
    /// File and value of another scheduler.
    pub(crate) instead: Option<(&'static str, String)>,
}

impl BlockIo {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let devices = self.device_weights.len() + self.throttles.len();
        if devices > MAX_DEVICES {
            let allowed = format!("at most {MAX_DEVICES} devices");
            return Err(Error::invalid("block_io", devices, allowed));
        }
        let of_devices = self
            .device_weights
            .iter()
            .flat_map(|device| [device.weight, device.leaf_weight]);
        let all = [self.weight, self.leaf_weight];
        for weight in all.into_iter().chain(of_devices).flatten() {
            if !WEIGHT.contains(&weight) {
                return Err(Error::invalid("block_io.weight", weight, "10 to 1000"));
            }
        }
        Ok(())
    }

    pub(crate) fn v1(&self) -> Vec<BlockWrite> {
        let write = |field, file, value: String| BlockWrite {
            field,
            file,
            value,
            instead: None,
        };
        let mut writes = Vec::new();
        // The files of CFQ are gone since Linux 5.0; BFQ has its own.
        writes.extend(self.weight.map(|weight| BlockWrite {
            instead: Some(("blkio.bfq.weight", weight.to_string())),
            ..write("block_io.weight", "blkio.weight", weight.to_string())
        }));
        if let Some(weight) = self.leaf_weight {
            let field = "block_io.leaf_weight";
            writes.push(write(field, "blkio.leaf_weight", weight.to_string()));
        }
        for device in &self.device_weights {
            let name = format!("{}:{}", device.major, device.minor);
            if let Some(weight) = device.weight {
                writes.push(BlockWrite {
                    instead: Some(("blkio.bfq.weight_device", format!("{name} {weight}"))),
                    ..write(
                        "block_io.device_weights",
                        "blkio.weight_device",
                        format!("{name} {weight}"),
                    )
                });
            }
            if let Some(weight) = device.leaf_weight {
                let value = format!("{name} {weight}");
                writes.push(write(
                    "block_io.device_weights",
                    "blkio.leaf_weight_device",
                    value,
                ));
            }
        }
        writes.extend(self.throttles.iter().map(|one| {
            let value = format!("{}:{} {}", one.major, one.minor, one.rate);
            write("block_io.throttles", one.kind.file(), value)
        }));
        writes
    }

    pub(crate) fn v2(&self) -> Result<Vec<BlockWrite>, Error> {
        let leaf = self.device_weights.iter().find_map(|one| one.leaf_weight);
        if let Some(weight) = self.leaf_weight.or(leaf) {
            let allowed = "nothing: cgroup v2 has no leaf weights";
            return Err(Error::invalid("block_io.leaf_weight", weight, allowed));
        }
        let mut writes = Vec::new();
        // BFQ's scale is v1's; that of the kernel's own is another.
        let weights = |field, name: &str, weight: u16| BlockWrite {
            field,
            file: "io.bfq.weight",
            value: format!("{name} {weight}"),
            instead: Some(("io.weight", format!("{name} {}", convert(weight)))),
        };
        if let Some(weight) = self.weight {
            writes.push(weights("block_io.weight", "default", weight));
        }
        for device in &self.device_weights {
            if let Some(weight) = device.weight {
                let name = format!("{}:{}", device.major, device.minor);
                writes.push(weights("block_io.device_weights", &name, weight));
            }
        }
        writes.extend(self.throttles.iter().map(|one| {
            let rate = match one.rate {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            BlockWrite {
                field: "block_io.throttles",
                file: "io.max",
                value: format!("{}:{} {}={rate}", one.major, one.minor, one.kind.key()),
                instead: None,
            }
        }));
        Ok(writes)
    }
}

/// 10 to 1000 becomes 1 to 10000, in a straight line, as other runtimes do it.
fn convert(weight: u16) -> u32 {
    1 + (u32::from(weight).saturating_sub(10)) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> BlockIo {
        BlockIo {
            weight: Some(500),
            leaf_weight: None,
            device_weights: vec![BlockWeight {
                major: 8,
                minor: 0,
                weight: Some(1000),
                leaf_weight: None,
            }],
            throttles: vec![
                BlockThrottle {
                    kind: Throttle::ReadBytes,
                    major: 8,
                    minor: 16,
                    rate: 1 << 20,
                },
                BlockThrottle {
                    kind: Throttle::WriteOperations,
                    major: 8,
                    minor: 16,
                    rate: 0,
                },
            ],
        }
    }

    fn shown(writes: &[BlockWrite]) -> Vec<String> {
        let each = |write: &BlockWrite| match &write.instead {
            Some((file, value)) => format!("{}={} or {file}={value}", write.file, write.value),
            None => format!("{}={}", write.file, write.value),
        };
        writes.iter().map(each).collect()
    }

    #[test]
    fn each_version_has_its_files_and_each_scheduler_its_scale() {
        assert_eq!(
            shown(&full().v1()),
            [
                "blkio.weight=500 or blkio.bfq.weight=500",
                "blkio.weight_device=8:0 1000 or blkio.bfq.weight_device=8:0 1000",
                "blkio.throttle.read_bps_device=8:16 1048576",
                "blkio.throttle.write_iops_device=8:16 0",
            ]
        );
        assert_eq!(
            shown(&full().v2().unwrap()),
            [
                "io.bfq.weight=default 500 or io.weight=default 4950",
                "io.bfq.weight=8:0 1000 or io.weight=8:0 10000",
                "io.max=8:16 rbps=1048576",
                "io.max=8:16 wiops=max",
            ]
        );
    }

    #[test]
    fn what_a_version_does_not_have_is_refused_there() {
        let mut leaf = full();
        leaf.leaf_weight = Some(100);
        assert!(leaf.check().is_ok());
        assert!(leaf.v2().is_err());
        for weight in [1, 9, 1001] {
            let block = BlockIo {
                weight: Some(weight),
                ..BlockIo::default()
            };
            assert!(block.check().is_err(), "{weight}");
        }
    }
}
