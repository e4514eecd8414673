//! podman by its REST socket, which is what it has nearest to CRI.
//!
//! A connection for each request, which costs some 50 microseconds.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::UnixStream, time::timeout};

use crate::client::{CALL, GRACE, Life};

/// The client.
#[derive(Clone, Debug)]
pub(crate) struct Podman {
    pub(crate) socket: PathBuf,
    /// Directory for the containers' logs.
    pub(crate) logs: PathBuf,
    /// The control group above the pods.
    pub(crate) parent: String,
    /// The containers' image.
    pub(crate) image: String,
    /// The pods' own image.
    pub(crate) pause: String,
}

impl Podman {
    async fn call(&self, method: Method, path: &str, body: Value) -> Result<Bytes> {
        let exchange = async {
            let stream = UnixStream::connect(&self.socket).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Ends with the exchange; what goes wrong is seen by the request.
            tokio::spawn(connection);
            let body = if body.is_null() {
                Vec::new()
            } else {
                serde_json::to_vec(&body)?
            };
            let request = Request::builder()
                .method(method.clone())
                .uri(format!("/v4.0.0/libpod/{path}"))
                .header(header::HOST, "podman")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(body)))?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let bytes = response.into_body().collect().await?.to_bytes();
            let said = String::from_utf8_lossy(&bytes);
            ensure!(
                status.is_success() || status.as_u16() == 304,
                "{status}: {said}"
            );
            Ok(bytes)
        };
        timeout(CALL, exchange)
            .await
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| format!("podman {method} {path}"))
    }

    async fn post(&self, path: &str, body: Value) -> Result<Bytes> {
        self.call(Method::POST, path, body).await
    }

    pub(crate) async fn version(&self) -> Result<()> {
        self.call(Method::GET, "info", Value::Null).await?;
        Ok(())
    }

    pub(crate) async fn run_pod(&self, name: &str) -> Result<String> {
        let made = self
            .post(
                "pods/create",
                json!({
                    "name": name,
                    "hostname": name,
                    "cgroup_parent": self.parent,
                    "infra_image": self.pause,
                    "dns_server": ["192.0.2.53"],
                    "netns": { "nsmode": "bridge" },
                    "shared_namespaces": ["net", "ipc", "uts"],
                }),
            )
            .await?;
        let pod = id(&made)?;
        self.post(&format!("pods/{pod}/start"), Value::Null).await?;
        Ok(pod)
    }

    pub(crate) async fn stop_pod(&self, pod: &str) -> Result<()> {
        self.post(&format!("pods/{pod}/stop?t={GRACE}"), Value::Null)
            .await?;
        Ok(())
    }

    pub(crate) async fn remove_pod(&self, pod: &str) -> Result<()> {
        let path = format!("pods/{pod}?force=true");
        self.call(Method::DELETE, &path, Value::Null).await?;
        Ok(())
    }

    pub(crate) async fn create(
        &self,
        pod: &str,
        pod_name: &str,
        name: &str,
        command: &[&str],
        data: Option<&Path>,
    ) -> Result<String> {
        let mounts: Vec<Value> = data
            .iter()
            .map(|source| {
                json!({
                    "type": "bind", "source": source, "destination": "/data", "options": ["ro"],
                })
            })
            .collect();
        let log = self.logs.join(format!("{pod_name}-{name}.log"));
        let made = self
            .post(
                "containers/create",
                json!({
                    "name": format!("{pod_name}-{name}"),
                    "pod": pod,
                    "image": self.image,
                    "command": command,
                    "mounts": mounts,
                    "log_configuration": { "driver": "k8s-file", "path": log },
                }),
            )
            .await?;
        id(&made)
    }

    pub(crate) async fn start(&self, container: &str) -> Result<()> {
        self.post(&format!("containers/{container}/start"), Value::Null)
            .await?;
        Ok(())
    }

    pub(crate) async fn stop(&self, container: &str, grace: i64) -> Result<()> {
        let path = format!("containers/{container}/stop?timeout={grace}");
        self.post(&path, Value::Null).await?;
        Ok(())
    }

    pub(crate) async fn remove(&self, container: &str) -> Result<()> {
        let path = format!("containers/{container}");
        self.call(Method::DELETE, &path, Value::Null).await?;
        Ok(())
    }

    pub(crate) async fn exec(&self, container: &str) -> Result<i32> {
        let command = json!({ "Cmd": ["/bin/true"], "AttachStdout": true, "AttachStderr": true });
        let made = self
            .post(&format!("containers/{container}/exec"), command)
            .await?;
        let exec = id(&made)?;
        self.post(&format!("exec/{exec}/start"), json!({ "Detach": false }))
            .await?;
        let path = format!("exec/{exec}/json");
        let done = self.call(Method::GET, &path, Value::Null).await?;
        let done: Value = serde_json::from_slice(&done)?;
        let code = done["ExitCode"].as_i64().context("no exit code")?;
        Ok(i32::try_from(code)?)
    }

    pub(crate) async fn life(&self, container: &str) -> Result<Life> {
        let path = format!("containers/{container}/json");
        let said = self.call(Method::GET, &path, Value::Null).await?;
        let said: Value = serde_json::from_slice(&said)?;
        let state = &said["State"];
        let exited = state["Status"] == "exited";
        let nanoseconds = if exited {
            let day = 86_400_000_000_000;
            let (from, to) = (moment(&state["StartedAt"])?, moment(&state["FinishedAt"])?);
            (to - from).rem_euclid(day)
        } else {
            0
        };
        let log = said["HostConfig"]["LogConfig"]["Path"].as_str();
        Ok(Life {
            exited,
            nanoseconds,
            log: log.unwrap_or_default().into(),
        })
    }

    pub(crate) async fn list(&self) -> Result<usize> {
        let path = "containers/json?all=true";
        let said = self.call(Method::GET, path, Value::Null).await?;
        let said: Value = serde_json::from_slice(&said)?;
        Ok(said.as_array().context("not a list")?.len())
    }

    pub(crate) async fn pull(&self, image: &str) -> Result<()> {
        let path = format!("images/pull?reference={image}&tlsVerify=false&policy=always");
        let said = self.post(&path, Value::Null).await?;
        // Progress, one object after the other; an error comes in one of them.
        let said = String::from_utf8_lossy(&said);
        ensure!(!said.contains("\"error\""), "podman pull: {said}");
        Ok(())
    }

    pub(crate) async fn remove_image(&self, image: &str) -> Result<()> {
        let path = format!("images/{image}?force=true");
        self.call(Method::DELETE, &path, Value::Null).await?;
        Ok(())
    }
}

fn id(answer: &[u8]) -> Result<String> {
    let answer: Value = serde_json::from_slice(answer)?;
    let id = answer["Id"].as_str().context("an answer without an id")?;
    Ok(id.to_owned())
}

/// Nanoseconds since midnight of `2026-01-02T03:04:05.678+00:00`.
fn moment(value: &Value) -> Result<i64> {
    let text = value.as_str().context("not a time")?;
    let (_, time) = text.split_once('T').context("not a time")?;
    let time = time.split(['+', '-', 'Z']).next().context("not a time")?;
    let mut parts = time.splitn(3, ':').map(str::parse::<f64>);
    let mut next = || parts.next().context("not a time");
    let (hours, minutes, seconds) = (next()??, next()??, next()??);
    let seconds = hours * 3600.0 + minutes * 60.0 + seconds;
    #[allow(clippy::cast_possible_truncation, reason = "less than a day")]
    Ok((seconds * 1e9) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_have_fractions_and_zones() {
        let parsed = moment(&json!("2026-01-02T03:04:05.5+00:00")).unwrap();
        assert_eq!(parsed, 11_045_500_000_000);
        assert!(moment(&json!("yesterday")).is_err());
    }
}
