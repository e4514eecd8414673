//! From a reference to an image in the store.

use std::{
    collections::{HashMap, HashSet},
    io::{self, BufRead, Read},
    sync::Arc,
    time::Duration,
};

use berth_phase::{Phase, Tracker};
use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error,
    document::{self, Descriptor, Document, DocumentError, Manifest},
    image::{Blob, Documents, StoredImage, assemble},
    name::{Digest, Platform, Reference},
    registry::{Auth, Authorization, Session},
    store::{Hold, Inner, Store, chain_keys, layer_key},
    unpack::{Expected, Fault, unpack},
};

/// Indexes in indexes; nobody makes even two.
const INDEX_DEPTH: usize = 4;
/// Chunks on their way from the network to the disk: with 16 KiB each at most 512 KiB per layer.
const CHUNKS_AHEAD: usize = 32;
/// An unpacking thread looks at its cancellation with every chunk; a slow disk may hold it in one write.
const STOP_MAX: Duration = Duration::from_secs(10);

/// What to pull, as whom, for which machine.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// What to pull.
    pub reference: Reference,
    /// Credentials for its registry.
    pub auth: Option<Auth>,
    /// The machine; [`Platform::host`] for this one.
    pub platform: Platform,
}

/// How far a pull is.
#[derive(Clone, Debug, Default)]
pub struct PullProgress {
    /// What the pull as a whole is doing.
    pub phase: Option<Phase>,
    /// Every layer, in the manifest's order: lowest first.
    pub layers: Vec<LayerProgress>,
}

/// How far one layer of a pull is.
#[derive(Clone, Debug)]
pub struct LayerProgress {
    /// Digest of the compressed layer.
    pub digest: Digest,
    /// What is being done.
    pub state: LayerState,
    /// Compressed bytes received.
    pub fetched: u64,
    /// Compressed bytes in all.
    pub total: u64,
}

/// What is being done with one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Other layers come first.
    Waiting,
    /// It arrives and is unpacked on the way.
    Fetching,
    /// All of it is here; the rest is being unpacked and verified.
    Unpacking,
    /// It is in the store.
    Done,
    /// It was in the store already.
    Exists,
}

impl Store {
    /// Pulls an image. On success it is complete and synced; on failure nothing
    /// half-made stays, but layers that were finished do, for the next try.
    ///
    /// Dropping the future cancels; `cancel` does too and waits for the threads
    /// that unpack.
    ///
    /// # Errors
    /// [`Error`]; its [`kind`](Error::kind) says whether it may work later.
    pub async fn pull(
        &self,
        request: PullRequest,
        tracker: &Tracker,
        progress: watch::Sender<PullProgress>,
        cancel: CancellationToken,
    ) -> Result<StoredImage, Error> {
        let stop = cancel.child_token();
        let _stop_when_dropped = stop.clone().drop_guard();
        let threads = TaskTracker::new();
        let pull = Pull {
            store: Arc::clone(&self.0),
            tracker: tracker.clone(),
            progress: Arc::new(progress),
            stop: stop.clone(),
            threads: threads.clone(),
        };
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            result = pull.run(request) => result,
        };
        if result.is_err() {
            stop.cancel();
            threads.close();
            if tokio::time::timeout(STOP_MAX, threads.wait())
                .await
                .is_err()
            {
                tracing::warn!("an unpacking thread has not stopped yet");
            }
        }
        result
    }
}

#[derive(Clone)]
struct Pull {
    store: Arc<Inner>,
    tracker: Tracker,
    progress: Arc<watch::Sender<PullProgress>>,
    stop: CancellationToken,
    threads: TaskTracker,
}

impl Pull {
    fn enter(&self, phase: Phase, step: &'static str) -> Result<(), Error> {
        self.progress
            .send_modify(|progress| progress.phase = Some(phase));
        Ok(self.tracker.enter(phase, step)?)
    }

    fn layer(&self, index: usize, change: impl FnOnce(&mut LayerProgress)) {
        self.progress.send_modify(|progress| {
            if let Some(layer) = progress.layers.get_mut(index) {
                change(layer);
            }
        });
    }

    async fn run(self, request: PullRequest) -> Result<StoredImage, Error> {
        self.enter(Phase::Resolve, "manifest")?;
        // Sessions borrow the clients; an owned Arc lets the layers' tasks do so too.
        let target = Arc::new(Target {
            store: Arc::clone(&self.store),
            reference: request.reference,
            auth: request.auth.unwrap_or_default(),
            authorization: Arc::default(),
        });
        let session = target.session()?;
        let (chain, manifest) = self
            .resolve(&session, &target.reference, &request.platform)
            .await?;

        self.enter(Phase::Fetch, "config")?;
        let config = session.small_blob(&manifest.config).await?;
        let name = manifest.config.digest.to_string();
        let count = manifest.layers.len();
        let parsed = document::parse_config(&config, &name, count, &request.platform)?;
        let mut chain = chain;
        let Some(own) = chain.pop() else {
            return Err(Error::Cancelled);
        };
        let documents = Documents {
            config: (manifest.config.digest.clone(), config),
            manifest: own,
            indexes: chain,
            parsed,
            layers_size: manifest
                .layers
                .iter()
                .fold(0u64, |sum, layer| sum.saturating_add(layer.size)),
        };
        // Before anything is looked for, or a collection could remove it in between.
        let hold = Hold::new(&self.store, documents.names());
        drop(session);
        self.layers(&target, &manifest, &documents.parsed.diff_ids)
            .await?;

        let (store, tracker) = (Arc::clone(&self.store), self.tracker.clone());
        self.progress
            .send_modify(|progress| progress.phase = Some(Phase::Publish));
        self.threads
            .spawn_blocking(move || assemble(&store, documents, hold, &tracker))
            .await
            .map_err(Error::Worker)?
    }

    /// Follows indexes to the manifest. Returns all documents, outermost first.
    async fn resolve(
        &self,
        session: &Session<'_>,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<(Vec<Blob>, Manifest), Error> {
        let mut chain: Vec<Blob> = Vec::new();
        let mut seen = HashSet::new();
        let (mut wanted, mut digest) = (reference.wanted(), reference.digest().cloned());
        let mut declared: Option<Descriptor> = None;
        loop {
            let raw = session.document(&wanted, digest.as_ref()).await?;
            let name = raw.digest.to_string();
            let invalid = |why: &str| DocumentError::Invalid {
                what: "index",
                name: name.clone(),
                why: why.to_owned(),
            };
            if !seen.insert(raw.digest.clone()) {
                return Err(invalid("contains itself").into());
            }
            let mut types = vec![raw.content_type.as_str()];
            if let Some(descriptor) = &declared {
                types.push(&descriptor.media_type);
                if descriptor.size != raw.bytes.len() as u64 {
                    return Err(invalid("states a wrong size for a manifest").into());
                }
            }
            let document = document::parse_document(&raw.bytes, &name, &types)?;
            chain.push((raw.digest, raw.bytes));
            match document {
                Document::Manifest(manifest) => return Ok((chain, manifest)),
                Document::Index(_) if chain.len() >= INDEX_DEPTH => {
                    return Err(invalid("is nested too deep").into());
                }
                Document::Index(children) => {
                    let child = document::choose(&children, platform)?;
                    wanted = child.digest.to_string();
                    digest = Some(child.digest.clone());
                    declared = Some(child.clone());
                }
            }
        }
    }

    async fn layers(
        &self,
        target: &Arc<Target>,
        manifest: &Manifest,
        diff_ids: &[Digest],
    ) -> Result<(), Error> {
        let layers = manifest.layers.iter().map(|layer| LayerProgress {
            digest: layer.digest.clone(),
            state: LayerState::Waiting,
            fetched: 0,
            total: layer.size,
        });
        let layers = layers.collect();
        self.progress
            .send_modify(|progress| progress.layers = layers);
        self.enter(Phase::Fetch, "layers")?;
        let chains = chain_keys(diff_ids);
        let mut tasks = JoinSet::new();
        // One layer may occur twice in an image; its second use finds the first.
        let mut started: HashMap<&Digest, usize> = HashMap::new();
        for (index, (layer, diff_id)) in manifest.layers.iter().zip(diff_ids).enumerate() {
            let chain = chains.get(index).cloned().unwrap_or_default();
            if let Some(first) = started.insert(diff_id, index) {
                self.layer(index, |layer| layer.state = LayerState::Exists);
                tracing::debug!(first, index, "layer occurs twice");
                continue;
            }
            let fetch = Fetch {
                pull: self.clone(),
                target: Arc::clone(target),
                index,
                layer: layer.clone(),
                diff_id: diff_id.clone(),
                chain,
            };
            tasks.spawn(fetch.run());
        }
        while let Some(done) = tasks.join_next().await {
            // The first failure drops the set, which aborts the others; their threads see it too.
            done.map_err(Error::Worker)??;
        }
        Ok(())
    }
}

/// Where a pull's layers come from.
struct Target {
    store: Arc<Inner>,
    reference: Reference,
    auth: Auth,
    /// What the registry accepted last; one token serves all layers.
    authorization: Arc<Authorization>,
}

impl Target {
    fn session(&self) -> Result<Session<'_>, Error> {
        Ok(Session::new(
            &self.store.clients,
            &self.reference,
            self.auth.clone(),
            Arc::clone(&self.authorization),
        )?)
    }
}

/// One layer of one pull.
struct Fetch {
    pull: Pull,
    target: Arc<Target>,
    index: usize,
    layer: Descriptor,
    diff_id: Digest,
    chain: String,
}

impl Fetch {
    async fn run(self) -> Result<(), Error> {
        let store = Arc::clone(&self.pull.store);
        // The slot first: whoever holds the lock has one already and will finish.
        let Ok(_slot) = store.slots.acquire().await else {
            return Err(Error::Cancelled);
        };
        let key = layer_key(&self.diff_id);
        let maker = store.maker(&key);
        let _making = maker.lock().await;
        if self.exists(&key).await? {
            self.pull
                .layer(self.index, |layer| layer.state = LayerState::Exists);
            return Ok(());
        }
        self.pull.enter(Phase::Fetch, "layer")?;
        self.pull
            .layer(self.index, |layer| layer.state = LayerState::Fetching);
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let unpacking = self.unpacking(key, receiver);
        let fetched = self.fetch(sender).await;
        let unpacked = unpacking.await.map_err(Error::Worker)?;
        match (fetched, unpacked) {
            // The receiver's end is the consequence then, not the cause.
            (Err(error), _) => Err(error),
            (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(())) => {
                self.pull
                    .layer(self.index, |layer| layer.state = LayerState::Done);
                Ok(())
            }
        }
    }

    async fn exists(&self, key: &str) -> Result<bool, Error> {
        let (store, key, chain) = (
            Arc::clone(&self.pull.store),
            key.to_owned(),
            self.chain.clone(),
        );
        let look = move || Ok(store.layer(&chain)?.is_some() || store.layer(&key)?.is_some());
        self.pull
            .threads
            .spawn_blocking(look)
            .await
            .map_err(Error::Worker)?
    }

    /// The thread that unpacks what `receiver` brings, and names it when it is right.
    fn unpacking(
        &self,
        key: String,
        receiver: mpsc::Receiver<Part>,
    ) -> tokio::task::JoinHandle<Result<(), Error>> {
        let pull = self.pull.clone();
        let expected = Expected {
            blob: self.layer.digest.clone(),
            check_blob: true,
            diff_id: Some(self.diff_id.clone()),
        };
        self.pull.threads.spawn_blocking(move || {
            pull.tracker.enter(Phase::Unpack, "layer")?;
            let arriving = Arriving {
                receiver,
                chunk: Bytes::new(),
                ended: false,
            };
            let unpacked = unpack(&pull.store, arriving, &expected, &pull.stop)?;
            pull.tracker.enter(Phase::Publish, "layer")?;
            pull.store
                .publish_layer(&unpacked.work, &key, &unpacked.meta)
        })
    }

    async fn fetch(&self, sender: mpsc::Sender<Part>) -> Result<(), Error> {
        let session = self.target.session()?;
        let mut blob = session.blob(&self.layer)?;
        while let Some(chunk) = blob.next().await? {
            let length = chunk.len() as u64;
            if sender.send(Part::Bytes(chunk)).await.is_err() {
                // The thread has given up and says why.
                return Ok(());
            }
            self.pull.layer(self.index, |layer| layer.fetched += length);
        }
        self.pull
            .layer(self.index, |layer| layer.state = LayerState::Unpacking);
        // A thread that is gone has an error of its own.
        drop(sender.send(Part::End).await);
        Ok(())
    }
}

enum Part {
    Bytes(Bytes),
    /// All came; without this the stream was torn.
    End,
}

/// The receiving end as a stream for a blocking thread.
struct Arriving {
    receiver: mpsc::Receiver<Part>,
    chunk: Bytes,
    ended: bool,
}

impl BufRead for Arriving {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Part::Bytes(bytes)) => self.chunk = bytes,
                Some(Part::End) => self.ended = true,
                None => return Err(Fault::Interrupted.into()),
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        let amount = amount.min(self.chunk.len());
        bytes::Buf::advance(&mut self.chunk, amount);
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}
