//! What an image says of the containers that are made from it.

use berth_image::ImageConfig;

use crate::{
    error::{Error, Result},
    spec::ImageFacts,
    store::ImageRecord,
};

/// The image's configuration as it was recorded.
///
/// # Errors
/// Internal if the record is not what was written.
pub(crate) fn config(image: &ImageRecord) -> Result<ImageConfig> {
    serde_json::from_value(image.config.clone()).map_err(|error| {
        Error::internal(format!("read the configuration of image {}", image.id)).with_source(error)
    })
}

/// As far as it matters for a container's specification.
///
/// # Errors
/// As [`config`].
pub(crate) fn facts(image: &ImageRecord) -> Result<ImageFacts> {
    let config = config(image)?;
    Ok(ImageFacts {
        user: config.user,
        env: config.env,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        working_dir: config.working_dir,
        volumes: config.volumes,
        stop_signal: config.stop_signal,
    })
}
