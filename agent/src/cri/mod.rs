//! The CRI's edge: translation of requests and answers. What a verb does is in
//! `sandbox`, `container` and `image`; tonic's types stop here.

mod image;
mod runtime;
mod status;
mod stream;
mod version;

use tokio::time::{Duration, Instant};
use tonic::Request;

pub(crate) use image::Images;
pub(crate) use runtime::Runtime;
pub(crate) use version::VERSION;

/// When the caller stops waiting, from gRPC's own header.
///
/// tonic enforces no deadline of its own here, and must not: the operation goes
/// on, and the caller is told what it waited for.
pub(crate) fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    let header = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    Some(Instant::now() + parse_timeout(header)?)
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout"). A little is taken
/// off, so that the explanation arrives before the client gives up.
fn parse_timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(value.checked_mul(3600)?),
        "M" => Duration::from_secs(value.checked_mul(60)?),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    };
    Some(timeout - (timeout / 20).min(Duration::from_millis(100)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        assert_eq!(parse_timeout("2S"), Some(Duration::from_millis(1900)));
        assert_eq!(parse_timeout("100m"), Some(Duration::from_millis(95)));
        for bad in ["", "S", "1", "123456789S", "1x", "-1S", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
