//! The life of a container, as it is written down.
//!
//! ```text
//!            Created             Started            Paused
//!   Creating ───────► Created ───────────► Running ────────► Paused
//!                      │   │                │   ▲ ◄────────── │  │
//!                      │   │ StartFailed,   │   │   Resumed   │  │
//!                      │   │ Exited         │   │             │  │
//!                      │   └─────► Exited ◄─┴───┼──── Exited ─┘  │
//!                      │             ▲          │ Seen           │
//!                      └─ Obscured ─► Unknown ──┴── ◄─ Obscured ─┘
//! ```
//!
//! Creating is hidden: the operation either reaches Created or takes everything
//! back. Created means that the init exists and waits before `execve`. Unknown
//! is left when the container is seen again (as Created or Running) or its exit
//! is known. Exited is final: the first exit that is told is the one that stays.

use berth_proto::cri;
use serde::{Deserialize, Serialize};

use super::death::Circumstances;
use crate::{error::Error, ids::Process};

/// Exit code of a container whose program could not be started, as container
/// runtimes agree on it.
pub(crate) const START_FAILED: i32 = 128;
/// Exit code where the true one is lost.
pub(crate) const EXIT_LOST: i32 = 255;

/// Where a container is in its life, with the facts that hold there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum State {
    /// Being built; what the ledger holds for this id may exist.
    Creating,
    /// The init waits to be let go.
    Created {
        /// Its processes.
        processes: Processes,
    },
    /// The program runs.
    Running {
        /// Its processes.
        processes: Processes,
        /// Since when, in Unix nanoseconds.
        started_at: i64,
    },
    /// The program is frozen.
    Paused {
        /// Its processes.
        processes: Processes,
        /// Since when it ran, in Unix nanoseconds.
        started_at: i64,
        /// Since when it is frozen, in Unix nanoseconds.
        paused_at: i64,
    },
    /// All its processes are gone.
    Exited {
        /// How it ended.
        exit: Exit,
    },
    /// The truth cannot be established at present.
    Unknown {
        /// What stood in the way.
        reason: String,
        /// Since when, in Unix nanoseconds.
        since: i64,
        /// The processes it had.
        processes: Processes,
        /// Since when the program ran; none if it had not been started.
        #[serde(default)]
        started_at: Option<i64>,
    },
}

/// The processes that make a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Processes {
    /// Its shim.
    pub(crate) shim: Process,
    /// Its first process.
    pub(crate) init: Process,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// As a shell says it: 128 + N for signal N.
    pub(crate) code: i32,
    /// The signal that ended it; 0 if it exited by itself or that is not known.
    #[serde(default)]
    pub(crate) signal: i32,
    /// Why.
    pub(crate) reason: Reason,
    /// For people; may be empty.
    #[serde(default)]
    pub(crate) message: String,
    /// Since when the program ran, in Unix nanoseconds; 0 if it never did.
    #[serde(default)]
    pub(crate) started_at: i64,
    /// When it was gone, in Unix nanoseconds; never 0.
    pub(crate) finished_at: i64,
    /// The most memory it used at one time, in bytes; 0 where that is unknown.
    #[serde(default)]
    pub(crate) memory_peak: u64,
    /// What else was found out about it.
    #[serde(default)]
    pub(crate) circumstances: Circumstances,
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// Exit code 0.
    Completed,
    /// Any other exit code, or a signal.
    Error,
    /// A memory limit was reached.
    OomKilled,
    /// The program never ran.
    StartError,
    /// Its shim died, and with it the knowledge of the exit code.
    ShimLost,
    /// The node was started anew while it ran.
    NodeReboot,
    /// It is gone and nothing says why.
    Unknown,
}

impl Reason {
    /// The text that CRI callers read. `Completed`, `Error`, `OOMKilled` and
    /// `StartError` are what kubelets and their users know.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::ShimLost => "ShimLost",
            Self::NodeReboot => "NodeReboot",
            Self::Unknown => "Unknown",
        }
    }
}

impl Exit {
    /// The program ended with `code`, or by `signal` if that is not 0.
    /// `started_at` and `finished_at` are Unix nanoseconds.
    pub(crate) fn of_program(
        code: i32,
        signal: i32,
        oom_killed: bool,
        started_at: i64,
        finished_at: i64,
    ) -> Self {
        let reason = if oom_killed {
            Reason::OomKilled
        } else if code == 0 && signal == 0 {
            Reason::Completed
        } else {
            Reason::Error
        };
        Self {
            code,
            signal,
            reason,
            message: String::new(),
            started_at,
            finished_at,
            memory_peak: 0,
            circumstances: Circumstances::default(),
        }
    }

    /// The program could not be started.
    pub(crate) fn of_failed_start(message: String, finished_at: i64) -> Self {
        Self {
            code: START_FAILED,
            signal: 0,
            reason: Reason::StartError,
            message,
            started_at: 0,
            finished_at,
            memory_peak: 0,
            circumstances: Circumstances::default(),
        }
    }

    /// Gone, and the exit code with it; `started_at` is taken from the state.
    pub(crate) fn lost(reason: Reason, message: String, finished_at: i64) -> Self {
        Self {
            code: EXIT_LOST,
            signal: 0,
            reason,
            message,
            started_at: 0,
            finished_at,
            memory_peak: 0,
            circumstances: Circumstances::default(),
        }
    }
}

/// What happens to a container. Times are Unix nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "pausing comes with the calls for it; the state is part of what is stored"
    )
)]
pub(crate) enum Event {
    /// The shim has built it.
    Created {
        /// Its processes.
        processes: Processes,
    },
    /// The program runs.
    Started {
        /// When it was let go.
        at: i64,
    },
    /// The program could not be started.
    StartFailed {
        /// When.
        at: i64,
        /// What a caller may know of it.
        message: String,
    },
    /// It is frozen.
    Paused {
        /// When.
        at: i64,
    },
    /// It is thawed.
    Resumed,
    /// It is gone with all its processes.
    Exited(Exit),
    /// It is not known any more what it does.
    Obscured {
        /// Since when.
        at: i64,
        /// What stands in the way.
        reason: String,
    },
    /// It was asked, after a restart of the agent or in the state Unknown, and answered.
    Seen {
        /// Its processes.
        processes: Processes,
        /// Since when the program runs; none if it has not been started.
        started_at: Option<i64>,
    },
}

/// An event that cannot happen in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {state} cannot be {event}")]
pub(crate) struct IllegalTransition {
    /// Name of the state.
    pub(crate) state: &'static str,
    /// Name of the event.
    pub(crate) event: &'static str,
}

impl From<IllegalTransition> for Error {
    fn from(error: IllegalTransition) -> Self {
        Self::precondition(error.to_string())
    }
}

impl State {
    /// The state after `event`. Pure.
    ///
    /// Times never run backwards, even if the wall clock was set back: an exit
    /// is not before its start. An exit that was told before stays; being told
    /// of it again is an [`IllegalTransition`] of the state `exited`.
    ///
    /// # Errors
    /// [`IllegalTransition`] if it cannot happen here.
    pub(crate) fn next(self, event: Event) -> Result<Self, IllegalTransition> {
        let illegal = IllegalTransition {
            state: self.name(),
            event: event.name(),
        };
        match (self, event) {
            (Self::Creating, Event::Created { processes }) => Ok(Self::Created { processes }),
            // Only as the end of an undoing that failed, or of a node that was started anew.
            (Self::Creating, Event::Exited(exit)) => Ok(Self::exited(exit, 0)),

            (Self::Created { processes }, Event::Started { at }) => Ok(Self::Running {
                processes,
                started_at: at.max(1),
            }),
            (Self::Created { .. }, Event::StartFailed { at, message }) => {
                Ok(Self::exited(Exit::of_failed_start(message, at), 0))
            }

            (
                Self::Running {
                    processes,
                    started_at,
                },
                Event::Paused { at },
            ) => Ok(Self::Paused {
                processes,
                started_at,
                paused_at: at.max(started_at),
            }),
            (
                Self::Paused {
                    processes,
                    started_at,
                    ..
                },
                Event::Resumed,
            ) => Ok(Self::Running {
                processes,
                started_at,
            }),

            (
                state @ (Self::Created { .. }
                | Self::Running { .. }
                | Self::Paused { .. }
                | Self::Unknown { .. }),
                Event::Exited(exit),
            ) => {
                let started_at = state.started_at();
                Ok(Self::exited(exit, started_at))
            }

            (Self::Created { processes }, Event::Obscured { at, reason }) => Ok(Self::Unknown {
                reason,
                since: at,
                processes,
                started_at: None,
            }),
            (
                Self::Running {
                    processes,
                    started_at,
                }
                | Self::Paused {
                    processes,
                    started_at,
                    ..
                },
                Event::Obscured { at, reason },
            ) => Ok(Self::Unknown {
                reason,
                since: at,
                processes,
                started_at: Some(started_at),
            }),

            // An agent that died between the shim's answer and its own record finds the program running.
            (
                Self::Created { .. }
                | Self::Unknown {
                    started_at: None, ..
                },
                Event::Seen {
                    processes,
                    started_at,
                },
            ) => Ok(match started_at {
                Some(at) => Self::Running {
                    processes,
                    started_at: at.max(1),
                },
                None => Self::Created { processes },
            }),
            (
                Self::Running { started_at, .. }
                | Self::Unknown {
                    started_at: Some(started_at),
                    ..
                },
                Event::Seen {
                    processes,
                    started_at: Some(_),
                },
            ) => Ok(Self::Running {
                processes,
                started_at,
            }),
            (
                Self::Paused {
                    started_at,
                    paused_at,
                    ..
                },
                Event::Seen {
                    processes,
                    started_at: Some(_),
                },
            ) => Ok(Self::Paused {
                processes,
                started_at,
                paused_at,
            }),

            (
                Self::Creating
                | Self::Created { .. }
                | Self::Running { .. }
                | Self::Paused { .. }
                | Self::Exited { .. }
                | Self::Unknown { .. },
                _,
            ) => Err(illegal),
        }
    }

    fn exited(mut exit: Exit, known_start: i64) -> Self {
        if exit.started_at == 0 && exit.reason != Reason::StartError {
            exit.started_at = known_start;
        }
        exit.finished_at = exit.finished_at.max(exit.started_at).max(1);
        Self::Exited { exit }
    }

    /// The stable lower-case name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created { .. } => "created",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Exited { .. } => "exited",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// As CRI callers see it; none while they must not see it. Paused counts
    /// as running, because CRI has no word for it.
    pub(crate) fn cri(&self) -> Option<cri::ContainerState> {
        match self {
            Self::Creating => None,
            Self::Created { .. } => Some(cri::ContainerState::ContainerCreated),
            Self::Running { .. } | Self::Paused { .. } => {
                Some(cri::ContainerState::ContainerRunning)
            }
            Self::Exited { .. } => Some(cri::ContainerState::ContainerExited),
            Self::Unknown { .. } => Some(cri::ContainerState::ContainerUnknown),
        }
    }

    /// Whether a process of it may exist.
    pub(crate) fn may_live(&self) -> bool {
        !matches!(self, Self::Exited { .. })
    }

    /// Its processes, where it has or had any that may still live.
    pub(crate) fn processes(&self) -> Option<Processes> {
        match self {
            Self::Created { processes }
            | Self::Running { processes, .. }
            | Self::Paused { processes, .. }
            | Self::Unknown { processes, .. } => Some(*processes),
            Self::Creating | Self::Exited { .. } => None,
        }
    }

    /// Unix nanoseconds; 0 if the program never ran.
    pub(crate) fn started_at(&self) -> i64 {
        match self {
            Self::Creating | Self::Created { .. } => 0,
            Self::Running { started_at, .. } | Self::Paused { started_at, .. } => *started_at,
            Self::Unknown { started_at, .. } => started_at.unwrap_or(0),
            Self::Exited { exit } => exit.started_at,
        }
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Exited { exit } => Some(exit),
            Self::Creating
            | Self::Created { .. }
            | Self::Running { .. }
            | Self::Paused { .. }
            | Self::Unknown { .. } => None,
        }
    }
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Started { .. } => "started",
            Self::StartFailed { .. } => "failed to start",
            Self::Paused { .. } => "paused",
            Self::Resumed => "resumed",
            Self::Exited(_) => "exited",
            Self::Obscured { .. } => "obscured",
            Self::Seen { .. } => "seen",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn processes(pid: i32) -> Processes {
        let process = |pid| Process {
            pid,
            start_ticks: 7,
        };
        Processes {
            shim: process(pid),
            init: process(pid + 1),
        }
    }

    fn states() -> [State; 7] {
        let unknown = |started_at| State::Unknown {
            reason: "x".to_owned(),
            since: 30,
            processes: processes(1),
            started_at,
        };
        [
            State::Creating,
            State::Created {
                processes: processes(1),
            },
            State::Running {
                processes: processes(1),
                started_at: 20,
            },
            State::Paused {
                processes: processes(1),
                started_at: 20,
                paused_at: 25,
            },
            State::Exited {
                exit: Exit::of_program(3, 0, false, 20, 40),
            },
            unknown(None),
            unknown(Some(20)),
        ]
    }

    fn events(at: i64) -> [Event; 9] {
        [
            Event::Created {
                processes: processes(1),
            },
            Event::Started { at },
            Event::StartFailed {
                at,
                message: "exec format error".to_owned(),
            },
            Event::Paused { at },
            Event::Resumed,
            Event::Exited(Exit::lost(Reason::ShimLost, String::new(), at)),
            Event::Obscured {
                at,
                reason: "shim does not answer".to_owned(),
            },
            Event::Seen {
                processes: processes(1),
                started_at: None,
            },
            Event::Seen {
                processes: processes(1),
                started_at: Some(at),
            },
        ]
    }

    #[test]
    fn each_state_accepts_exactly_the_events_of_the_diagram() {
        const NO: &str = "-";
        // Columns: created, started, failed to start, paused, resumed, exited,
        // obscured, seen created, seen running.
        let table = [
            ["created", NO, NO, NO, NO, "exited", NO, NO, NO],
            [
                NO, "running", "exited", NO, NO, "exited", "unknown", "created", "running",
            ],
            [NO, NO, NO, "paused", NO, "exited", "unknown", NO, "running"],
            [NO, NO, NO, NO, "running", "exited", "unknown", NO, "paused"],
            [NO, NO, NO, NO, NO, NO, NO, NO, NO],
            [NO, NO, NO, NO, NO, "exited", NO, "created", "running"],
            [NO, NO, NO, NO, NO, "exited", NO, NO, "running"],
        ];
        for (state, row) in states().into_iter().zip(table) {
            for (event, expected) in events(50).into_iter().zip(row) {
                let next = state.clone().next(event.clone());
                let name = next.as_ref().map_or(NO, State::name);
                assert_eq!(name, expected, "{state:?} + {event:?}");
            }
        }
    }

    #[test]
    fn a_failed_start_is_an_exit_with_code_128_and_no_start() {
        let [_, created, ..] = states();
        let next = created.next(events(50)[2].clone()).unwrap();
        let exit = next.exit().unwrap();
        assert_eq!((exit.code, exit.reason.name()), (128, "StartError"));
        assert_eq!((exit.started_at, exit.finished_at), (0, 50));
        assert_eq!(exit.message, "exec format error");
    }

    #[test]
    fn a_lost_exit_keeps_the_start_and_says_255() {
        let [_, _, running, ..] = states();
        let next = running.next(events(50)[5].clone()).unwrap();
        let exit = next.exit().unwrap();
        assert_eq!((exit.code, exit.reason.name()), (255, "ShimLost"));
        assert_eq!((exit.started_at, exit.finished_at), (20, 50));
    }

    #[test]
    fn reasons_follow_code_signal_and_memory_limit() {
        let reason = |code, signal, oom| Exit::of_program(code, signal, oom, 1, 2).reason;
        assert_eq!(reason(0, 0, false), Reason::Completed);
        assert_eq!(reason(1, 0, false), Reason::Error);
        assert_eq!(reason(137, 9, false), Reason::Error);
        assert_eq!(reason(137, 9, true), Reason::OomKilled);
        // A program that catches its child's fate and exits by itself is still a victim.
        assert_eq!(reason(1, 0, true), Reason::OomKilled);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_put_the_exit_before_the_start() {
        let [_, _, running, ..] = states();
        let exit = Event::Exited(Exit::of_program(0, 0, false, 20, 3));
        assert_eq!(running.next(exit).unwrap().exit().unwrap().finished_at, 20);
    }

    proptest! {
        #[test]
        fn no_sequence_changes_an_exit_or_turns_time_back(
            steps in proptest::collection::vec((0..9_usize, -5..100_i64), 0..30)
        ) {
            let mut state = State::Creating;
            for (which, at) in steps {
                let Ok(next) = state.clone().next(events(at)[which].clone()) else { continue };
                prop_assert!(state.exit().is_none(), "{:?} was left", state);
                if state.started_at() != 0 {
                    prop_assert_eq!(next.started_at(), state.started_at());
                }
                if let Some(exit) = next.exit() {
                    prop_assert!(exit.finished_at > 0 && exit.finished_at >= exit.started_at);
                    prop_assert!(next.processes().is_none() && !next.may_live());
                }
                let json = serde_json::to_string(&next).unwrap();
                prop_assert_eq!(&serde_json::from_str::<State>(&json).unwrap(), &next);
                state = next;
            }
        }
    }
}
