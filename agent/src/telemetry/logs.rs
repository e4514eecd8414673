//! Log lines on standard error.

use std::io::IsTerminal as _;

use opentelemetry_sdk::{logs::SdkLogger, trace::SdkTracer};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt as _,
    registry::LookupSpan, reload, util::SubscriberInitExt as _,
};

use super::{
    journal::{self, Journal},
    lines::Fields,
    records::Records,
};
use crate::config::{LogFormat, TelemetryConfig};

/// What libraries say about themselves below these levels is noise even to who
/// debugs the agent; a directive of one's own for the same target wins.
const QUIET: &str = "h2=info,hyper=info,hyper_util=info,tower=info,rustls=info,reqwest=info,\
     opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry_otlp=warn";

/// Everything that takes part in an export.
const EXPORTER: &str = "h2=off,hyper=off,hyper_util=off,tonic=off,tower=off,\
     opentelemetry=off,opentelemetry_sdk=off,opentelemetry_otlp=off";

/// Why something is no log filter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// It does not parse.
    #[error(transparent)]
    Parse(#[from] tracing_subscriber::filter::ParseError),
    /// It parses, but as the name of a module, which is hardly ever meant.
    #[error("no level is called {0:?}")]
    Level(String),
    /// Nothing is logged any more.
    #[error("the log is gone")]
    Gone(#[from] reload::Error),
}

/// Which log lines there are.
#[derive(Debug)]
pub(crate) struct Filter;

impl Filter {
    /// Checks a filter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(text: &str) -> Result<(), FilterError> {
        Self::parse(text).map(drop)
    }

    fn parse(text: &str) -> Result<EnvFilter, FilterError> {
        for directive in text.split(',').map(str::trim) {
            // A lone word that is not a level would be taken as "everything of
            // this module": `infoo` would silence all else.
            let lone = !directive.contains(['=', '[', ':']);
            let is_level = !directive.is_empty() && directive.parse::<LevelFilter>().is_ok();
            if lone && !is_level {
                return Err(FilterError::Level(directive.to_owned()));
            }
        }
        Ok(EnvFilter::builder().parse(format!("{QUIET},{text}"))?)
    }
}

/// Changes the filter while the agent runs.
#[derive(Clone, Debug)]
pub(super) struct Handle(reload::Handle<EnvFilter, Registry>);

impl Handle {
    pub(super) fn set(&self, text: &str) -> Result<(), FilterError> {
        self.0.reload(Filter::parse(text)?)?;
        Ok(())
    }
}

pub(super) fn start(
    config: &TelemetryConfig,
    tracer: Option<SdkTracer>,
    logger: Option<SdkLogger>,
) -> Result<Handle, super::TelemetryError> {
    let (filter, handle) = reload::Layer::new(Filter::parse(&config.log_level)?);
    // Spans are exported at their own level, however quiet the log is.
    let spans = tracer.map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(LevelFilter::INFO)
    });
    let records = match logger {
        Some(logger) => {
            // What the exporter itself says must not be exported in turn.
            let filter = format!("{},{EXPORTER}", config.log_level);
            Some(Records(logger).with_filter(Filter::parse(&filter)?))
        }
        None => None,
    };
    tracing_subscriber::registry()
        .with(lines(config.log_format).with_filter(filter))
        .with(spans)
        .with(records)
        .try_init()?;
    Ok(Handle(handle))
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = fmt::layer().with_writer(std::io::stderr);
    let native = match format {
        LogFormat::Auto => journal::is_standard_error(),
        LogFormat::Journald => true,
        LogFormat::Text | LogFormat::Json => false,
    };
    // Without a journal the lines go where they would have gone: they are wanted
    // most when a node is half up.
    if native && let Ok(journal) = Journal::connect() {
        return journal.boxed();
    }
    match format {
        LogFormat::Auto | LogFormat::Text | LogFormat::Journald => lines
            .fmt_fields(Fields)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_filters_and_misspelt_levels_are_not() {
        for good in [
            "info",
            "warn,berth_agent=debug",
            "off",
            "berth_agent::cri=trace",
        ] {
            Filter::check(good).unwrap();
        }
        for bad in ["infoo", "", "info,x=loud", "loud,,="] {
            assert!(Filter::check(bad).is_err(), "{bad}");
        }
    }
}
