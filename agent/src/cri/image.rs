//! `runtime.v1.ImageService`.

use std::sync::Arc;

use berth_proto::cri::{self, image_service_server::ImageService};
use tonic::{Request, Response, Status};

use super::{
    deadline,
    stream::{Streamed, pieces},
};
use crate::{
    error::{Error, Kind},
    image,
    node::Node,
};

/// Serves the ImageService.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    node: Arc<Node>,
}

impl Images {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn name(spec: Option<cri::ImageSpec>) -> Result<String, Status> {
    spec.map(|spec| spec.image)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Status::invalid_argument("the request names no image"))
}

/// A kubelet knows a registry that does not answer by the first word, and takes errors
/// by their words only if they have no code.
fn told_to_kubelets(error: Error) -> Status {
    if error.kind() == Kind::Unavailable {
        return Status::unknown(format!("RegistryUnavailable: {}", error.sentence()));
    }
    error.into()
}

/// The one image that a list is about.
fn wanted(filter: Option<cri::ImageFilter>) -> Option<String> {
    let image = filter.and_then(|filter| filter.image);
    image
        .map(|image| image.image)
        .filter(|name| !name.is_empty())
}

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Answer<cri::ListImagesResponse> {
        let wanted = wanted(request.into_inner().filter);
        Ok(Response::new(cri::ListImagesResponse {
            images: image::list(&self.node, wanted.as_deref()),
        }))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let request = request.into_inner();
        let name = name(request.image)?;
        let (image, info) = image::status(&self.node, &name, request.verbose)?;
        Ok(Response::new(cri::ImageStatusResponse { image, info }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Answer<cri::PullImageResponse> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let name = name(request.image)?;
        let pulled = image::pull(
            &self.node,
            &name,
            image::Machines::default(),
            request.auth,
            None,
            deadline,
        )
        .await
        .map_err(told_to_kubelets)?;
        Ok(Response::new(cri::PullImageResponse {
            image_ref: pulled.id,
        }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        let deadline = deadline(&request);
        let name = name(request.into_inner().image)?;
        image::remove(&self.node, &name, deadline).await?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Answer<cri::ImageFsInfoResponse> {
        let usage = image::fs_usage(&self.node).await?;
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![usage.images],
            container_filesystems: vec![usage.containers],
        }))
    }

    type StreamImagesStream = Streamed<cri::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let wanted = wanted(request.into_inner().filter);
        let items = image::list(&self.node, wanted.as_deref());
        Ok(pieces(items, |images| cri::StreamImagesResponse { images }))
    }
}
