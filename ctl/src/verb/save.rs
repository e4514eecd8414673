//! `save`: images as one archive, which `berthctl load`, `docker load` and
//! readers of OCI layouts understand.

use std::{
    fs,
    io::{self, IsTerminal as _, Write},
    path::Path,
};

use berth_proto::berth::v1::{ExportRequest, ExportResponse, export_response::Part};
use indicatif::{ProgressBar, ProgressStyle};
use tonic::Streaming;

use super::{Context, inspect::find_image};
use crate::failure::{Failure, Outcome};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to write [default: standard output]
    // Takes the place of the global argument of that name.
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// Images, by name (which the archive then has) or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let file = args
        .output
        .as_deref()
        .filter(|path| *path != "-")
        .map(Path::new);
    if file.is_none() && io::stdout().is_terminal() {
        return Err(
            Failure::usage("cannot save to the terminal", "an archive is no text")
                .next("name a file with -o, or pipe it on"),
        );
    }
    let connection = context.connect().await?;
    let mut images = Vec::new();
    for name in &args.images {
        // Asked for first, for the sake of its better answer to a spelling mistake.
        let found = find_image(&connection, name, false).await?;
        let image = found.map_err(|miss| miss.into_failure("image", name))?;
        let by_id = super::rmi::is_id(&image, name);
        images.push(if by_id { image.id } else { name.clone() });
    }
    let what = format!("cannot save {}", args.images.join(", "));
    let request = connection.open_ended(ExportRequest { images });
    let stream = connection
        .node()
        .export(request)
        .await
        .map_err(|status| Failure::refused(&what, &status))?
        .into_inner();
    match file {
        None => {
            let mut out = io::stdout().lock();
            receive(
                stream,
                &what,
                &mut out,
                &ProgressBar::hidden(),
                Failure::from,
            )
            .await?;
        }
        Some(path) => to_file(stream, &what, path).await?,
    }
    Ok(0)
}

/// The file gets its name when all of it is there. What is no regular file (a
/// pipe, a device) is written as it is.
async fn to_file(stream: Streaming<ExportResponse>, what: &str, path: &Path) -> Outcome<()> {
    let failed = |error: io::Error| {
        Failure::new(
            format!("cannot write {}", path.display()),
            error.to_string(),
        )
    };
    let bar = bar();
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let mut out = fs::File::options().write(true).open(path).map_err(failed)?;
        return receive(stream, what, &mut out, &bar, failed).await;
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // An image may hold secrets: for its owner alone, as `docker save` does it.
    let mut out = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    receive(stream, what, out.as_file_mut(), &bar, failed).await?;
    out.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

async fn receive(
    mut stream: Streaming<ExportResponse>,
    what: &str,
    out: &mut impl Write,
    bar: &ProgressBar,
    failed: impl Fn(io::Error) -> Failure,
) -> Outcome<()> {
    let mut left = None;
    loop {
        let message = stream.message().await.map_err(|status| {
            bar.finish_and_clear();
            Failure::refused(what, &status)
        })?;
        match message.map(|message| message.part) {
            Some(Some(Part::Header(header))) => {
                bar.set_length(header.size);
                left = Some(header.size);
            }
            Some(Some(Part::Chunk(chunk))) => {
                out.write_all(&chunk).map_err(&failed)?;
                bar.inc(chunk.len() as u64);
                left = left.map(|left| left.saturating_sub(chunk.len() as u64));
            }
            Some(None) => {}
            None => break,
        }
    }
    bar.finish_and_clear();
    if left != Some(0) {
        return Err(Failure::new(
            what,
            "the agent ended the archive before all of it was there",
        ));
    }
    out.flush().map_err(failed)
}

fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}")
        .unwrap_or_else(|_invalid| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::no_length().with_style(style)
}
