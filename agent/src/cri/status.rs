//! The one place where errors become gRPC codes.

use tonic::{Code, Status, metadata::MetadataValue};

use crate::error::{Error, Kind};

/// Longest message that is sent, in bytes. It travels percent-encoded in a
/// trailer, and HTTP/2 clients commonly refuse header lists above 16 KiB.
const MAX_MESSAGE: usize = 4 * 1024;

/// Metadata key that names the phase in which a call failed.
pub(crate) const PHASE_KEY: &str = "berth-phase";

/// The code of each kind. No wildcard: a new kind must be placed here.
pub(crate) fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::Unavailable => Code::Unavailable,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::DataLoss => Code::DataLoss,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Aborted => Code::Aborted,
        Kind::Internal => Code::Internal,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = Status::new(code(error.kind()), shorten(error.sentence()));
        if let Some(phase) = error.phase() {
            status
                .metadata_mut()
                .insert(PHASE_KEY, MetadataValue::from_static(phase.name()));
        }
        status
    }
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use berth_phase::Phase;

    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own_and_none_is_ok_or_unknown() {
        let codes: HashSet<_> = Kind::ALL
            .iter()
            .map(|kind| format!("{:?}", code(*kind)))
            .collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(!codes.contains("Ok") && !codes.contains("Unknown"));
    }

    #[test]
    fn a_status_carries_the_sentence_and_the_phase() {
        let error = Error::deadline("run-pod-sandbox a/b").in_phase(Some(Phase::Network));
        let status = Status::from(error);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "run-pod-sandbox a/b");
        assert_eq!(status.metadata().get(PHASE_KEY).unwrap(), "network");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let status = Status::from(Error::internal("ü".repeat(MAX_MESSAGE)));
        assert!(status.message().len() <= MAX_MESSAGE + '…'.len_utf8());
        assert!(status.message().ends_with("ü…"));
    }
}
