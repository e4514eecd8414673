//! `pull`: fetches images, with the progress of each layer.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    time::Duration,
};

use berth_proto::{
    berth::v1::{self as berth, blob_progress::State},
    cri,
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::Context;
use crate::{
    connect::Connection,
    failure::{EXIT_FAILED, Failure, Outcome},
    listing::is_missing,
    output::{
        self, Format,
        text::{decimal_bytes, printable, short_id},
    },
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to fetch: [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Only the image's id, no progress
    #[arg(short, long)]
    quiet: bool,
}

/// What a pull ended in.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    image_id: String,
    reference: String,
    digest: String,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let mut exit = 0;
    let mut results = Vec::new();
    for image in &args.images {
        match pull(&connection, image, args.quiet).await {
            Err(failure) => {
                failure.print();
                exit = EXIT_FAILED;
            }
            Ok(pulled) if args.quiet => output::line(&pulled.image_id)?,
            Ok(pulled) if context.format != Format::Table => results.push(json!({
                "image": image,
                "reference": pulled.reference,
                "digest": pulled.digest,
                "imageId": pulled.image_id,
            })),
            Ok(pulled) => {
                if !pulled.digest.is_empty() {
                    output::line(&format!("Digest: {}", pulled.digest))?;
                }
                output::line(&format!("Image:  {}", pulled.image_id))?;
                output::line(&format!("Name:   {}", pulled.reference))?;
            }
        }
    }
    if context.format != Format::Table && !args.quiet {
        output::value(context.format, &json!({"images": results}))?;
    }
    Ok(exit)
}

/// Pulls one image. Progress goes to standard error: bars on a terminal, a
/// line for each change otherwise.
pub(super) async fn pull(connection: &Connection, reference: &str, quiet: bool) -> Outcome<Pulled> {
    let failed =
        |status: &tonic::Status| Failure::refused(format!("cannot pull {reference}"), status);
    let request = berth::PullRequest {
        reference: reference.to_owned(),
        auth: None,
    };
    let mut stream = match connection.node().pull(connection.open_ended(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if is_missing(&status) => {
            return pull_by_cri(connection, reference, quiet).await;
        }
        Err(status) => return Err(failed(&status)),
    };
    let mut progress = Progress::new(reference, quiet);
    let mut pulled = Pulled::default();
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                progress.show(&message);
                if !message.image_id.is_empty() {
                    pulled = Pulled {
                        image_id: message.image_id,
                        reference: message.reference,
                        digest: message.digest,
                    };
                }
            }
            Ok(None) => break,
            // A server may answer so only when the stream is read.
            Err(status) if is_missing(&status) && pulled.image_id.is_empty() => {
                progress.end();
                return pull_by_cri(connection, reference, quiet).await;
            }
            Err(status) => {
                progress.end();
                return Err(failed(&status));
            }
        }
    }
    progress.end();
    if pulled.image_id.is_empty() {
        return Err(Failure::new(
            format!("cannot pull {reference}"),
            "the agent ended the pull without naming the image",
        ));
    }
    Ok(pulled)
}

/// Any other CRI runtime: no progress, and only the image's id in the end.
async fn pull_by_cri(connection: &Connection, reference: &str, quiet: bool) -> Outcome<Pulled> {
    let spinner = if quiet || !io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else {
        ProgressBar::new_spinner().with_message(format!("Pulling {}", printable(reference)))
    };
    spinner.enable_steady_tick(Duration::from_millis(120));
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: reference.to_owned(),
            ..Default::default()
        }),
        auth: None,
        sandbox_config: None,
    };
    let answer = connection
        .images()
        .pull_image(connection.open_ended(request))
        .await;
    spinner.finish_and_clear();
    let image_ref = answer
        .map_err(|status| Failure::refused(format!("cannot pull {reference}"), &status))?
        .into_inner()
        .image_ref;
    Ok(Pulled {
        image_id: image_ref,
        reference: reference.to_owned(),
        digest: String::new(),
    })
}

/// Shows how far a pull is.
struct Progress {
    style: Style,
    /// The last state told of each layer.
    told: HashMap<String, State>,
}

enum Style {
    Quiet,
    Lines,
    Bars {
        all: MultiProgress,
        bars: HashMap<String, ProgressBar>,
        style: ProgressStyle,
    },
}

impl Progress {
    fn new(reference: &str, quiet: bool) -> Self {
        let style = if quiet {
            Style::Quiet
        } else {
            output::note(&format!("Pulling {reference}"));
            if io::stderr().is_terminal() {
                let template =
                    "{prefix:12}  {msg:10}  {bar:30}  {decimal_bytes}/{decimal_total_bytes}";
                Style::Bars {
                    all: MultiProgress::new(),
                    bars: HashMap::new(),
                    style: ProgressStyle::with_template(template)
                        .unwrap_or_else(|_invalid| ProgressStyle::default_bar())
                        .progress_chars("=> "),
                }
            } else {
                Style::Lines
            }
        };
        Self {
            style,
            told: HashMap::new(),
        }
    }

    fn show(&mut self, message: &berth::PullProgress) {
        for blob in &message.blobs {
            let name = printable(short_id(&blob.digest));
            let state = blob.state();
            match &mut self.style {
                Style::Quiet => {}
                Style::Lines => {
                    if self.told.insert(blob.digest.clone(), state) != Some(state)
                        && state != State::Waiting
                    {
                        let size = match state {
                            State::Fetching if blob.total > 0 => {
                                format!(" {}", decimal_bytes(blob.total))
                            }
                            _ => String::new(),
                        };
                        output::note(&format!("{name}: {}{size}", word(state)));
                    }
                }
                Style::Bars { all, bars, style } => {
                    let bar = bars.entry(blob.digest.clone()).or_insert_with(|| {
                        all.add(
                            ProgressBar::no_length()
                                .with_style(style.clone())
                                .with_prefix(name),
                        )
                    });
                    bar.set_length(blob.total);
                    bar.set_message(word(state));
                    match state {
                        State::Done | State::Exists => {
                            bar.set_position(blob.total);
                            bar.abandon();
                        }
                        State::Waiting | State::Fetching | State::Unpacking => {
                            bar.set_position(blob.fetched);
                        }
                    }
                }
            }
        }
    }

    fn end(&self) {
        if let Style::Bars { bars, .. } = &self.style {
            for bar in bars.values() {
                bar.abandon();
            }
        }
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Fetching => "fetching",
        State::Unpacking => "unpacking",
        State::Done => "done",
        State::Exists => "is here",
    }
}
