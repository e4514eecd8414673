//! Questions to a person at the terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use crate::output::text::printable;

/// Longer than any password or name that a person types.
const LONGEST: usize = 4096;
const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const CTRL_U: u8 = 0x15;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];

/// Whether there is somebody to ask.
pub(crate) fn possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a line; an empty answer means `default`.
pub(crate) fn line(question: &str, default: Option<&str>) -> io::Result<String> {
    let mut err = io::stderr().lock();
    match default {
        Some(default) => write!(err, "{question} ({}): ", printable(default))?,
        None => write!(err, "{question}: ")?,
    }
    err.flush()?;
    let mut answer = String::new();
    let count = io::stdin()
        .lock()
        .take(LONGEST as u64)
        .read_line(&mut answer)?;
    if count == 0 {
        writeln!(err)?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let answer = answer.trim();
    Ok(match answer {
        "" => default.unwrap_or_default().to_owned(),
        answer => answer.to_owned(),
    })
}

/// Asks for something that must not be seen. Ctrl-C gives `Interrupted`: the
/// terminal does not send the signal meanwhile, which would leave it mute.
pub(crate) fn hidden(question: &str) -> io::Result<String> {
    let mut err = io::stderr().lock();
    write!(err, "{question}: ")?;
    err.flush()?;
    let answer = {
        let _mute = Mute::new()?;
        read_hidden()
    };
    writeln!(err)?;
    answer
}

fn read_hidden() -> io::Result<String> {
    let mut answer: Vec<u8> = Vec::new();
    let mut input = io::stdin().lock();
    loop {
        let mut byte = [0];
        if input.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match byte[0] {
            b'\r' | b'\n' => break,
            CTRL_C => return Err(io::ErrorKind::Interrupted.into()),
            CTRL_D if answer.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            CTRL_U => answer.clear(),
            byte if BACKSPACE.contains(&byte) => {
                // A whole character, of however many bytes.
                while answer.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            byte if answer.len() < LONGEST => answer.push(byte),
            _ => return Err(io::Error::other("this is too long")),
        }
    }
    String::from_utf8(answer).map_err(|_secret| io::Error::other("this is not UTF-8"))
}

/// The terminal without echo, until this is dropped.
struct Mute(Termios);

impl Mute {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut mute = before.clone();
        mute.local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        mute.special_codes[SpecialCodeIndex::VMIN] = 1;
        mute.special_codes[SpecialCodeIndex::VTIME] = 0;
        // What was typed ahead would have been shown: it is not taken for a secret.
        tcsetattr(io::stdin(), OptionalActions::Flush, &mute)?;
        Ok(Self(before))
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}
