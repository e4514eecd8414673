//! Which of an index's images fits a machine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Operating system, architecture and variant, in Go's words as OCI has them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, `linux`.
    pub os: String,
    /// Architecture, such as `amd64` or `arm64`.
    pub architecture: String,
    /// Variant, such as `v3` for amd64 or `v8` for arm64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// What this machine runs best.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = host_architecture();
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an offer fits: lower is better, `None` is not at all.
    ///
    /// A higher variant runs lower ones, never the reverse; no variant means the lowest.
    pub(crate) fn rank(&self, os: &str, architecture: &str, variant: Option<&str>) -> Option<u32> {
        if os != self.os || architecture != self.architecture {
            return None;
        }
        let lowest = match architecture {
            "arm64" => 8,
            "arm" => 5,
            _ => 1,
        };
        let level = |variant: Option<&str>| match variant {
            None | Some("") => Some(lowest),
            Some(text) => text.strip_prefix('v')?.parse::<u32>().ok(),
        };
        // An unknown variant fits only itself.
        match (level(self.variant.as_deref()), level(variant)) {
            (Some(have), Some(offered)) => have.checked_sub(offered),
            _ => (self.variant.as_deref() == variant).then_some(0),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn host_architecture() -> (&'static str, Option<&'static str>) {
    // The levels of the x86-64 psABI; each feature stands for its level's newest part.
    let v2 = std::is_x86_feature_detected!("sse4.2") && std::is_x86_feature_detected!("popcnt");
    let v3 = v2
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("bmi2")
        && std::is_x86_feature_detected!("fma");
    let v4 = v3
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vl");
    let variant = match (v2, v3, v4) {
        (_, _, true) => Some("v4"),
        (_, true, _) => Some("v3"),
        (true, ..) => Some("v2"),
        _ => None,
    };
    ("amd64", variant)
}

#[cfg(not(target_arch = "x86_64"))]
fn host_architecture() -> (&'static str, Option<&'static str>) {
    match std::env::consts::ARCH {
        "aarch64" => ("arm64", Some("v8")),
        "arm" => ("arm", Some("v7")),
        "powerpc64" => ("ppc64le", None),
        other => (other, None),
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_takes_the_highest_variant_that_it_can_run() {
        let v3 = Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: Some("v3".into()),
        };
        assert_eq!(v3.rank("linux", "amd64", None), Some(2));
        assert_eq!(v3.rank("linux", "amd64", Some("v2")), Some(1));
        assert_eq!(v3.rank("linux", "amd64", Some("v3")), Some(0));
        assert_eq!(v3.rank("linux", "amd64", Some("v4")), None);
        assert_eq!(v3.rank("linux", "arm64", None), None);
        assert_eq!(v3.rank("windows", "amd64", None), None);
        let arm = Platform {
            architecture: "arm64".into(),
            variant: None,
            ..v3
        };
        assert_eq!(arm.rank("linux", "arm64", Some("v8")), Some(0));
    }
}
