//! How a session ended, as the error stream says it: a Kubernetes `Status` object.

use serde::{Deserialize, Serialize};

/// What the client learns at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ended well.
    Success,
    /// The command ended with this code, not 0.
    ExitCode(i32),
    /// It could not be run, or something broke.
    Failure(String),
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Status {
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Verdict {
    /// What the protocols since v4 send, always.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let status = match self {
            Self::Success => Status {
                status: "Success".to_owned(),
                ..Status::default()
            },
            Self::ExitCode(code) => Status {
                status: "Failure".to_owned(),
                message: self.to_text(),
                reason: "NonZeroExitCode".to_owned(),
                details: Some(Details {
                    causes: vec![Cause {
                        reason: "ExitCode".to_owned(),
                        message: code.to_string(),
                    }],
                }),
                code: None,
            },
            Self::Failure(_) => Status {
                status: "Failure".to_owned(),
                message: self.to_text(),
                reason: "InternalError".to_owned(),
                details: None,
                code: Some(500),
            },
        };
        // Strings and numbers cannot fail to be written.
        serde_json::to_vec(&status).unwrap_or_default()
    }

    /// What older protocols send, and only for a failure.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::ExitCode(code) => {
                format!("command terminated with non-zero exit code: exit status {code}")
            }
            Self::Failure(why) => format!("Internal error occurred: {why}"),
        }
    }

    /// Reads what a server since v4 has sent.
    #[must_use]
    pub fn from_json(bytes: &[u8]) -> Self {
        // An error stream without a word is a success too.
        if bytes.is_empty() {
            return Self::Success;
        }
        let Ok(status) = serde_json::from_slice::<Status>(bytes) else {
            return Self::Failure(String::from_utf8_lossy(bytes).into_owned());
        };
        let causes = status.details.unwrap_or_default().causes;
        let code = causes
            .iter()
            .find(|cause| cause.reason == "ExitCode")
            .and_then(|cause| cause.message.parse().ok());
        match (status.status.as_str(), code) {
            ("Success", _) => Self::Success,
            (_, Some(code)) if status.reason == "NonZeroExitCode" => Self::ExitCode(code),
            _ => Self::Failure(status.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_written_as_clients_read_it() {
        let json = |verdict: Verdict| String::from_utf8(verdict.to_json()).unwrap();
        assert_eq!(json(Verdict::Success), r#"{"status":"Success"}"#);
        assert_eq!(
            json(Verdict::ExitCode(3)),
            r#"{"status":"Failure","message":"command terminated with non-zero exit code: exit status 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        );
        assert_eq!(
            json(Verdict::Failure("no".to_owned())),
            r#"{"status":"Failure","message":"Internal error occurred: no","reason":"InternalError","code":500}"#
        );
        for verdict in [Verdict::Success, Verdict::ExitCode(255)] {
            assert_eq!(Verdict::from_json(&verdict.to_json()), verdict);
        }
        assert_eq!(Verdict::from_json(b""), Verdict::Success);
        assert_eq!(
            Verdict::from_json(b"broken"),
            Verdict::Failure("broken".to_owned())
        );
    }
}
