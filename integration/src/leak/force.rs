//! Taking a node down that can no longer do it itself.

use std::{fs, path::Path, time::Duration};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Kind, Scope, Snapshot};

/// Kills processes, detaches mounts and removes groups that are not in
/// `before`, so that a test that failed does not disturb the next one. What
/// cannot be removed stays for the reader of the failure.
pub fn force_down(scope: &Scope<'_>, before: &Snapshot) {
    for _ in 0..20 {
        let Ok(now) = Snapshot::take(scope) else {
            return;
        };
        let left = now.since(before);
        let ours = |kind: &Kind| matches!(kind, Kind::Process | Kind::Mount | Kind::Cgroup);
        if !left.iter().any(|(kind, _)| ours(kind)) {
            return;
        }
        // A failure may be due to another one's end that took it along; the next round tells.
        let undone = left.iter().filter(|(kind, item)| undo(*kind, item)).count();
        if undone == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether something was undone.
fn undo(kind: Kind, item: &str) -> bool {
    match kind {
        Kind::Process => {
            let pid = item.split(' ').next().and_then(|pid| pid.parse().ok());
            pid.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok())
        }
        Kind::Mount => {
            let place = item.strip_prefix("host ").and_then(|i| i.split(' ').nth(1));
            place.is_some_and(|place| umount2(place, MntFlags::MNT_DETACH).is_ok())
        }
        Kind::Cgroup => fs::remove_dir(Path::new(item)).is_ok(),
        Kind::Link | Kind::Rule | Kind::File => false,
    }
}
