//! What the store's operations fail with, and of which kind it is.

use std::io;

use crate::{
    document::DocumentError, import::ArchiveError, layer::LayerError, name::Digest,
    name::ReferenceError, registry::RegistryError,
};

/// Which kind of failure an error is; a caller turns it into its own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The reference does not parse.
    InvalidReference,
    /// The registry's name does not resolve.
    UnknownHost,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The registry forbids it.
    Forbidden,
    /// The registry has no such thing, or the image has nothing for this platform.
    NotFound,
    /// The registry cannot be reached or fails; it may work later.
    Unavailable,
    /// Too many requests; it may work later.
    RateLimited,
    /// Bytes are not what their digest or size says.
    DataLoss,
    /// The image or archive contradicts itself or its specification.
    InvalidImage,
    /// Legal, but nothing that can be run here.
    Unsupported,
    /// Parts of the image are not kept here; pulling it again brings them back.
    Incomplete,
    /// What this node is told about registries, or the lack of it, stands in the way.
    Configuration,
    /// More than a limit allows.
    TooLarge,
    /// The disk is full.
    NoSpace,
    /// No progress.
    Timeout,
    /// The caller asked to stop.
    Cancelled,
    /// The store itself failed, or a failpoint.
    Internal,
}

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference does not parse.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry did not give what was asked for.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registry did not take something.
    #[error("cannot push to {repository}: {step} failed")]
    Push {
        /// Registry and repository.
        repository: String,
        /// Which blob or manifest, or which request about it.
        step: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// The image's documents are refused.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The archive is no image.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {layer}")]
    Layer {
        /// Digest of the layer: of the blob, or its diffID when completing it.
        layer: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// A layer's compression is broken.
    #[error("layer {layer} cannot be decompressed")]
    Compression {
        /// Digest of the blob.
        layer: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blob that is not what its digest says.
    #[error("blob {expected} arrived with digest {actual}; it was damaged or replaced")]
    BlobDigest {
        /// The digest wanted.
        expected: Digest,
        /// That of what came.
        actual: Digest,
    },
    /// A layer whose content is not what the configuration says.
    #[error(
        "layer {layer} unpacks to diffID {actual}, but the image's configuration says {expected}"
    )]
    DiffId {
        /// Digest of the blob.
        layer: Digest,
        /// The diffID wanted.
        expected: Digest,
        /// That of what came.
        actual: Digest,
    },
    /// Something of an image that its record names and the store does not have.
    #[error("the store does not have {what} {digest} of image {image}; pull the image again")]
    Incomplete {
        /// The image's id.
        image: Digest,
        /// What it is: the manifest, a layer.
        what: &'static str,
        /// Digest of what is missing.
        digest: Digest,
    },
    /// Whoever reads an archive has stopped.
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
    /// The disk has too little room for an image that is to be pulled.
    #[error(
        "the image needs at least {needed} bytes, but the image store's file system has {free} \
         left, of which {reserve} are kept in reserve (image.disk_reserve) and {promised} are \
         promised to other pulls; remove images or enlarge it"
    )]
    NoRoom {
        /// Bytes that will be written, as far as is known.
        needed: u64,
        /// Bytes left.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
        /// Bytes that pulls on their way will still take.
        promised: u64,
    },
    /// A layer's transfer, which other pulls may have waited for too, has failed.
    #[error(transparent)]
    Transfer(std::sync::Arc<Error>),
    /// A file operation of the store.
    #[error("cannot {what} in the image store ({path})")]
    Store {
        /// What was tried.
        what: &'static str,
        /// With which file below the store's root.
        path: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// Other platforms' images are nothing but their blobs.
    #[error(
        "the images of all platforms can be kept only where compressed layers are \
         (image.keep_blobs)"
    )]
    NotKept,
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A thread of the store has died.
    #[error("a worker of the image store stopped unexpectedly")]
    Worker(#[source] tokio::task::JoinError),
    /// A failpoint asked for it.
    #[error(transparent)]
    Injected(#[from] berth_phase::Injected),
}

impl Error {
    /// Which kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Reference(_) => Kind::InvalidReference,
            Self::Registry(error) => registry(error),
            Self::Push { source, .. } => registry(source),
            Self::Document(error) => document(error),
            Self::Archive(error) => archive(error),
            Self::Layer { source, .. } => layer(source),
            Self::Compression { .. } | Self::BlobDigest { .. } => Kind::DataLoss,
            Self::DiffId { .. } => Kind::DataLoss,
            Self::Incomplete { .. } => Kind::Incomplete,
            Self::Write(source) => io_kind(source),
            Self::NoRoom { .. } => Kind::NoSpace,
            Self::Transfer(error) => error.kind(),
            Self::Store { source, .. } => io_kind(source),
            Self::NotKept => Kind::Configuration,
            Self::Cancelled => Kind::Cancelled,
            Self::Worker(_) | Self::Injected(_) => Kind::Internal,
        }
    }

    pub(crate) fn store(
        what: &'static str,
        path: impl Into<String>,
    ) -> impl FnOnce(rustix::io::Errno) -> Error {
        let path = path.into();
        move |errno| Error::Store {
            what,
            path,
            source: errno.into(),
        }
    }

    pub(crate) fn store_io(
        what: &'static str,
        path: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Store { what, path, source }
    }
}

fn registry(error: &RegistryError) -> Kind {
    match error {
        RegistryError::Mirrors { source, .. } => registry(source),
        RegistryError::Hosts { .. }
        | RegistryError::NoHost { .. }
        | RegistryError::Untrusted { .. } => Kind::Configuration,
        RegistryError::UnknownHost { .. } => Kind::UnknownHost,
        RegistryError::Connection { .. } | RegistryError::Status { .. } => Kind::Unavailable,
        RegistryError::Stalled { .. } | RegistryError::Slow { .. } => Kind::Timeout,
        RegistryError::Truncated { .. }
        | RegistryError::Longer { .. }
        | RegistryError::Digest { .. } => Kind::DataLoss,
        RegistryError::Unauthorized { .. }
        | RegistryError::LoginRefused { .. }
        | RegistryError::MayNotWrite { .. } => Kind::Unauthorized,
        RegistryError::Forbidden { .. } | RegistryError::WriteForbidden { .. } => Kind::Forbidden,
        RegistryError::NotFound { .. } => Kind::NotFound,
        RegistryError::RateLimited { .. } => Kind::RateLimited,
        RegistryError::TooLarge { .. } => Kind::TooLarge,
        RegistryError::Refused { .. } => Kind::Unsupported,
        RegistryError::Setup { .. } => Kind::Configuration,
    }
}

fn document(error: &DocumentError) -> Kind {
    match error {
        DocumentError::Malformed { .. } | DocumentError::Invalid { .. } => Kind::InvalidImage,
        DocumentError::Unsupported { .. } | DocumentError::Architecture { .. } => Kind::Unsupported,
        DocumentError::Platform { .. } => Kind::NotFound,
        DocumentError::TooLarge { .. } => Kind::TooLarge,
    }
}

fn archive(error: &ArchiveError) -> Kind {
    match error {
        ArchiveError::Tar(tar) => tar_kind(tar),
        ArchiveError::Read(source) => io_kind(source),
        ArchiveError::Inflate(_) => Kind::DataLoss,
        ArchiveError::Compressed { .. } => Kind::Unsupported,
        ArchiveError::Missing { .. } | ArchiveError::Invalid { .. } => Kind::InvalidImage,
        ArchiveError::TooLarge { .. } => Kind::TooLarge,
    }
}

fn layer(error: &LayerError) -> Kind {
    match error {
        LayerError::Tar(tar) => tar_kind(tar),
        LayerError::Name { .. } | LayerError::Conflict { .. } | LayerError::Dangling { .. } => {
            Kind::InvalidImage
        }
        LayerError::Exceeded(limit) if limit.is_about_disk() => Kind::NoSpace,
        LayerError::Exceeded(_) => Kind::TooLarge,
        LayerError::Io { source, .. } => io_kind(source),
    }
}

fn tar_kind(error: &crate::tar::TarError) -> Kind {
    use crate::tar::TarError;
    match error {
        TarError::Read { .. } | TarError::Truncated { .. } => Kind::DataLoss,
        TarError::Checksum { .. } | TarError::Malformed { .. } | TarError::Ambiguous { .. } => {
            Kind::InvalidImage
        }
        TarError::Unsupported { .. } => Kind::Unsupported,
        TarError::TooLarge { .. } => Kind::TooLarge,
    }
}

fn io_kind(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::NoSpace,
        // Names and attributes come from the image; these are what the kernel says of bad ones.
        io::ErrorKind::InvalidFilename => Kind::InvalidImage,
        _ => Kind::Internal,
    }
}
