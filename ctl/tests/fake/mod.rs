//! A runtime that answers what a test tells it to: any method of any of the
//! three services by its path, everything else `Unimplemented`. It works on
//! bytes, so that a test names only the methods that it is about.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Output},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use tokio_stream::Stream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService, StreamingService},
};

type Answer = Box<dyn FnMut(&[Bytes]) -> Result<Vec<Bytes>, Status> + Send>;

/// A runtime on a socket of its own. Stops with the test.
pub(crate) struct Fake {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    calls: Arc<Mutex<Vec<String>>>,
    hanging: Arc<Mutex<Vec<String>>>,
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Fake {
    /// Starts to listen.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// Starts to listen where another one did.
    pub(crate) fn start_in(dir: tempfile::TempDir) -> Self {
        let socket = dir.path().join("agent.sock");
        drop(std::fs::remove_file(&socket));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let answers = Arc::new(Mutex::new(HashMap::new()));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let hanging = Arc::new(Mutex::new(Vec::new()));
        let listener = {
            let _guard = runtime.enter();
            tokio::net::UnixListener::bind(socket).unwrap()
        };
        let service = Service {
            answers: Arc::clone(&answers),
            calls: Arc::clone(&calls),
            hanging: Arc::clone(&hanging),
        };
        let server = tonic::transport::Server::builder()
            .add_service(Named::<0>(service.clone()))
            .add_service(Named::<1>(service.clone()))
            .add_service(Named::<2>(service))
            .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener));
        runtime.spawn(server);
        Self {
            answers,
            calls,
            hanging,
            dir,
            runtime,
        }
    }

    /// Answers a method (`runtime.v1.RuntimeService/Version`) with one message.
    pub(crate) fn on<Q: Message + Default, A: Message>(
        &self,
        method: &str,
        mut answer: impl FnMut(Q) -> Result<A, Status> + Send + 'static,
    ) -> &Self {
        self.on_stream(method, move |mut requests: Vec<Q>| {
            answer(requests.remove(0)).map(|answer| vec![answer])
        })
    }

    /// Answers a method with several messages, once all requests are there.
    pub(crate) fn on_stream<Q: Message + Default, A: Message>(
        &self,
        method: &str,
        mut answer: impl FnMut(Vec<Q>) -> Result<Vec<A>, Status> + Send + 'static,
    ) -> &Self {
        let answer = move |requests: &[Bytes]| {
            let requests = requests
                .iter()
                .map(|bytes| Q::decode(bytes.clone()).unwrap())
                .collect();
            let messages = answer(requests)?;
            Ok(messages
                .iter()
                .map(|message| Bytes::from(message.encode_to_vec()))
                .collect())
        };
        self.answers
            .lock()
            .unwrap()
            .insert(format!("/{method}"), Box::new(answer));
        self
    }

    /// Never answers a method.
    pub(crate) fn hang(&self, method: &str) {
        self.hanging.lock().unwrap().push(format!("/{method}"));
    }

    /// The methods that were called, in order, without their services.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// A directory for the test's files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// `berthctl` with these arguments, connected to this runtime.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = berthctl(arguments);
        command.env("BERTH_HOST", self.socket());
        command
    }

    /// Runs `berthctl` to its end.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// The runtime goes away, as if killed.
    pub(crate) fn kill(self) -> tempfile::TempDir {
        self.runtime
            .shutdown_timeout(std::time::Duration::from_secs(5));
        self.dir
    }
}

/// `berthctl` with a bare environment.
pub(crate) fn berthctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berthctl"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(std::process::Stdio::null());
    command
}

/// What `berthctl` did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output of a run that went well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }
}

#[derive(Clone)]
struct Service {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    calls: Arc<Mutex<Vec<String>>>,
    hanging: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Named<const N: usize>(Service);

impl NamedService for Named<0> {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl NamedService for Named<1> {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl NamedService for Named<2> {
    const NAME: &'static str = "berth.v1.Node";
}

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<const N: usize> tower::Service<http::Request<Body>> for Named<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Later<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.0.clone();
        let method = request.uri().path().to_owned();
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw);
            Ok(grpc.streaming(Method { service, method }, request).await)
        })
    }
}

struct Method {
    service: Service,
    method: String,
}

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = Later<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (service, method) = (self.service.clone(), self.method.clone());
        Box::pin(async move {
            let short = method.rsplit('/').next().unwrap_or_default().to_owned();
            service.calls.lock().unwrap().push(short);
            let mut stream = request.into_inner();
            let mut requests = Vec::new();
            while let Some(message) = stream.message().await? {
                requests.push(message);
            }
            if service.hanging.lock().unwrap().contains(&method) {
                std::future::pending::<()>().await;
            }
            let mut answers = service.answers.lock().unwrap();
            let answer = answers
                .get_mut(&method)
                .ok_or_else(|| Status::unimplemented(format!("no {method} here")))?;
            let messages = answer(&requests)?;
            let stream: Self::ResponseStream =
                Box::pin(tokio_stream::iter(messages.into_iter().map(Ok)));
            Ok(Response::new(stream))
        })
    }
}

/// Messages as bytes.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}
