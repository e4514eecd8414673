//! From an image in the store to its registry.

use std::{collections::HashMap, io, os::unix::fs::FileExt as _, sync::Arc};

use berth_phase::{Phase, Tracker};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    Error,
    contents::{Contents, Recorded, Stated},
    document::Descriptor,
    name::{Digest, Hasher, Reference},
    registry::{
        Action, Auth, RegistryError, Session, Shared,
        push::{Source, Told, Upload},
    },
    store::{Inner, Store},
};

/// Blobs of one push at a time: enough to hide the registry's latency.
const BLOBS_AT_ONCE: usize = 4;

/// What to push, whereto, as whom.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// The image.
    pub image: Recorded,
    /// Its registry, repository and tag.
    pub reference: Reference,
    /// Credentials for the registry.
    pub auth: Option<Auth>,
    /// Other repositories of that registry that may have a blob.
    pub elsewhere: HashMap<Digest, Vec<String>>,
    /// Most bytes in one request.
    pub chunk: u64,
}

/// What a push resulted in.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Digest of the manifest or index, the same as it has here.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// How many images for other machines the index names that the image came
    /// from, if they are not all here: what was pushed is this machine's image alone then.
    pub left_out: usize,
}

/// How far a push is.
#[derive(Clone, Debug, Default)]
pub struct PushProgress {
    /// What the push as a whole is doing.
    pub phase: Option<Phase>,
    /// Layers in the manifest's order, then the configuration; of several images one
    /// after the other.
    pub blobs: Vec<BlobProgress>,
}

/// How far one blob of a push is.
#[derive(Clone, Debug)]
pub struct BlobProgress {
    /// Its digest.
    pub digest: Digest,
    /// What is being done.
    pub state: BlobState,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What is being done with one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// Other blobs come first.
    Waiting,
    /// The registry is asked whether it has it.
    Checking,
    /// It is being sent.
    Sending,
    /// The registry has got it.
    Sent,
    /// It was in the repository.
    Exists,
    /// The registry took it over from this repository.
    Mounted(String),
}

impl Store {
    /// Asks the registry of `reference` whether it accepts `auth`.
    ///
    /// # Errors
    /// [`Error::Registry`]; its kind is [`Kind::Unauthorized`](crate::Kind::Unauthorized) if not.
    pub async fn check_login(&self, reference: &Reference, auth: Auth) -> Result<(), Error> {
        Ok(crate::registry::login::check(&self.0.clients, reference, auth).await?)
    }

    /// Pushes an image: the blobs that the repository lacks, then the manifest,
    /// byte for byte. Dropping the future cancels, and so does `cancel`.
    ///
    /// # Errors
    /// [`Error::Push`]; [`Error::Incomplete`] if the image is not here as a whole.
    pub async fn push(
        &self,
        request: PushRequest,
        tracker: &Tracker,
        progress: watch::Sender<PushProgress>,
        cancel: CancellationToken,
    ) -> Result<Pushed, Error> {
        let push = Push {
            store: Arc::clone(&self.0),
            tracker: tracker.clone(),
            progress: Arc::new(progress),
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            result = push.run(request) => result,
        }
    }
}

#[derive(Clone)]
struct Push {
    store: Arc<Inner>,
    tracker: Tracker,
    progress: Arc<watch::Sender<PushProgress>>,
}

/// What the tasks of one push share.
struct Target {
    reference: Reference,
    auth: Auth,
    shared: Arc<Shared>,
    contents: Contents,
    gate: Semaphore,
    chunk: u64,
}

impl Push {
    fn enter(&self, phase: Phase, step: &'static str) -> Result<(), Error> {
        self.progress
            .send_modify(|progress| progress.phase = Some(phase));
        Ok(self.tracker.enter(phase, step)?)
    }

    async fn run(self, request: PushRequest) -> Result<Pushed, Error> {
        self.enter(Phase::Verify, "blobs")?;
        let (store, image) = (Arc::clone(&self.store), request.image);
        let contents = tokio::task::spawn_blocking(move || Contents::of(&store, &image))
            .await
            .map_err(Error::Worker)??;
        let blobs = contents.blobs.clone();
        let waiting = blobs.iter().map(|blob| BlobProgress {
            digest: blob.digest.clone(),
            state: BlobState::Waiting,
            sent: 0,
            total: blob.size,
        });
        let waiting = waiting.collect();
        self.progress
            .send_modify(|progress| progress.blobs = waiting);
        let target = Arc::new(Target {
            reference: request.reference,
            auth: request.auth.unwrap_or_default(),
            shared: Arc::default(),
            contents,
            gate: Semaphore::new(BLOBS_AT_ONCE),
            chunk: request.chunk,
        });
        self.enter(Phase::Send, "blobs")?;
        let mut elsewhere = request.elsewhere;
        let mut tasks = JoinSet::new();
        for (index, descriptor) in blobs.into_iter().enumerate() {
            let blob = Blob {
                push: self.clone(),
                target: Arc::clone(&target),
                index,
                elsewhere: elsewhere.remove(&descriptor.digest).unwrap_or_default(),
                descriptor,
            };
            tasks.spawn(blob.run().in_current_span());
        }
        while let Some(done) = tasks.join_next().await {
            // The first failure drops the set, which ends the others.
            done.map_err(Error::Worker)??;
        }
        // A document that names what is not there is refused, so it comes after that.
        self.enter(Phase::Publish, "manifest")?;
        let session = target.session(&self.store)?;
        for document in &target.contents.below {
            target
                .put(&session, document, &document.digest.to_string())
                .await?;
        }
        let (root, tag) = (&target.contents.root, target.reference.wanted());
        target.put(&session, root, &tag).await?;
        Ok(Pushed {
            digest: root.digest.clone(),
            size: root.bytes.len() as u64,
            left_out: target.contents.others,
        })
    }
}

impl Target {
    fn session<'s>(&'s self, store: &'s Inner) -> Result<Session<'s>, Error> {
        let session = Session::new(
            &store.clients,
            &self.reference,
            self.auth.clone(),
            Arc::clone(&self.shared),
            Action::Push,
        );
        session.map_err(|source| self.failed("the session".to_owned(), source))
    }

    async fn put(&self, session: &Session<'_>, document: &Stated, name: &str) -> Result<(), Error> {
        let (kind, digest) = (&document.media_type, &document.digest);
        session
            .put_manifest(name, kind, digest, &document.bytes)
            .await
            .map_err(|source| self.failed(format!("the manifest as {name}"), source))
    }

    fn failed(&self, step: String, source: RegistryError) -> Error {
        Error::Push {
            repository: self.reference.name(),
            step,
            source: Box::new(source.writing()),
        }
    }
}

/// One blob of one push.
struct Blob {
    push: Push,
    target: Arc<Target>,
    index: usize,
    descriptor: Descriptor,
    elsewhere: Vec<String>,
}

impl Blob {
    fn tell(&self, change: impl FnOnce(&mut BlobProgress)) {
        self.push.progress.send_modify(|progress| {
            if let Some(blob) = progress.blobs.get_mut(self.index) {
                change(blob);
            }
        });
    }

    fn state(&self, state: BlobState) {
        self.tell(|blob| blob.state = state);
    }

    async fn run(self) -> Result<(), Error> {
        let target = Arc::clone(&self.target);
        let Ok(_turn) = target.gate.acquire().await else {
            return Err(Error::Cancelled);
        };
        let digest = &self.descriptor.digest;
        self.push.tracker.enter(Phase::Send, "blob")?;
        self.state(BlobState::Checking);
        let session = target.session(&self.push.store)?;
        let failed = |step: &str, source| target.failed(format!("{step} {digest}"), source);
        if session
            .has_blob(digest)
            .await
            .map_err(|source| failed("asking for", source))?
        {
            self.state(BlobState::Exists);
            return Ok(());
        }
        let (owner, descriptor) = (Arc::clone(&target), self.descriptor.clone());
        let file = tokio::task::spawn_blocking(move || owner.contents.open(&descriptor))
            .await
            .map_err(Error::Worker)??;
        let source = Source {
            file: Arc::new(file),
            digest: digest.clone(),
            size: self.descriptor.size,
        };
        self.state(BlobState::Sending);
        let tell = |told| match told {
            Told::Mounted(from) => self.state(BlobState::Mounted(from)),
            Told::Sent(bytes) => self.tell(|blob| blob.sent = bytes),
        };
        let upload = Upload {
            session: &session,
            source: &source,
            chunk: target.chunk,
            tell: &tell,
        };
        if let Err(error) = upload.run(&self.elsewhere).await {
            // A registry that finds the content wrong may be right.
            check(&source).await?;
            return Err(failed("the blob", error));
        }
        self.tell(|blob| {
            if blob.state == BlobState::Sending {
                blob.state = BlobState::Sent;
            }
        });
        Ok(())
    }
}

/// Reads a blob once more: whether it is still what it was.
async fn check(source: &Source) -> Result<(), Error> {
    let (file, digest, size) = (Arc::clone(&source.file), source.digest.clone(), source.size);
    let check = move || {
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        let mut at = 0;
        while at < size {
            match file.read_at(&mut buffer, at) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::store_io("read", "blobs")(error)),
            }
        }
        let actual = hasher.finish();
        match actual == digest {
            true => Ok(()),
            false => Err(Error::BlobDigest {
                expected: digest,
                actual,
            }),
        }
    };
    tokio::task::spawn_blocking(check)
        .await
        .map_err(Error::Worker)?
}
