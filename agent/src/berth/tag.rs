//! Names of images.

use std::sync::Arc;

use berth_proto::berth::v1::{TagRequest, TagResponse, UntagRequest, UntagResponse};
use tokio::time::Instant;

use crate::{error::Result, image, node::Node};

pub(super) async fn tag(
    node: &Arc<Node>,
    request: TagRequest,
    deadline: Option<Instant>,
) -> Result<TagResponse> {
    let tagged = image::tag(node, &request.image, &request.name, deadline).await?;
    Ok(TagResponse {
        image_id: tagged.image_id,
        name: tagged.name,
        previous_image_id: tagged.previous.unwrap_or_default(),
    })
}

pub(super) async fn untag(
    node: &Arc<Node>,
    request: UntagRequest,
    deadline: Option<Instant>,
) -> Result<UntagResponse> {
    let how = image::Untag {
        remove: request.remove,
        force: request.force,
    };
    let untagged = image::untag(node, &request.image, how, deadline).await?;
    Ok(UntagResponse {
        image_id: untagged.image_id,
        untagged: untagged.names,
        removed: untagged.removed,
    })
}
