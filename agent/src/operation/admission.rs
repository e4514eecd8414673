//! Who may start, who joins, who waits: decided by a pure function.

/// How a verb deals with callers that leave and requests that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) abandoned: Abandoned,
    pub(super) other: Other,
    /// Whether the result is kept for a caller whose reply was lost.
    pub(super) keep: bool,
    /// Whether a result that nobody has got is taken back.
    pub(super) withdraw: bool,
}

/// What happens when the last caller has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    Finish,
    Cancel,
}

/// What a request with another fingerprint does to a running operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Other {
    Supersede,
    Wait,
}

/// What the table holds under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    Nothing,
    Running {
        cancelled: bool,
    },
    /// Finished well and kept.
    Finished {
        claimed: bool,
    },
    /// A result that nobody has got is being taken back.
    Withdrawing,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Starts its own operation, in place of a finished one.
    Start,
    /// Waits for the result of the running one.
    Join,
    /// Gets the kept result.
    Take,
    /// Cancels the running one, waits for its end and asks again.
    Supersede,
    /// Waits for the end and asks again.
    Wait,
    /// Takes the unclaimed result back, waits for that and asks again.
    Withdraw,
}

/// Decides; `same` says whether the fingerprints are equal.
pub(super) fn admit(policy: Policy, present: Present, same: bool) -> Admission {
    match (present, same) {
        (Present::Nothing, _) => Admission::Start,
        (Present::Running { cancelled: false }, true) => Admission::Join,
        (Present::Running { cancelled: true }, _) | (Present::Withdrawing, _) => Admission::Wait,
        (Present::Running { cancelled: false }, false) => match policy.other {
            Other::Supersede => Admission::Supersede,
            Other::Wait => Admission::Wait,
        },
        (Present::Finished { .. }, true) => Admission::Take,
        (Present::Finished { claimed: true }, false) => Admission::Start,
        (Present::Finished { claimed: false }, false) => {
            if policy.withdraw {
                Admission::Withdraw
            } else {
                Admission::Start
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Verb;

    #[test]
    fn admission_of_every_verb_in_every_situation() {
        use Admission::{Join, Start, Supersede, Take, Wait, Withdraw};
        let running = |cancelled| Present::Running { cancelled };
        let finished = |claimed| Present::Finished { claimed };
        for verb in Verb::ALL {
            let policy = verb.policy();
            let (other_running, other_finished) = match verb {
                Verb::RunPodSandbox | Verb::CreateContainer | Verb::Run => (Supersede, Withdraw),
                _ => (Wait, Start),
            };
            let table = [
                (Present::Nothing, Start, Start),
                (running(false), Join, other_running),
                (running(true), Wait, Wait),
                (finished(false), Take, other_finished),
                (finished(true), Take, Start),
                (Present::Withdrawing, Wait, Wait),
            ];
            for (present, same, other) in table {
                assert_eq!(admit(policy, present, true), same, "{verb} {present:?}");
                assert_eq!(admit(policy, present, false), other, "{verb} {present:?}");
            }
        }
    }

    #[test]
    fn what_is_taken_back_is_also_kept_for_its_caller() {
        for verb in Verb::ALL {
            let policy = verb.policy();
            assert!(policy.keep || !policy.withdraw, "{verb}");
        }
    }
}
