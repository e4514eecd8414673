//! The server with a backend that needs no container, and clients of both kinds.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

use std::{sync::Arc, time::Duration};

use berth_streaming::{
    Attach, Backend, Exec, Outcome, PortForward, Request, Server, Session, Settings, Verdict,
    client::{ClientError, Forwarder, Remote, Wanted, resize_message},
    spdy::StreamReader,
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::CloseFrame},
};

/// Does what the command's first word says.
#[derive(Debug, Default)]
struct Fake {
    /// How often a client was seen to go.
    gone: Arc<std::sync::atomic::AtomicUsize>,
}

impl Backend for Fake {
    async fn exec(&self, request: Exec, mut session: Session) -> Outcome {
        let stdout = &mut session.stdout;
        match request.command.first().map(String::as_str) {
            Some("cat") => {
                let (stdin, stdout) = (session.stdin.as_mut().unwrap(), stdout.as_mut().unwrap());
                while let Some(bytes) = stdin.next().await {
                    stdout.write(&bytes).await.unwrap();
                }
                stdout.finish().await.unwrap();
                Outcome::Exited(0)
            }
            Some("fail") => {
                let stderr = session.stderr.as_mut().unwrap();
                stderr.write(b"it is broken\n").await.unwrap();
                Outcome::Exited(7)
            }
            Some("size") => {
                let size = session.resize.as_mut().unwrap().next().await.unwrap();
                let text = format!("{}x{}", size.width, size.height);
                stdout
                    .as_mut()
                    .unwrap()
                    .write(text.as_bytes())
                    .await
                    .unwrap();
                Outcome::Exited(0)
            }
            Some("flood") => {
                let megabyte = vec![b'x'; 1 << 20];
                let count: usize = request.command[1].parse().unwrap();
                for _ in 0..count {
                    if stdout.as_mut().unwrap().write(&megabyte).await.is_err() {
                        break;
                    }
                }
                Outcome::Exited(0)
            }
            Some("sleep") => {
                session.gone.cancelled().await;
                self.gone.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Outcome::Ended
            }
            _ => Outcome::Failed("no such program".to_owned()),
        }
    }

    async fn attach(&self, _: Attach, mut session: Session) -> Outcome {
        session
            .stdout
            .as_mut()
            .unwrap()
            .write(b"attached")
            .await
            .unwrap();
        Outcome::Ended
    }

    async fn connect(&self, _: &str, port: u16) -> Result<TcpStream, String> {
        TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|error| error.to_string())
    }
}

struct House {
    server: Server,
    gone: Arc<std::sync::atomic::AtomicUsize>,
}

impl House {
    async fn new() -> Self {
        let fake = Fake::default();
        let gone = Arc::clone(&fake.gone);
        let settings = Settings {
            address: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            tls: None,
        };
        let server = Server::start(settings, Arc::new(fake)).await.unwrap();
        Self { server, gone }
    }

    fn exec(&self, command: &[&str], wanted: Wanted) -> String {
        let request = Request::Exec(Exec {
            container: "c".to_owned(),
            command: command.iter().map(ToString::to_string).collect(),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
            ..Exec::default()
        });
        self.server.url(request).unwrap()
    }

    fn forward(&self, ports: &[u16]) -> String {
        let request = Request::PortForward(PortForward {
            pod: "p".to_owned(),
            ports: ports.to_vec(),
        });
        self.server.url(request).unwrap()
    }

    /// All sessions end soon after their clients.
    async fn is_empty(&self) {
        for _ in 0..500 {
            if self.server.sessions() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} sessions are left", self.server.sessions());
    }
}

const ALL: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

async fn rest(reader: &mut StreamReader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.next().await {
        all.extend_from_slice(&bytes);
    }
    all
}

async fn limited<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), test)
        .await
        .expect("it hangs")
}

#[tokio::test]
async fn stdin_comes_back_through_spdy_and_its_end_too() {
    limited(async {
        let house = House::new().await;
        let mut remote = Remote::open(&house.exec(&["cat"], ALL), ALL).await.unwrap();
        let payload: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut stdin = remote.stdin.take().unwrap();
        let sent = payload.clone();
        let writer = tokio::spawn(async move {
            for chunk in sent.chunks(32 * 1024) {
                stdin.write(chunk).await.unwrap();
            }
            stdin.finish().await.unwrap();
        });
        let back = rest(remote.stdout.as_mut().unwrap()).await;
        writer.await.unwrap();
        assert!(back == payload);
        assert_eq!(remote.ending.verdict().await, Some(Verdict::Success));
        house.is_empty().await;
    })
    .await;
}

#[tokio::test]
async fn an_exit_code_and_a_failure_reach_the_client() {
    limited(async {
        let house = House::new().await;
        let mut remote = Remote::open(&house.exec(&["fail"], ALL), ALL)
            .await
            .unwrap();
        assert_eq!(
            rest(remote.stderr.as_mut().unwrap()).await,
            b"it is broken\n"
        );
        assert_eq!(remote.ending.verdict().await, Some(Verdict::ExitCode(7)));
        let remote = Remote::open(&house.exec(&["nothing"], ALL), ALL)
            .await
            .unwrap();
        let verdict = remote.ending.verdict().await;
        assert_eq!(
            verdict,
            Some(Verdict::Failure(
                "Internal error occurred: no such program".to_owned()
            ))
        );
        house.is_empty().await;
    })
    .await;
}

#[tokio::test]
async fn a_terminal_has_a_size_and_one_output() {
    limited(async {
        let house = House::new().await;
        let wanted = Wanted {
            tty: true,
            stderr: false,
            ..ALL
        };
        let mut remote = Remote::open(&house.exec(&["size"], wanted), wanted)
            .await
            .unwrap();
        assert!(remote.stderr.is_none());
        let resize = remote.resize.as_mut().unwrap();
        resize.write(&resize_message(132, 43)).await.unwrap();
        assert_eq!(rest(remote.stdout.as_mut().unwrap()).await, b"132x43");
        assert_eq!(remote.ending.verdict().await, Some(Verdict::Success));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_vanishes_ends_its_session() {
    limited(async {
        let house = House::new().await;
        let remote = Remote::open(&house.exec(&["sleep"], ALL), ALL)
            .await
            .unwrap();
        drop(remote);
        house.is_empty().await;
        assert_eq!(house.gone.load(std::sync::atomic::Ordering::SeqCst), 1);
        // One that does not read its output, either.
        let remote = Remote::open(&house.exec(&["flood", "64"], ALL), ALL)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(remote);
        house.is_empty().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_while_nobody_reads_its_stdin_is_noticed() {
    limited(async {
        let house = House::new().await;
        let mut remote = Remote::open(&house.exec(&["sleep"], ALL), ALL)
            .await
            .unwrap();
        let mut stdin = remote.stdin.take().unwrap();
        // More than is kept for a consumer and the kernel's buffers together.
        let pushing = async {
            for _ in 0..64 {
                stdin.write(&[0; 1 << 20]).await.unwrap();
            }
        };
        assert!(timeout(Duration::from_millis(700), pushing).await.is_err());
        drop(remote);
        house.is_empty().await;
    })
    .await;
}

#[tokio::test]
async fn a_token_is_used_up_and_a_guess_is_404() {
    limited(async {
        let house = House::new().await;
        let url = house.exec(&["fail"], ALL);
        let last = if url.ends_with('A') { 'B' } else { 'A' };
        let guess = format!("{}{last}", &url[..url.len() - 1]);
        let refused = Remote::open(&guess, ALL).await.unwrap_err();
        let is_404 =
            matches!(&refused, ClientError::Refused { status, .. } if status.as_u16() == 404);
        assert!(is_404, "{refused:?}");
        Remote::open(&url, ALL).await.unwrap();
        assert!(matches!(
            Remote::open(&url, ALL).await,
            Err(ClientError::Refused { status, .. }) if status.as_u16() == 404
        ));
    })
    .await;
}

async fn raw(url: &str, head: &str) -> String {
    let uri: http::Uri = url.parse().unwrap();
    let mut stream = TcpStream::connect(uri.authority().unwrap().as_str())
        .await
        .unwrap();
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: elsewhere\r\n{head}\r\n",
        uri.path()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

#[tokio::test]
async fn upgrades_are_negotiated_as_clients_expect() {
    limited(async {
        let house = House::new().await;
        let url = || house.exec(&["fail"], ALL);
        let upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
        let answer = raw(&url(), upgrade).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let answer = raw(
            &url(),
            &format!("{upgrade}X-Stream-Protocol-Version: v9\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(answer.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"));
        let answer = raw(&url(), "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let offer = "X-Stream-Protocol-Version: v5.channel.k8s.io, v4.channel.k8s.io\r\n\
            X-Stream-Protocol-Version: v3.channel.k8s.io\r\n";
        let answer = raw(&url(), &format!("{upgrade}{offer}")).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("x-stream-protocol-version: v4.channel.k8s.io"));
    })
    .await;
}

type Socket = WebSocketStream<TcpStream>;

async fn websocket(url: &str, protocol: &str) -> Socket {
    let mut request = url.replace("http:", "ws:").into_client_request().unwrap();
    if !protocol.is_empty() {
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let uri: http::Uri = url.parse().unwrap();
    let stream = TcpStream::connect(uri.authority().unwrap().as_str())
        .await
        .unwrap();
    let (socket, answer) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    let chosen = answer.headers().get("sec-websocket-protocol");
    assert_eq!(
        chosen.map_or("", |chosen| chosen.to_str().unwrap()),
        protocol
    );
    socket
}

/// All messages until the close frame.
async fn messages(socket: &mut Socket) -> (Vec<Message>, Option<CloseFrame>) {
    let mut all = Vec::new();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Close(frame) => return (all, frame),
            Message::Ping(_) | Message::Pong(_) => {}
            message => all.push(message),
        }
    }
}

#[tokio::test]
async fn a_websocket_of_v5_half_closes_stdin_and_ends_in_order() {
    limited(async {
        let house = House::new().await;
        let mut socket = websocket(&house.exec(&["cat"], ALL), "v5.channel.k8s.io").await;
        socket
            .send(Message::Binary(b"\0hello"[..].into()))
            .await
            .unwrap();
        socket
            .send(Message::Binary(b"\xff\0"[..].into()))
            .await
            .unwrap();
        let (all, close) = messages(&mut socket).await;
        let binary = |bytes: &[u8]| Message::Binary(bytes.to_vec().into());
        assert_eq!(
            all,
            [
                binary(b"\x01"),
                binary(b"\x01hello"),
                binary(b"\x03{\"status\":\"Success\"}")
            ]
        );
        assert_eq!(u16::from(close.unwrap().code), 1000);
        drop(socket);
        house.is_empty().await;
    })
    .await;
}

#[tokio::test]
async fn a_base64_websocket_and_one_without_a_protocol_work() {
    limited(async {
        let house = House::new().await;
        let url = house.exec(&["fail"], ALL);
        let mut socket = websocket(&url, "v4.base64.channel.k8s.io").await;
        let (all, _) = messages(&mut socket).await;
        assert_eq!(all[1], Message::Text("2aXQgaXMgYnJva2VuCg==".into()));
        let mut socket = websocket(&house.exec(&["fail"], ALL), "").await;
        let (all, _) = messages(&mut socket).await;
        let text = b"\x03command terminated with non-zero exit code: exit status 7";
        assert_eq!(all.last(), Some(&Message::Binary(text.to_vec().into())));
    })
    .await;
}

#[tokio::test]
async fn a_websocket_against_the_protocol_is_closed_with_the_right_code() {
    limited(async {
        let house = House::new().await;
        for wrong in [
            Message::Text("text".into()),
            Message::Binary(b"\xff\0\0"[..].into()),
        ] {
            let mut socket = websocket(&house.exec(&["sleep"], ALL), "v5.channel.k8s.io").await;
            socket.send(wrong).await.unwrap();
            let (_, close) = messages(&mut socket).await;
            assert_eq!(u16::from(close.unwrap().code), 1002);
        }
        house.is_empty().await;
    })
    .await;
}

/// Sends back what it gets, and ends when its client does.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.write_all(b" and good bye").await.unwrap();
            });
        }
    });
    port
}

#[tokio::test]
async fn many_connections_share_one_and_each_half_closes_by_itself() {
    limited(async {
        let house = House::new().await;
        let port = echo().await;
        let forwarder = Forwarder::open(&house.forward(&[])).await.unwrap();
        for round in 0..20 {
            let mut all = Vec::new();
            for _ in 0..10 {
                all.push(forwarder.connect(port).await.unwrap());
            }
            for (index, (reader, writer, error)) in all.iter_mut().enumerate() {
                let text = format!("{round} {index}");
                writer.write(text.as_bytes()).await.unwrap();
                writer.finish().await.unwrap();
                let back = rest(reader).await;
                assert_eq!(back, format!("{text} and good bye").as_bytes());
                assert_eq!(rest(error).await, b"");
            }
        }
        let (mut reader, _, mut error) = forwarder.connect(1).await.unwrap();
        let text = String::from_utf8(rest(&mut error).await).unwrap();
        assert!(
            text.starts_with("error forwarding port 1 to pod p, uid : "),
            "{text}"
        );
        assert_eq!(rest(&mut reader).await, b"");
        // The refusal has not ended the others.
        forwarder.connect(port).await.unwrap();
        drop(forwarder);
        house.is_empty().await;
    })
    .await;
}

#[tokio::test]
async fn old_websocket_clients_get_a_connection_for_each_port() {
    limited(async {
        let house = House::new().await;
        let port = echo().await;
        let url = house.forward(&[port, 1]);
        let mut socket = websocket(&url, "v4.channel.k8s.io").await;
        let [low, high] = port.to_le_bytes();
        socket
            .send(Message::Binary(b"\0hi"[..].into()))
            .await
            .unwrap();
        let mut seen = Vec::new();
        while seen.len() < 6 {
            match socket.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => seen.push(bytes.to_vec()),
                other => panic!("{other:?}"),
            }
        }
        for wanted in [
            &[0, low, high][..],
            &[1, low, high],
            &[2, 1, 0],
            &[3, 1, 0],
            b"\0hi",
        ] {
            assert!(
                seen.iter().any(|message| message == wanted),
                "{wanted:?}: {seen:?}"
            );
        }
        assert!(
            seen.iter()
                .any(|message| message.starts_with(b"\x03error forwarding port 1"))
        );
    })
    .await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_session_lives() {
    limited(async {
        let house = House::new().await;
        let mut remote = Remote::open(&house.exec(&["cat"], ALL), ALL).await.unwrap();
        let mut stdin = remote.stdin.take().unwrap();
        stdin.write(b"x").await.unwrap();
        stdin.finish().await.unwrap();
        assert_eq!(rest(remote.stdout.as_mut().unwrap()).await, b"x");
        assert_eq!(remote.ending.verdict().await, Some(Verdict::Success));
    })
    .await;
}
