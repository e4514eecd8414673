//! The library's settings from the agent's configuration.

use crate::config::Config;

impl Config {
    /// How images are fetched.
    pub(crate) fn image_settings(&self) -> berth_image::Settings {
        berth_image::Settings::default()
    }

    /// Which image of an index is taken; none for the machine's own.
    pub(crate) fn platform(&self) -> Option<berth_image::Platform> {
        None
    }
}
