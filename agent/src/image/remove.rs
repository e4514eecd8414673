//! RemoveImage, and the deletion of what no image owns.

use std::{
    collections::HashSet,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use berth_image::LiveSet;
use berth_phase::Phase;
use tokio::time::Instant;

use super::convert;
use crate::{
    error::{Error, Result},
    node::{Node, blocking},
    operation::{Request, Value, Verb},
    recovery::{Findings, kind},
};

/// Removes the image that `name` stands for, with all its names. What is not there
/// is removed. Layers that a container still uses stay until it is gone.
///
/// # Errors
/// InvalidArgument for what is no name of an image.
pub(crate) async fn remove(node: &Arc<Node>, name: &str, deadline: Option<Instant>) -> Result<()> {
    let Some(image) = node.images.find(name)? else {
        // An earlier call may have come no further than its record.
        if node.images.garbage.load(Ordering::Acquire) {
            collect(node).await?;
        }
        return Ok(());
    };
    let request = Request::new(Verb::RemoveImage, image.id.clone()).deadline(deadline);
    let node_in = node.clone();
    node.operations
        .run(request, move |context| async move {
            let node = node_in;
            context.enter(Phase::Record, "")?;
            {
                let _turn = node.images.turn.lock().await;
                node.images.garbage.store(true, Ordering::Release);
                node.store.delete_image(&image.id).await?;
                node.images.drop_image(&image.id);
            }
            context.enter(Phase::Delete, "")?;
            collect(&node).await?;
            Ok(Value::Done)
        })
        .await
        .map(drop)
}

/// Deletes layers and blobs that neither an image nor a container owns. Returns how
/// many there were.
///
/// # Errors
/// Internal if the disk does not obey.
pub(crate) async fn collect(node: &Arc<Node>) -> Result<Findings> {
    if node.facts.aside.is_some() {
        // Images that were lost with their records may be wanted back.
        return Ok(Findings::default());
    }
    let _turn = node.images.turn.lock().await;
    // Before the records are looked at: a container that is made meanwhile holds its layers.
    let collection = node.images.store.begin_collection();
    let mut layers = HashSet::new();
    let mut blobs = HashSet::new();
    for image in node.images.all() {
        layers.extend(image.layers.iter().cloned());
        for blob in &image.blobs {
            let digest = blob
                .digest
                .parse()
                .map_err(|error: berth_image::DigestError| {
                    Error::internal(format!("record of image {}", image.id)).with_source(error)
                })?;
            blobs.insert(digest);
        }
    }
    for container in node.containers() {
        layers.extend(container.record().layers.iter().cloned());
    }
    let freed = blocking("delete what no image owns", move || {
        let freed = collection
            .run(&LiveSet { layers, blobs })
            .map_err(convert)?;
        let mut deleted = Findings::default();
        deleted.add(kind::IMAGE_LAYER, freed.layers);
        deleted.add(kind::IMAGE_BLOB, freed.blobs);
        Ok(deleted)
    })
    .await?;
    node.images.garbage.store(false, Ordering::Release);
    Ok(freed)
}

/// Collects for as long as the node lives: pulls that failed leave whole layers, which the
/// next try finds, and a collection may itself have failed.
pub(crate) async fn collect_at_intervals(node: Weak<Node>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(node) = node.upgrade() else {
            return;
        };
        match collect(&node).await {
            Ok(freed) if freed.total() == 0 => {}
            Ok(freed) => tracing::info!(%freed, "deleted what no image owns"),
            Err(error) => tracing::warn!(
                error = error.sentence(),
                "what no image owns could not be deleted"
            ),
        }
    }
}

/// After the end of a container: its image may have been removed before it.
pub(crate) async fn collect_after(node: &Arc<Node>, image_id: &str) {
    if node.images.all().iter().any(|image| image.id == image_id) {
        return;
    }
    if let Err(error) = collect(node).await {
        tracing::warn!(
            error = error.sentence(),
            "layers of a removed image could not be deleted"
        );
    }
}
