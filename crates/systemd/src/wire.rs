//! D-Bus's form on the wire (D-Bus specification, "Marshaling"), little-endian.

use crate::Error;

/// Longest message that is taken; the specification allows 128 MiB, and these answers
/// have some hundred bytes.
pub(crate) const LONGEST: usize = 256 * 1024;
/// What comes before the header's fields.
pub(crate) const FIXED: usize = 16;

/// Writes values, aligned to the message's beginning.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn align(&mut self, to: usize) {
        while !self.0.len().is_multiple_of(to) {
            self.0.push(0);
        }
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.align(4);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.align(8);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Also an object path.
    pub(crate) fn string(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    pub(crate) fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    /// `items` writes its elements, which are aligned to `to`.
    pub(crate) fn array(&mut self, to: usize, items: impl FnOnce(&mut Self)) {
        self.u32(0);
        let place = self.0.len() - 4;
        self.align(to);
        let start = self.0.len();
        items(self);
        let size = length(self.0.len() - start);
        self.0[place..place + 4].copy_from_slice(&size.to_le_bytes());
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A call to a method.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
    pub(crate) signature: &'a str,
}

/// The whole message.
pub(crate) fn encode(serial: u32, call: &Call<'_>, body: &[u8]) -> Vec<u8> {
    const CALL: u8 = 1;
    const VERSION: u8 = 1;
    let mut writer = Writer::default();
    for byte in [b'l', CALL, 0, VERSION] {
        writer.byte(byte);
    }
    writer.u32(length(body.len()));
    writer.u32(serial);
    writer.array(8, |writer| {
        for (code, signature, value) in [
            (1, "o", call.path),
            (2, "s", call.interface),
            (3, "s", call.member),
            (6, "s", call.destination),
        ] {
            writer.align(8);
            writer.byte(code);
            writer.signature(signature);
            writer.string(value);
        }
        if !call.signature.is_empty() {
            writer.align(8);
            writer.byte(8);
            writer.signature("g");
            writer.signature(call.signature);
        }
    });
    writer.align(8);
    writer.0.extend_from_slice(body);
    writer.0
}

/// What kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

/// A message that was received.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// Of the call that it answers; 0 for none.
    pub(crate) reply_to: u32,
    pub(crate) member: String,
    pub(crate) error: String,
    pub(crate) signature: String,
    pub(crate) body: Vec<u8>,
}

/// How long a message is, from its first [`FIXED`] bytes.
pub(crate) fn total(fixed: &[u8; FIXED]) -> Result<usize, Error> {
    if fixed[0] != b'l' {
        return Err(Error::Answer("it is not little-endian"));
    }
    let mut reader = Reader::new(fixed);
    reader.at = 4;
    let body = reader.u32()? as usize;
    reader.at = 12;
    let fields = reader.u32()? as usize;
    let header = FIXED
        .checked_add(fields)
        .and_then(|length| length.checked_next_multiple_of(8));
    header
        .and_then(|header| header.checked_add(body))
        .filter(|&length| length <= LONGEST)
        .ok_or(Error::Answer("it is too long"))
}

/// Reads a whole message.
pub(crate) fn decode(bytes: &[u8]) -> Result<Message, Error> {
    let mut reader = Reader::new(bytes);
    reader.at = 1;
    let kind = match reader.byte()? {
        1 => Kind::Call,
        2 => Kind::Return,
        3 => Kind::Error,
        4 => Kind::Signal,
        _ => return Err(Error::Answer("it is of an unknown kind")),
    };
    reader.at = 12;
    let end = FIXED
        .checked_add(reader.u32()? as usize)
        .filter(|&end| end <= bytes.len())
        .ok_or(Error::Answer("its header is longer than it is"))?;
    let mut message = Message {
        kind,
        reply_to: 0,
        member: String::new(),
        error: String::new(),
        signature: String::new(),
        body: Vec::new(),
    };
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        let signature = reader.signature()?;
        match (code, signature.as_str()) {
            (3, "s") => message.member = reader.string()?,
            (4, "s") => message.error = reader.string()?,
            (5, "u") => message.reply_to = reader.u32()?,
            (8, "g") => message.signature = reader.signature()?,
            (_, "s" | "o") => drop(reader.string()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.u32()?),
            _ => return Err(Error::Answer("a field of its header has an unknown type")),
        }
    }
    let body = end.next_multiple_of(8);
    message.body = bytes.get(body..).unwrap_or_default().to_vec();
    Ok(message)
}

/// Reads values.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(Error::Answer("it ends too early"))?;
        self.at += count;
        Ok(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Also an object path.
    pub(crate) fn string(&mut self) -> Result<String, Error> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    pub(crate) fn signature(&mut self) -> Result<String, Error> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Result<String, Error> {
        let text = std::str::from_utf8(self.take(length)?)
            .map_err(|_not_utf8| Error::Answer("a string is not UTF-8"))?
            .to_owned();
        self.take(1)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call() -> Vec<u8> {
        let mut body = Writer::default();
        body.string("x.scope");
        body.u64(7);
        let call = Call {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "GetUnit",
            signature: "st",
        };
        encode(5, &call, &body.0)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = call();
        let mut fixed = [0; FIXED];
        fixed.copy_from_slice(&bytes[..FIXED]);
        assert_eq!(total(&fixed).unwrap(), bytes.len());
        let message = decode(&bytes).unwrap();
        assert_eq!(
            (message.kind, message.member.as_str()),
            (Kind::Call, "GetUnit")
        );
        assert_eq!(message.signature, "st");
        let mut body = Reader::new(&message.body);
        assert_eq!(body.string().unwrap(), "x.scope");
        // "x.scope" and its NUL end at 12: the number is aligned to 16.
        assert_eq!(message.body.len(), 24);
    }

    #[test]
    fn arrays_count_their_bytes_without_the_first_padding() {
        let mut writer = Writer::default();
        writer.array(8, |writer| writer.u64(1));
        assert_eq!(writer.0[..8], [8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(writer.0.len(), 16);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&bytes));
            if bytes.len() >= FIXED {
                bytes[0] = b'l';
                let mut fixed = [0; FIXED];
                fixed.copy_from_slice(&bytes[..FIXED]);
                drop(total(&fixed));
            }
        }

        #[test]
        fn a_message_that_was_changed_makes_no_panic(at in 0_usize..150, to in any::<u8>()) {
            let mut bytes = call();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            drop(decode(&bytes));
        }
    }
}
