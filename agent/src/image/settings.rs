//! The library's settings from the agent's configuration.

use berth_image::{Limits, Platform, Registries, Settings};

use crate::config::Config;

impl Config {
    /// How images are fetched and what they may cost.
    pub(crate) fn image_settings(&self) -> Settings {
        Settings {
            registries: Registries {
                plain_http: self.image.insecure_registries.clone(),
                tls: self.image.tls_registries.clone(),
                extra_ca: self.image.extra_ca.clone(),
            },
            limits: Limits {
                layer_bytes: self.image.max_image_bytes,
                ..Limits::default()
            },
        }
    }

    /// Which image of an index is taken.
    pub(crate) fn platform(&self) -> Platform {
        self.image
            .platform
            .as_ref()
            .map_or_else(Platform::host, |platform| Platform {
                os: platform.os.clone(),
                architecture: platform.architecture.clone(),
                variant: platform.variant.clone(),
            })
    }
}
