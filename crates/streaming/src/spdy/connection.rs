//! One connection: a task that reads frames, a task that sends small answers,
//! and a writer that whoever has something to say locks for one frame.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Decoder, Frame, HeaderReader, HeaderWriter, Headers, ProtocolError, Reset, Stream,
    frame::{goaway, ping, rst_stream, syn_reply, syn_stream},
    stream::Ends,
};
use crate::{
    IDLE_MAX,
    queue::{self, queue},
};

/// Bytes that are read at once at most.
const READ: usize = 128 * 1024;
/// Small answers that wait for the writer. A client that makes us owe more reads none of them.
const ANSWERS_MAX: usize = 256;
/// How long the other side may take to close after GOAWAY. Closing at once with
/// unread bytes of its own would destroy what it has not read yet (TCP reset).
const LINGER: Duration = Duration::from_secs(5);

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams with odd ids.
    Client,
    /// Accepts streams.
    Server,
}

/// The bytes below a connection.
pub struct Transport {
    /// What arrives.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What is sent; flushed after each frame.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Whether the other side has gone, to be asked while nothing is read.
    pub gone: Box<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// A SPDY/3.1 connection. Dropping it ends it at once; [`Connection::close`] does so in order.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<(Headers, Stream)>,
    reader: JoinHandle<()>,
    _end: DropGuard,
}

pub(super) struct Shared {
    writer: tokio::sync::Mutex<Writer>,
    table: Mutex<Table>,
    answers: mpsc::Sender<Answer>,
    gone: CancellationToken,
    streams_max: usize,
    role: Role,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

struct Writer {
    io: Box<dyn AsyncWrite + Send + Unpin>,
    headers: HeaderWriter,
    /// A frame was begun and not ended: nothing that follows would be understood.
    torn: bool,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) streams: HashMap<u32, Entry>,
    /// The next id that the other side may use.
    next_remote: u32,
    next_local: u32,
    leaving: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// None after its FIN.
    data: Option<queue::Sender>,
    reset: CancellationToken,
    replied: CancellationToken,
    pub(super) local_done: bool,
}

#[derive(Debug)]
enum Answer {
    Ping(u32),
    Reset(u32, Reset),
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("the other side has closed")]
    Closed,
    #[error("nothing came for hours")]
    Idle,
    #[error("it asks for more answers than it reads")]
    Flood,
}

impl Connection {
    /// Begins to speak on `transport`; at most `streams_max` streams may be open at once.
    /// Must be called in a tokio runtime.
    #[must_use]
    pub fn start(transport: Transport, role: Role, streams_max: usize) -> Self {
        let (answers, owed) = mpsc::channel(ANSWERS_MAX);
        let (sender, incoming) = mpsc::channel(streams_max.max(1));
        let gone = CancellationToken::new();
        let shared = Arc::new(Shared {
            writer: tokio::sync::Mutex::new(Writer {
                io: transport.writer,
                headers: HeaderWriter::new(),
                torn: false,
            }),
            table: Mutex::new(Table {
                next_remote: 1,
                next_local: 1,
                ..Table::default()
            }),
            answers,
            gone: gone.clone(),
            streams_max,
            role,
        });
        tokio::spawn(answer(Arc::clone(&shared), owed));
        let reading = Reading {
            shared: Arc::clone(&shared),
            headers: HeaderReader::default(),
            incoming: sender,
            gone: transport.gone,
        };
        let reader = tokio::spawn(reading.run(transport.reader));
        Self {
            shared,
            incoming,
            reader,
            _end: gone.drop_guard(),
        }
    }

    /// Cancelled when the connection has ended, whoever ended it.
    #[must_use]
    pub fn gone(&self) -> CancellationToken {
        self.shared.gone.clone()
    }

    /// The next stream that the other side opens; `None` when it has gone.
    /// The stream must be answered with [`Stream::reply`] or [`Stream::reset`].
    pub async fn accept(&mut self) -> Option<(Headers, Stream)> {
        self.incoming.recv().await
    }

    /// Opens a stream; the other side says with its reply that it takes it.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn open(&self, headers: &[(&str, &str)]) -> io::Result<Stream> {
        // The id is taken under the writer's lock: ids must arrive in order.
        let mut writer = self.shared.writer().await?;
        let (id, stream) = {
            let mut table = self.shared.table();
            let id = table.next_local;
            table.next_local += 2;
            (id, insert(&self.shared, &mut table, id, false))
        };
        let block = writer.headers.write(headers).map_err(io::Error::other)?;
        self.shared
            .send(&mut writer, &syn_stream(id, &block), &[])
            .await?;
        Ok(stream)
    }

    /// Ends all streams, says so, and waits until the other side has closed too.
    pub async fn close(mut self) {
        let (ids, last) = {
            let mut table = self.shared.table();
            table.leaving = true;
            let ids: Vec<u32> = table.streams.keys().copied().collect();
            (ids, table.next_remote.saturating_sub(2))
        };
        let mut farewell: Vec<u8> = Vec::new();
        for id in ids {
            farewell.extend_from_slice(&rst_stream(id, Reset::Cancel));
        }
        farewell.extend_from_slice(&goaway(last));
        let leave = async {
            let mut writer = self.shared.writer().await?;
            self.shared.send(&mut writer, &farewell, &[]).await?;
            writer.io.shutdown().await
        };
        if let Ok(Ok(())) = timeout(LINGER, leave).await {
            drop(timeout(LINGER, &mut self.reader).await);
        }
    }
}

fn insert(shared: &Arc<Shared>, table: &mut Table, id: u32, ended: bool) -> Stream {
    let (sender, receiver) = queue();
    let entry = Entry {
        data: (!ended).then_some(sender),
        reset: CancellationToken::new(),
        replied: CancellationToken::new(),
        local_done: false,
    };
    let ends = Ends {
        id,
        shared: Arc::clone(shared),
        reset: entry.reset.clone(),
        replied: entry.replied.clone(),
    };
    table.streams.insert(id, entry);
    Stream::new(ends, receiver)
}

impl Shared {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is one insertion or removal, so a panic between two leaves no half.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    async fn writer(&self) -> io::Result<tokio::sync::MutexGuard<'_, Writer>> {
        let writer = tokio::select! {
            biased;
            () = self.gone.cancelled() => return Err(io::ErrorKind::BrokenPipe.into()),
            writer = self.writer.lock() => writer,
        };
        if writer.torn {
            self.gone.cancel();
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(writer)
    }

    async fn send(&self, writer: &mut Writer, head: &[u8], payload: &[u8]) -> io::Result<()> {
        writer.torn = true;
        let sent = tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(io::ErrorKind::BrokenPipe.into()),
            sent = timeout(IDLE_MAX, write_frame(&mut writer.io, head, payload)) => {
                sent.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            }
        };
        match &sent {
            Ok(()) => writer.torn = false,
            Err(_) => self.gone.cancel(),
        }
        sent
    }

    /// Sends one frame whole.
    pub(super) async fn put(&self, head: &[u8], payload: &[u8]) -> io::Result<()> {
        let mut writer = self.writer().await?;
        self.send(&mut writer, head, payload).await
    }

    /// Accepts stream `id`, without headers, as all servers do.
    pub(super) async fn reply(&self, id: u32) -> io::Result<()> {
        let mut writer = self.writer().await?;
        let block = writer.headers.write(&[]).map_err(io::Error::other)?;
        self.send(&mut writer, &syn_reply(id, &block), &[]).await
    }

    /// Ends stream `id` from here; nothing happens if it has ended.
    pub(super) fn reset(&self, id: u32, why: Reset) {
        if self.table().streams.remove(&id).is_some() && !self.gone.is_cancelled() {
            // Lost only if the other side does not read its answers; its streams end with it.
            drop(self.answers.try_send(Answer::Reset(id, why)));
        }
    }
}

impl Table {
    /// Forgets a stream that both sides have ended.
    pub(super) fn settle(&mut self, id: u32) {
        let over = |entry: &Entry| entry.local_done && entry.data.is_none();
        if self.streams.get(&id).is_some_and(over) {
            self.streams.remove(&id);
        }
    }
}

async fn write_frame(
    io: &mut (dyn AsyncWrite + Send + Unpin),
    mut head: &[u8],
    mut payload: &[u8],
) -> io::Result<()> {
    while !head.is_empty() {
        let slices = [io::IoSlice::new(head), io::IoSlice::new(payload)];
        let count = io.write_vectored(&slices).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_head = count.min(head.len());
        head = &head[of_head..];
        payload = &payload[count - of_head..];
    }
    io.write_all(payload).await?;
    io.flush().await
}

/// Sends what the reader owes, so that it never waits for the writer. At the end
/// it closes the writer's side, which streams may hold on to for longer.
async fn answer(shared: Arc<Shared>, mut owed: mpsc::Receiver<Answer>) {
    loop {
        let answer = tokio::select! {
            () = shared.gone.cancelled() => break,
            answer = owed.recv() => answer,
        };
        let frame = match answer {
            None => break,
            Some(Answer::Ping(id)) => ping(id),
            Some(Answer::Reset(id, why)) => rst_stream(id, why),
        };
        if shared.put(&frame, &[]).await.is_err() {
            break;
        }
    }
    let mut writer = shared.writer.lock().await;
    writer.torn = true;
    writer.io = Box::new(tokio::io::sink());
}

struct Reading {
    shared: Arc<Shared>,
    headers: HeaderReader,
    incoming: mpsc::Sender<(Headers, Stream)>,
    gone: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Reading {
    async fn run(mut self, reader: Box<dyn AsyncRead + Send + Unpin>) {
        let gone = self.shared.gone.clone();
        tokio::select! {
            () = gone.cancelled() => {}
            end = self.frames(reader) => match end {
                Ok(never) => match never {},
                Err(End::Closed) => {}
                Err(error) => tracing::debug!(%error, "a SPDY connection ends"),
            },
        }
        // The consumers see the end after what has arrived.
        self.shared.table().streams.clear();
        gone.cancel();
    }

    async fn frames(
        &mut self,
        mut reader: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Result<std::convert::Infallible, End> {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::new();
        let mut touched = Instant::now();
        loop {
            while let Some(frame) = decoder.decode(&mut buffer)? {
                self.handle(frame).await?;
            }
            if buffer.capacity() - buffer.len() < READ / 2 {
                buffer.reserve(READ);
            }
            match timeout(IDLE_MAX, reader.read_buf(&mut buffer)).await {
                Ok(Ok(0)) => return Err(End::Closed),
                Ok(read) => drop(read?),
                Err(_) if touched.elapsed() >= IDLE_MAX => return Err(End::Idle),
                Err(_) => {}
            }
            touched = Instant::now();
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::SynStream { id, fin, block } => {
                // Read even if it is refused: the next block depends on it.
                let headers = self.headers.read(&block)?;
                self.opened(id, fin, headers)?;
            }
            Frame::SynReply { id, block } => {
                self.headers.read(&block)?;
                if let Some(entry) = self.shared.table().streams.get(&id) {
                    entry.replied.cancel();
                }
            }
            Frame::Headers { id, block, fin } => {
                self.headers.read(&block)?;
                if fin {
                    self.ended(id);
                }
            }
            Frame::Reset { id } => {
                if let Some(entry) = self.shared.table().streams.remove(&id) {
                    entry.reset.cancel();
                }
            }
            Frame::Ping { id } => {
                let theirs = (id % 2 == 1) == (self.shared.role == Role::Server);
                if theirs {
                    self.owe(Answer::Ping(id))?;
                }
            }
            Frame::GoAway => self.shared.table().leaving = true,
            Frame::Data { id, bytes, fin } => {
                self.arrived(id, bytes).await?;
                if fin {
                    self.ended(id);
                }
            }
            Frame::Ignored => {}
        }
        Ok(())
    }

    fn opened(&self, id: u32, fin: bool, headers: Headers) -> Result<(), End> {
        let mut table = self.shared.table();
        let refused =
            if self.shared.role == Role::Client || id.is_multiple_of(2) || id < table.next_remote {
                Some(Reset::ProtocolError)
            } else if table.leaving {
                return Ok(());
            } else if table.streams.len() >= self.shared.streams_max {
                Some(Reset::RefusedStream)
            } else {
                None
            };
        if refused != Some(Reset::ProtocolError) {
            table.next_remote = id.saturating_add(2);
        }
        if let Some(why) = refused {
            drop(table);
            return self.owe(Answer::Reset(id, why));
        }
        let stream = insert(&self.shared, &mut table, id, fin);
        drop(table);
        // Dropped where nobody accepts any more, which resets it.
        drop(self.incoming.try_send((headers, stream)));
        Ok(())
    }

    fn owe(&self, answer: Answer) -> Result<(), End> {
        self.shared
            .answers
            .try_send(answer)
            .map_err(|_full| End::Flood)
    }

    /// Hands `bytes` to the stream's consumer, waiting while it has too much already:
    /// there is no flow control, so that TCP's is all there is.
    async fn arrived(&self, id: u32, bytes: Bytes) -> Result<(), End> {
        let entry = self
            .shared
            .table()
            .streams
            .get(&id)
            .map(|entry| entry.data.clone());
        // Late bytes of a stream that has ended here are normal.
        let Some(Some(data)) = entry else {
            return Ok(());
        };
        while !bytes.is_empty() && !data.offer(&bytes).await {
            if (self.gone)() {
                return Err(End::Closed);
            }
            // The end of a connection waits behind what is not read; but whoever has
            // closed it answers anything that comes with a reset.
            let own = match self.shared.role {
                Role::Client => 1,
                Role::Server => 2,
            };
            self.owe(Answer::Ping(own))?;
        }
        Ok(())
    }

    fn ended(&self, id: u32) {
        let mut table = self.shared.table();
        if let Some(entry) = table.streams.get_mut(&id) {
            entry.data = None;
        }
        table.settle(id);
    }
}
