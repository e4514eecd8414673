//! L1 to L4: libraries, parsers, panics. (L5 is in `entering`.)

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use berth_integration::{Node, image::Image, image::Layer, pod};
use serde_json::json;

use crate::ground::{Ground, LIVES};

/// L1: CVE-2020-35863 and its kin.
#[tokio::test(flavor = "multi_thread")]
async fn line_ends_in_a_reference_never_reach_a_registry() -> Result<()> {
    let ground = Ground::start().await?;
    let host = ground
        .image
        .split('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let before = ground.registry.seen().len();
    for evil in [
        "x\r\nHost: other",
        "x\nx",
        "x\0",
        "x y",
        "x\t",
        "x:a\r\nb",
        "x@sha256:\r\n",
    ] {
        let error = ground
            .node
            .pull(&format!("{host}/{evil}"))
            .await
            .expect_err(evil);
        ensure!(
            error.code() == tonic::Code::InvalidArgument,
            "{evil:?}: {error}"
        );
    }
    ensure!(ground.registry.seen().len() == before, "it was asked");
    ground.finish().await
}

/// L3: CVE-2020-35858, CVE-2019-11253.
#[tokio::test(flavor = "multi_thread")]
async fn depth_is_an_error_and_no_end_of_the_agent() -> Result<()> {
    const DEPTH: usize = 100_000;
    let ground = Ground::start().await?;
    let agent = ground.node.agent_pid()?;
    // In a configuration, which is read whole.
    let mut image = Image::new(&[Layer::plain(&[])?], json!({}))?;
    let deep = format!(
        "{{\"config\":{}{}}}",
        "{\"a\":".repeat(DEPTH),
        "}".repeat(DEPTH)
    );
    let digest = berth_integration::image::digest(deep.as_bytes());
    let manifest = String::from_utf8(image.manifest.clone())?;
    let old: serde_json::Value = serde_json::from_str(&manifest)?;
    let mut new = old.clone();
    new["config"]["digest"] = json!(digest);
    new["config"]["size"] = json!(deep.len());
    image.manifest = serde_json::to_vec(&new)?;
    image.blobs.insert(digest, deep.into_bytes());
    let reference = ground.registry.add("test/deep", "1", &image);
    ensure!(
        ground.node.pull(&reference).await.is_err(),
        "nonsense is pulled"
    );
    // In a filter's profile.
    let profile = ground.node.home().join("deep.json");
    std::fs::write(
        &profile,
        format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH)),
    )?;
    let pod = ground.pod("deep").await?;
    let mut container = ground.container("main", LIVES);
    pod::security(&mut container).seccomp = Some(berth_proto::cri::SecurityProfile {
        profile_type: berth_proto::cri::security_profile::ProfileType::Localhost.into(),
        localhost_ref: profile.display().to_string(),
    });
    ensure!(
        pod.create(&container).await.is_err(),
        "nonsense is a filter"
    );
    // In a message: groups that open and never close, and a message in itself.
    for bytes in [vec![0x0b; DEPTH], nested(DEPTH)] {
        let status = raw(&ground.node, bytes).await;
        ensure!(status.is_err(), "nonsense is a request");
    }
    ensure!(ground.node.agent_pid()? == agent && ground.node.agent_state()?.is_none());
    ground.node.version().await?;
    ground.finish().await
}

/// Field 1 as a message within a message, as deep as lengths allow.
fn nested(depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..depth.min(2000) {
        let mut outer = vec![0x0a];
        let mut length = bytes.len();
        loop {
            let low = u8::try_from(length & 0x7f).unwrap_or(0);
            length >>= 7;
            outer.push(if length > 0 { low | 0x80 } else { low });
            if length == 0 {
                break;
            }
        }
        outer.extend_from_slice(&bytes);
        bytes = outer;
    }
    bytes
}

/// Sends bytes as a RunPodSandbox request.
async fn raw(node: &Node, bytes: Vec<u8>) -> Result<(), tonic::Status> {
    let channel = node
        .channel()
        .map_err(|error| tonic::Status::internal(error.to_string()))?;
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| tonic::Status::internal(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/runtime.v1.RuntimeService/RunPodSandbox");
    let request = tonic::Request::new(Bytes(bytes));
    client
        .unary(
            request,
            path,
            tonic_prost::ProstCodec::<Bytes, Bytes>::default(),
        )
        .await
        .map(drop)
}

/// A message that is whatever bytes it is given.
#[derive(Clone, Debug, Default)]
struct Bytes(Vec<u8>);

impl prost::Message for Bytes {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&self.0);
    }
    fn merge_field(
        &mut self,
        tag: u32,
        kind: prost::encoding::WireType,
        buffer: &mut impl bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(kind, tag, buffer, context)
    }
    fn encoded_len(&self) -> usize {
        self.0.len()
    }
    fn clear(&mut self) {
        self.0.clear();
    }
}

/// L4: CVE-2026-95839. A panic costs one call, not the node.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_call_is_an_error_of_that_call_alone() -> Result<()> {
    let panics = "run-pod-sandbox.netns=1*panic;create-container.cgroup=1*panic;\
                  start-container.exec=1*panic";
    let node = Node::start_with("", &[("BERTH_FAILPOINTS", panics)]).await?;
    let ground = Ground::on(node).await?;
    let config = pod::sandbox(&ground.node, "panics");
    let start = Instant::now();
    let error = ground.node.run_pod(&config).await.expect_err("it panics");
    ensure!(error.code() == tonic::Code::Internal, "{error}");
    // The same again, as a kubelet would.
    let pod = ground.node.run_pod(&config).await?;
    let container = ground.container("main", LIVES);
    let error = ground
        .node
        .create(&pod, &container, &config)
        .await
        .expect_err("it panics");
    ensure!(error.code() == tonic::Code::Internal, "{error}");
    let id = ground.node.create(&pod, &container, &config).await?;
    // A container whose start failed may be over; the next one is not.
    if let Err(error) = ground.node.start_container(&id).await {
        ensure!(error.code() == tonic::Code::Internal, "{error}");
        ground.node.remove_container(&id).await?;
        ground.node.run(&pod, &container, &config).await?;
    }
    ensure!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    ground.finish().await
}
