//! Images as an archive for a caller.

use std::{io::Write, sync::Arc};

use berth_image::{Digest, Recorded, Reference};
use berth_phase::Phase;

use super::{convert, full_name, tag::here};
use crate::{
    error::{Error, Result},
    node::{Node, blocking},
    operation::{Request, Value, Verb},
    store::ImageRecord,
};

/// Where an archive goes: told its size first.
pub(crate) trait Sink: Write + Send + 'static {
    /// The archive will have `size` bytes.
    ///
    /// # Errors
    /// If nobody is there any more.
    fn begin(&mut self, size: u64) -> std::io::Result<()>;
}

/// Writes the images that `names` stand for into `sink`, each under the names
/// that it was asked for by.
///
/// # Errors
/// NotFound for an image that is not here; FailedPrecondition if its blobs are not.
pub(crate) async fn export(node: &Arc<Node>, names: &[String], mut sink: impl Sink) -> Result<()> {
    let images = chosen(node, names)?;
    // Two exports are never the same: each has a reader of its own.
    let key = crate::ids::ContainerId::random()?.to_string();
    let node_in = node.clone();
    node.operations
        .run(Request::new(Verb::Export, key), move |context| async move {
            context.enter(Phase::Verify, "blobs")?;
            let store = node_in.images.store.clone();
            let (tracker, cancel) = (context.tracker.clone(), context.cancel.clone());
            blocking("export images", move || {
                let archive = store.archive(&images).map_err(convert)?;
                let gone = |error| {
                    Error::cancelled("the reader of the archive has gone").with_source(error)
                };
                sink.begin(archive.size()).map_err(gone)?;
                archive.write(sink, &tracker, &cancel).map_err(convert)
            })
            .await?;
            Ok(Value::Done)
        })
        .await
        .map(drop)
}

/// Each image once, with all names that it was asked for by.
fn chosen(node: &Node, names: &[String]) -> Result<Vec<Recorded>> {
    if names.is_empty() {
        return Err(Error::invalid("no image is named"));
    }
    let mut chosen: Vec<Recorded> = Vec::new();
    for name in names {
        let record = here(node, name)?;
        let mut image = recorded(&record)?;
        let reference = name.parse::<Reference>().ok();
        let asked = reference.filter(|reference| record.names.contains(&full_name(reference)));
        image.named = target(&record, asked.as_ref().map(full_name).as_deref())?;
        let same = |other: &&mut Recorded| other.id == image.id && other.named == image.named;
        match chosen.iter_mut().find(same) {
            Some(other) => {
                let new = asked.filter(|name| !other.names.contains(name));
                other.names.extend(new);
            }
            None => {
                image.names.extend(asked);
                chosen.push(image);
            }
        }
    }
    Ok(chosen)
}

/// The manifest or index that `name` of an image stands for; without a name, that any of
/// its names does.
///
/// # Errors
/// Internal if the record is not what was written.
pub(super) fn target(record: &ImageRecord, name: Option<&str>) -> Result<Option<Digest>> {
    let text = match name {
        Some(name) => record.target(name),
        None => record.names.iter().find_map(|name| record.target(name)),
    };
    text.map(|text| digest(record, text)).transpose()
}

fn digest(record: &ImageRecord, text: &str) -> Result<Digest> {
    text.parse().map_err(|error: berth_image::DigestError| {
        Error::internal(format!("record of image {}", record.id)).with_source(error)
    })
}

/// A record as the library takes it, without names. Which of its manifests is meant is the
/// caller's to say.
///
/// # Errors
/// Internal if the record is not what was written.
pub(super) fn recorded(record: &ImageRecord) -> Result<Recorded> {
    Ok(Recorded {
        id: digest(record, &record.id)?,
        blobs: record
            .blobs
            .iter()
            .map(|blob| digest(record, &blob.digest))
            .collect::<Result<_>>()?,
        named: None,
        names: Vec::new(),
    })
}
