//! One connection: authentication, calls and the signals between them.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use crate::{
    Error,
    wire::{self, Call, FIXED, Kind, Message},
};

/// systemd's own socket, for root: there without a bus as well.
const PRIVATE: &str = "/run/systemd/private";
/// The system bus.
const SYSTEM: &str = "/run/dbus/system_bus_socket";
/// Longest wait for an answer. systemd answers in milliseconds, but while it reloads on a
/// large node it answers nobody for seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest line of the authentication.
const LONGEST_LINE: usize = 512;

/// A connection to systemd.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

impl Bus {
    /// Connects as the process's user, who must be root.
    pub(crate) fn connect() -> Result<Self, Error> {
        if let Ok(stream) = UnixStream::connect(PRIVATE) {
            return Self::greet(stream);
        }
        let stream = UnixStream::connect(SYSTEM).map_err(|source| Error::Unreachable {
            path: SYSTEM,
            source,
        })?;
        let mut bus = Self::greet(stream)?;
        let own = Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            signature: "",
        };
        bus.call(&own, &[])?;
        let mut rule = wire::Writer::default();
        rule.string(
            "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
        );
        let watch = Call {
            member: "AddMatch",
            signature: "s",
            ..own
        };
        bus.call(&watch, &rule.0)?;
        Ok(bus)
    }

    /// EXTERNAL authentication: the kernel tells who is at the other end.
    fn greet(stream: UnixStream) -> Result<Self, Error> {
        let failed = || Error::connection("authenticating to systemd");
        stream.set_read_timeout(Some(LIMIT)).map_err(failed())?;
        stream.set_write_timeout(Some(LIMIT)).map_err(failed())?;
        let mut bus = Self {
            stream,
            serial: 0,
            signals: Vec::new(),
        };
        // The user id as text, in hexadecimal digits: "0".
        bus.stream
            .write_all(b"\0AUTH EXTERNAL 30\r\n")
            .map_err(failed())?;
        let answer = bus.line().map_err(failed())?;
        if !answer.starts_with("OK ") {
            return Err(Error::Answer("it refuses the authentication"));
        }
        bus.stream.write_all(b"BEGIN\r\n").map_err(failed())?;
        Ok(bus)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        // Byte by byte: what follows belongs to the first message.
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.len() > LONGEST_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Calls a method and waits for its answer.
    pub(crate) fn call(&mut self, call: &Call<'_>, body: &[u8]) -> Result<Message, Error> {
        self.serial += 1;
        let serial = self.serial;
        let what = || call.member.to_owned();
        self.stream
            .write_all(&wire::encode(serial, call, body))
            .map_err(Error::connection(what()))?;
        let until = Instant::now() + LIMIT;
        loop {
            let message = self.receive(&what(), until)?;
            match message.kind {
                Kind::Signal => self.signals.push(message),
                Kind::Return if message.reply_to == serial => return Ok(message),
                Kind::Error if message.reply_to == serial => {
                    let text = wire::Reader::new(&message.body).string();
                    return Err(Error::Refused {
                        what: what(),
                        name: message.error,
                        message: text.unwrap_or_default(),
                    });
                }
                _ => {}
            }
        }
    }

    /// The first signal, past or to come, that `wanted` is content with.
    pub(crate) fn signal<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Message) -> Option<T>,
    ) -> Result<T, Error> {
        for message in std::mem::take(&mut self.signals) {
            if let Some(found) = wanted(&message) {
                return Ok(found);
            }
        }
        let until = Instant::now() + LIMIT;
        loop {
            let message = self.receive(what, until)?;
            if message.kind == Kind::Signal
                && let Some(found) = wanted(&message)
            {
                return Ok(found);
            }
        }
    }

    fn receive(&mut self, what: &str, until: Instant) -> Result<Message, Error> {
        let failed = || Error::connection(format!("waiting for systemd's answer to {what}"));
        if Instant::now() >= until {
            return Err(failed()(io::ErrorKind::TimedOut.into()));
        }
        let mut fixed = [0; FIXED];
        self.stream.read_exact(&mut fixed).map_err(failed())?;
        let mut bytes = vec![0; wire::total(&fixed)?];
        bytes[..FIXED].copy_from_slice(&fixed);
        self.stream
            .read_exact(&mut bytes[FIXED..])
            .map_err(failed())?;
        wire::decode(&bytes)
    }
}
