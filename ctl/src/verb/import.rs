//! `import`: makes an image from what lies on this machine.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _, Read, Write},
    path::{Path, PathBuf},
};

use berth_proto::berth::v1::{
    ImportHeader, ImportRequest, ImportResponse, import_header::Format as Kind,
    import_request::Part,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::{Context, tree};
use crate::{
    failure::{Failure, Outcome},
    output::{self, Format},
};

/// Bytes per message: large enough to make the framing cheap.
const CHUNK: usize = 256 * 1024;
/// Messages on their way; with the above, what may be read ahead.
const AHEAD: usize = 8;
/// An image configuration is a few KiB; gRPC messages end at 4 MiB.
const CONFIG_LIMIT: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An OCI layout (directory or tar), a docker archive, a root file system
    /// (tar or directory), or - for standard input
    path: PathBuf,
    /// Name for the image; replaces the names in an archive
    #[arg(value_name = "REFERENCE")]
    reference: Option<String>,
    /// For a root file system: an OCI image configuration (JSON), whose `config` is taken over
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What it is, where that cannot be found out
    #[arg(long, default_value = "auto")]
    format: Given,
    /// Give names in an archive to its images even if they name others here
    #[arg(short, long)]
    force: bool,
    /// Take the images of this platform alone [default: the node's own, and beside it those
    /// of all platforms, if the archive has them]
    #[arg(long, value_name = "OS/ARCHITECTURE[/VARIANT]")]
    platform: Option<String>,
    /// Only the ids of the images
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Given {
    /// Found out from the content
    Auto,
    /// An OCI image layout
    Oci,
    /// What `docker save` writes
    Docker,
    /// A root file system
    Rootfs,
}

pub(crate) async fn run(context: &Context, args: Args) -> Outcome<u8> {
    let what = format!("cannot import {}", args.path.display());
    let source = Source::of(&args.path).map_err(|error| Failure::new(&what, error.to_string()))?;
    let config = args.config.as_deref().map(read_config).transpose()?;
    let header = ImportHeader {
        format: source.kind(args.format).into(),
        reference: args.reference.clone().unwrap_or_default(),
        config: config.unwrap_or_default(),
        replace: args.force,
        platform: args.platform.clone().unwrap_or_default(),
    };
    let images = send(context, &what, source, header, args.quiet).await?;
    show(context, &args, &images)
}

/// Sends a header and what is in `source`; `what` is for failures.
pub(super) async fn send(
    context: &Context,
    what: &str,
    source: Source,
    header: ImportHeader,
    quiet: bool,
) -> Outcome<ImportResponse> {
    let connection = context.connect().await?;

    let (sender, receiver) = mpsc::channel(AHEAD);
    let first = ImportRequest {
        part: Some(Part::Header(header)),
    };
    // The channel is empty: there is room for the first message.
    drop(sender.try_send(first));
    let (failed, failure) = oneshot::channel();
    let bar = bar(quiet);
    let reader = source.start(sender.clone(), failed, bar.clone())?;

    let mut client = connection.node();
    let request = connection.open_ended(ReceiverStream::new(receiver));
    // A stream that ends is a whole image to the agent. So it must not end
    // when reading fails: this holder keeps it open until the call has been
    // dropped, which cancels it.
    let mut holder = Some(sender);
    let sending = client.import(request);
    let answer = {
        let mut sending = std::pin::pin!(sending);
        tokio::select! {
            early = &mut sending => early,
            done = failure => match done {
                Ok(Ok(())) => {
                    holder = None;
                    sending.await
                }
                Ok(Err(error)) => Err(tonic::Status::data_loss(error.to_string())),
                Err(_panicked) => Err(tonic::Status::data_loss("reading stopped")),
            },
        }
    };
    drop(holder);
    bar.finish_and_clear();
    drop(reader);
    let refused = |status: tonic::Status| match status.code() {
        tonic::Code::AlreadyExists => {
            Failure::refused(what, &status).next("the same with --force, if that is meant")
        }
        _ => Failure::refused(what, &status),
    };
    Ok(answer.map_err(refused)?.into_inner())
}

fn show(context: &Context, args: &Args, imported: &ImportResponse) -> Outcome<u8> {
    if context.format != Format::Table {
        let images: Vec<_> = imported
            .images
            .iter()
            .map(|image| json!({"imageId": image.image_id, "references": image.references}))
            .collect();
        output::value(context.format, &json!({"images": images}))?;
        return Ok(0);
    }
    for image in &imported.images {
        if args.quiet {
            output::line(&image.image_id)?;
        } else {
            output::line(&format!("Image: {}", image.image_id))?;
            for reference in &image.references {
                output::line(&format!("Name:  {reference}"))?;
            }
        }
    }
    Ok(0)
}

fn bar(quiet: bool) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("sent {bytes} ({bytes_per_sec})")
        .unwrap_or_else(|_invalid| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

fn read_config(path: &Path) -> Outcome<Vec<u8>> {
    let failed = |why: String| Failure::new(format!("cannot read {}", path.display()), why);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    file.take(CONFIG_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > CONFIG_LIMIT {
        return Err(failed(
            "an image configuration is not that large".to_owned(),
        ));
    }
    serde_json::from_slice::<serde_json::Value>(&bytes)
        .map_err(|error| failed(format!("this is not JSON: {error}")))?;
    Ok(bytes)
}

/// What is sent.
pub(super) enum Source {
    Stdin,
    File(File),
    Directory(PathBuf),
}

impl Source {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            if io::stdin().is_terminal() {
                return Err(io::Error::other(
                    "standard input is a terminal: pipe an archive into it",
                ));
            }
            return Ok(Self::Stdin);
        }
        if fs::metadata(path)?.is_dir() {
            // Fails now rather than in the middle of the stream.
            fs::read_dir(path)?;
            return Ok(Self::Directory(path.to_owned()));
        }
        File::open(path).map(Self::File)
    }

    /// A directory shows what it is; a stream is left to the agent.
    pub(super) fn kind(&self, given: Given) -> Kind {
        match (given, self) {
            (Given::Auto, Self::Directory(path)) if path.join("oci-layout").is_file() => {
                Kind::OciLayout
            }
            (Given::Auto, Self::Directory(path))
                if path.join("manifest.json").is_file() && !path.join("etc").exists() =>
            {
                Kind::DockerArchive
            }
            (Given::Auto, Self::Directory(_)) | (Given::Rootfs, _) => Kind::Rootfs,
            (Given::Auto, _) => Kind::Auto,
            (Given::Oci, _) => Kind::OciLayout,
            (Given::Docker, _) => Kind::DockerArchive,
        }
    }

    /// Reads in a thread of its own, since files block, and says how it ended.
    fn start(
        self,
        sender: mpsc::Sender<ImportRequest>,
        failed: oneshot::Sender<io::Result<()>>,
        bar: ProgressBar,
    ) -> Outcome<std::thread::JoinHandle<()>> {
        let read = move || {
            let mut chunks = Chunks {
                sender,
                pending: Vec::with_capacity(CHUNK),
                bar,
            };
            let result = match self {
                Self::Stdin => io::copy(&mut io::stdin().lock(), &mut chunks).map(drop),
                Self::File(mut file) => io::copy(&mut file, &mut chunks).map(drop),
                Self::Directory(path) => tree::send(&path, &mut chunks),
            };
            let result = result.and_then(|()| chunks.flush());
            // Nobody listens any more if the agent answered early.
            drop(failed.send(result));
        };
        std::thread::Builder::new()
            .name("import".to_owned())
            .spawn(read)
            .map_err(|error| Failure::new("cannot start reading", error.to_string()))
    }
}

/// Cuts a stream into messages.
struct Chunks {
    sender: mpsc::Sender<ImportRequest>,
    pending: Vec<u8>,
    bar: ProgressBar,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK));
        self.bar.inc(chunk.len() as u64);
        let message = ImportRequest {
            part: Some(Part::Chunk(chunk)),
        };
        self.sender
            .blocking_send(message)
            .map_err(|_closed| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
