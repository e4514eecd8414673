//! The library's settings from the agent's configuration.

use berth_image::{Limits, Platform, Proxies, Registries, Settings};

use crate::config::{Config, Reserve};

impl Config {
    /// How images are fetched and what they may cost.
    pub(crate) fn image_settings(&self) -> Settings {
        Settings {
            registries: Registries {
                trace: Some(crate::telemetry::trace_headers),
                plain_http: self.image.insecure_registries.clone(),
                tls: self.image.tls_registries.clone(),
                extra_ca: self.image.extra_ca.clone(),
                hosts_dirs: self.image.hosts_dirs.clone(),
                proxies: Proxies::from_env(),
                ..Registries::default()
            },
            limits: self.image_limits(),
            keep_blobs: self.image.keep_blobs,
        }
    }

    fn image_limits(&self) -> Limits {
        let (reserve_bytes, reserve_percent) = match self.image.disk_reserve {
            Reserve::Bytes(bytes) => (bytes, 0),
            Reserve::Percent(percent) => (0, percent),
        };
        Limits {
            layer_bytes: self.image.max_image_bytes,
            reserve_bytes,
            reserve_percent,
            ..Limits::default()
        }
    }

    /// Which image of an index is taken.
    pub(crate) fn platform(&self) -> Platform {
        let chosen = self.image.platform.clone();
        chosen.map_or_else(Platform::host, Platform::from)
    }
}

impl From<crate::config::Platform> for Platform {
    fn from(platform: crate::config::Platform) -> Self {
        Self {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant,
        }
    }
}
