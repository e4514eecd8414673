use std::time::Duration;

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{Listeners, MetricsFormat, Pages};

struct House {
    _home: TempDir,
    listeners: Listeners,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
}

impl House {
    async fn open() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (ready, receiver) = watch::channel(false);
        let stop = CancellationToken::new();
        let pages = Pages::new(
            receiver,
            |format| format!("{format:?}"),
            || serde_json::json!([{"verb": "run-pod-sandbox"}]),
        );
        let socket = home.path().join("metrics.sock");
        let address = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners::open(&socket, Some(address)).await.unwrap();
        listeners.serve(pages, &stop);
        Self {
            _home: home,
            listeners,
            ready,
            stop,
        }
    }

    async fn ask(&self, request: &str) -> String {
        let stream = UnixStream::connect(self.listeners.socket()).await.unwrap();
        talk(stream, request).await
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
        .await
    }
}

async fn talk<S>(mut stream: S, request: &str) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let limit = Duration::from_secs(20);
    match tokio::time::timeout(limit, stream.read_to_string(&mut answer)).await {
        Ok(Ok(_) | Err(_)) => answer,
        Err(_) => panic!("no end of the answer: {answer:?}"),
    }
}

#[tokio::test]
async fn readiness_follows_the_agent_and_liveness_does_not() {
    let house = House::open().await;
    assert!(house.get("/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(house.get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(house.get("/livez?verbose").await.contains("[+]serving ok"));
    house.ready.send(true).unwrap();
    assert!(house.get("/readyz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_format_is_what_the_scraper_accepts() {
    let house = House::open().await;
    for (accept, format) in [
        ("", MetricsFormat::Text),
        ("Accept: */*\r\n", MetricsFormat::Text),
        (
            "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n",
            MetricsFormat::OpenMetrics,
        ),
        (
            "Accept: text/plain, application/openmetrics-text; q=0\r\n",
            MetricsFormat::Text,
        ),
        (
            "Accept: application/openmetrics-text; version=9.0.0\r\n",
            MetricsFormat::Text,
        ),
    ] {
        let answer = house
            .ask(&format!(
                "GET /metrics HTTP/1.1\r\nHost: x\r\n{accept}Connection: close\r\n\r\n"
            ))
            .await;
        assert!(answer.contains(format.content_type()), "{accept}: {answer}");
        assert!(answer.ends_with(&format!("{format:?}")), "{answer}");
    }
}

#[tokio::test]
async fn what_names_objects_or_costs_time_is_not_told_over_tcp() {
    let house = House::open().await;
    assert!(house.get("/debug/tasks").await.contains("run-pod-sandbox"));
    for path in ["/debug/tasks", "/debug/pprof/profile?seconds=1"] {
        let stream = TcpStream::connect(house.listeners.tcp().unwrap())
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(talk(stream, &request).await.starts_with("HTTP/1.1 403"));
    }
}

#[tokio::test]
async fn a_profile_is_compressed_and_one_is_made_at_a_time() {
    let house = House::open().await;
    assert!(
        house
            .get("/debug/pprof/profile?seconds=0")
            .await
            .starts_with("HTTP/1.1 400")
    );
    let ask = async || {
        let mut stream = UnixStream::connect(house.listeners.socket()).await.unwrap();
        let request = "GET /debug/pprof/profile?seconds=2 HTTP/1.1\r\nHost: x\r\n\
                       Connection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let mut answers = <[Vec<u8>; 2]>::from(tokio::join!(ask(), ask()));
    answers.sort();
    let [made, refused] = answers;
    assert!(refused.starts_with(b"HTTP/1.1 409"));
    assert!(made.starts_with(b"HTTP/1.1 200"));
    let head = made.windows(4).position(|four| four == b"\r\n\r\n");
    let body = &made[head.unwrap() + 4..];
    assert_eq!(body[..2], [0x1f, 0x8b], "gzip");
}

#[tokio::test]
async fn other_methods_other_paths_and_long_headers_are_refused() {
    let house = House::open().await;
    let post =
        "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert!(house.ask(post).await.starts_with("HTTP/1.1 405"));
    assert!(house.get("/nothing").await.starts_with("HTTP/1.1 404"));
    let long = format!("/metrics?{}", "x".repeat(20_000));
    let answer = house.get(&long).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_client_that_says_nothing_whole_is_let_go() {
    let house = House::open().await;
    let stream = UnixStream::connect(house.listeners.socket()).await.unwrap();
    let answer = talk(stream, "GET /metrics HT").await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn the_socket_is_gone_after_the_end_and_a_taken_port_is_done_without() {
    let house = House::open().await;
    let taken = house.listeners.tcp();
    let home = tempfile::tempdir().unwrap();
    let (_sender, ready) = watch::channel(true);
    let pages = Pages::new(ready, |_| String::new(), || serde_json::Value::Null);
    let stop = CancellationToken::new();
    let second = Listeners::open(&home.path().join("m.sock"), taken)
        .await
        .unwrap();
    second.serve(pages, &stop);
    let sockets = [second.socket(), house.listeners.socket()];
    assert!(second.tcp().is_none() && sockets[0].exists());
    stop.cancel();
    house.stop.cancel();
    drop((second, house.listeners));
    while sockets.iter().any(|socket| socket.exists()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
