//! Messages between processes, one of which is not trusted or not well.

use berth_proto::shim::{Request, Response};
use berth_streaming::{
    SizeParser,
    spdy::{Decoder, Frame, HeaderReader, HeaderWriter},
};
use bytes::BytesMut;
use prost::Message as _;

/// A datagram of the shim protocol: what is taken for a request or an answer is
/// one, and says the same when it is sent on.
pub(crate) fn datagram(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        let again = Request::decode(request.encode_to_vec().as_slice());
        assert_eq!(again.ok(), Some(request));
    }
    if let Ok(response) = Response::decode(data) {
        let again = Response::decode(response.encode_to_vec().as_slice());
        assert_eq!(again.ok(), Some(response));
    }
}

/// SPDY as a kubectl of unknown making speaks it: the first byte says how the rest
/// is cut. Payload is never more than was sent.
pub(crate) fn spdy(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else {
        return;
    };
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
    let mut headers = HeaderReader::default();
    let mut payload = 0;
    for piece in data.chunks(usize::from(cut).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(Frame::SynStream { block, .. })) => match headers.read(&block) {
                    Ok(read) => write_back(&read),
                    Err(_) => return,
                },
                Ok(Some(Frame::Data { bytes, .. })) => payload += bytes.len(),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(payload <= data.len());
}

/// What was read is read again as it was written.
fn write_back(headers: &[(String, String)]) {
    let plain: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    if let Ok(block) = HeaderWriter::new().write(&plain) {
        let again = HeaderReader::default().read(&block);
        assert_eq!(again.ok().as_deref(), Some(headers));
    }
}

/// Sizes of a terminal are the same wherever the bytes are cut.
pub(crate) fn sizes(data: &[u8]) {
    let whole = SizeParser::default().push(data);
    let (left, right) = data.split_at(data.len() / 2);
    let mut parser = SizeParser::default();
    let cut = parser.push(left).and_then(|mut first| {
        first.extend(parser.push(right)?);
        Some(first)
    });
    if let (Some(whole), Some(cut)) = (whole, cut) {
        assert_eq!(whole, cut);
    }
}
