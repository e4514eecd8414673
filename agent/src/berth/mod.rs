//! `berth.v1.Node`: what people ask of a node beyond the CRI.

mod exec;
mod explain;
mod export;
mod import;
mod info;
mod pull;
mod push;
mod run;
mod tag;

pub(crate) use run::resume;

use std::{pin::Pin, sync::Arc};

use berth_proto::{
    berth::v1::{self, node_server::Node as NodeService},
    cri,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::{container, cri::deadline, doctor, image, node::Node, sandbox};

/// Serves `berth.v1.Node`.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    node: Arc<Node>,
}

impl Service {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl NodeService for Service {
    async fn info(&self, _: Request<v1::InfoRequest>) -> Answer<v1::InfoResponse> {
        Ok(Response::new(info::info(&self.node)))
    }

    type PullStream = Pin<Box<dyn Stream<Item = Result<v1::PullProgress, Status>> + Send>>;

    async fn pull(&self, request: Request<v1::PullRequest>) -> Answer<Self::PullStream> {
        let deadline = deadline(&request);
        let stream = pull::pull(self.node.clone(), request.into_inner(), deadline);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn import(
        &self,
        request: Request<Streaming<v1::ImportRequest>>,
    ) -> Answer<v1::ImportResponse> {
        let images = import::import(&self.node, request.into_inner()).await?;
        Ok(Response::new(v1::ImportResponse { images }))
    }

    async fn tag(&self, request: Request<v1::TagRequest>) -> Answer<v1::TagResponse> {
        let deadline = deadline(&request);
        let answer = tag::tag(&self.node, request.into_inner(), deadline).await?;
        Ok(Response::new(answer))
    }

    async fn untag(&self, request: Request<v1::UntagRequest>) -> Answer<v1::UntagResponse> {
        let deadline = deadline(&request);
        let answer = tag::untag(&self.node, request.into_inner(), deadline).await?;
        Ok(Response::new(answer))
    }

    type PushStream = Pin<Box<dyn Stream<Item = Result<v1::PushProgress, Status>> + Send>>;

    async fn push(&self, request: Request<v1::PushRequest>) -> Answer<Self::PushStream> {
        let deadline = deadline(&request);
        let stream = push::push(self.node.clone(), request.into_inner(), deadline);
        Ok(Response::new(Box::pin(stream)))
    }

    type ExportStream = Pin<Box<dyn Stream<Item = Result<v1::ExportResponse, Status>> + Send>>;

    async fn export(&self, request: Request<v1::ExportRequest>) -> Answer<Self::ExportStream> {
        let stream = export::export(self.node.clone(), request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn check_login(
        &self,
        request: Request<v1::CheckLoginRequest>,
    ) -> Answer<v1::CheckLoginResponse> {
        let request = request.into_inner();
        image::check_login(&self.node, &request.registry, request.auth).await?;
        Ok(Response::new(v1::CheckLoginResponse {}))
    }

    async fn run(&self, request: Request<v1::RunRequest>) -> Answer<v1::RunResponse> {
        let deadline = deadline(&request);
        let answer = run::run(&self.node, request.into_inner(), deadline).await?;
        Ok(Response::new(answer))
    }

    async fn list_pods(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let filter = request.into_inner().filter;
        Ok(Response::new(cri::ListPodSandboxResponse {
            items: sandbox::list(&self.node, filter.as_ref(), true),
        }))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let filter = request.into_inner().filter;
        Ok(Response::new(cri::ListContainersResponse {
            containers: container::list(&self.node, filter.as_ref(), true),
        }))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        let answer = exec::exec(&self.node, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn wait(&self, request: Request<v1::WaitRequest>) -> Answer<v1::WaitResponse> {
        let id = request.into_inner().container_id;
        Ok(Response::new(run::wait(&self.node, &id).await?))
    }

    async fn list_operations(
        &self,
        _: Request<v1::ListOperationsRequest>,
    ) -> Answer<v1::ListOperationsResponse> {
        Ok(Response::new(v1::ListOperationsResponse {
            operations: info::operations(&self.node),
        }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let answer = explain::explain(&self.node, &request.into_inner().object).await?;
        Ok(Response::new(answer))
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Answer<v1::WhyResponse> {
        let answer = container::why(&self.node, &request.into_inner().container_id).await?;
        Ok(Response::new(answer))
    }

    async fn doctor(&self, request: Request<v1::DoctorRequest>) -> Answer<v1::DoctorResponse> {
        let report = doctor::examine(&self.node, request.into_inner().fix, true).await?;
        Ok(Response::new(report.into()))
    }
}
