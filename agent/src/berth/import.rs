//! Images from bytes that the caller sends.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    sync::Arc,
    time::Duration,
};

use berth_image::{ImportFormat, ImportOptions};
use berth_proto::berth::v1::{
    ImportRequest, ImportedImage, import_header::Format, import_request::Part,
};
use tonic::Streaming;

use super::pull::platform;
use crate::{
    error::{Error, Kind, Result},
    image,
    node::Node,
};

/// A sender that is silent for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Between two looks at the free space.
const LOOK: u64 = 8 << 20;
/// Most that is taken; the disk's own limit usually comes first.
const LARGEST: u64 = 64 * 1024 * 1024 * 1024;

pub(super) async fn import(
    node: &Arc<Node>,
    mut stream: Streaming<ImportRequest>,
) -> Result<Vec<ImportedImage>> {
    let header = match next(&mut stream).await? {
        Some(Part::Header(header)) => header,
        _ => return Err(Error::invalid("an import begins with its header")),
    };
    let reference = match header.reference.as_str() {
        "" => None,
        name => Some(image::parse(name)?),
    };
    let format = match header.format() {
        Format::Auto => ImportFormat::Auto,
        Format::OciLayout => ImportFormat::OciLayout,
        Format::DockerArchive => ImportFormat::DockerArchive,
        Format::Rootfs => ImportFormat::Rootfs,
    };
    let failed = |error| Error::io("keep the bytes of an import", error);
    // Without a name, so that nothing stays whatever happens.
    let mut file: File = tempfile::tempfile_in(&node.dirs.root).map_err(failed)?;
    let (mut length, mut looked) = (0_u64, 0);
    while let Some(part) = next(&mut stream).await? {
        let Part::Chunk(chunk) = part else {
            return Err(Error::invalid("an import has one header"));
        };
        length += chunk.len() as u64;
        if length > LARGEST {
            return Err(Error::invalid(format!(
                "an import of more than {LARGEST} bytes is refused"
            )));
        }
        if length >= looked {
            looked = length + LOOK;
            node.images.store.room().map_err(|error| {
                Error::new(Kind::ResourceExhausted, "keep the bytes of an import")
                    .with_source(error)
            })?;
        }
        file.write_all(&chunk).map_err(failed)?;
    }
    file.rewind().map_err(failed)?;
    let options = ImportOptions {
        format,
        reference,
        config: (!header.config.is_empty()).then_some(header.config),
        all_platforms: header.platform.is_empty(),
        platform: platform(&header.platform)?.unwrap_or_else(|| node.config.platform()),
    };
    let images = image::import(node, file, options, header.replace).await?;
    Ok(images
        .into_iter()
        .map(|(image_id, references)| ImportedImage {
            image_id,
            references,
        })
        .collect())
}

async fn next(stream: &mut Streaming<ImportRequest>) -> Result<Option<Part>> {
    match tokio::time::timeout(SILENCE, stream.message()).await {
        Err(_elapsed) => Err(Error::deadline(format!(
            "nothing came for {} s",
            SILENCE.as_secs()
        ))),
        Ok(Err(status)) => {
            Err(Error::cancelled("the import ended before it was complete").with_source(status))
        }
        Ok(Ok(message)) => Ok(message.and_then(|message| message.part)),
    }
}
