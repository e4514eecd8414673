//! Lists in pieces: what does not fit into one message of gRPC comes in several.
//!
//! A list is taken as a whole, at one moment, and then sent; every item is in it once.
//! An empty list is no message at all.

use std::pin::Pin;

use prost::Message;
use tokio_stream::Stream;
use tonic::{Response, Status};

/// Bytes of a piece. Clients take 16 MiB, and a few pieces per list cost nothing.
const PIECE: usize = 1 << 20;
/// Items of a piece.
const ITEMS: usize = 1000;

/// A stream of messages.
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Sends `items`, as many in each message as fit; `message` makes one of them.
pub(super) fn pieces<T, M>(
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Response<Streamed<M>>
where
    T: Message + 'static,
    M: Send + 'static,
{
    let mut items = items.into_iter().peekable();
    let all = std::iter::from_fn(move || {
        let mut piece = Vec::new();
        let mut size = 0;
        while let Some(item) = items.peek() {
            let more = item.encoded_len();
            // One item alone is sent whatever its size.
            if !piece.is_empty() && (size + more > PIECE || piece.len() == ITEMS) {
                break;
            }
            size += more;
            piece.extend(items.next());
        }
        (!piece.is_empty()).then(|| Ok(message(piece)))
    });
    Response::new(Box::pin(tokio_stream::iter(all)))
}

#[cfg(test)]
mod tests {
    use berth_proto::cri::UInt64Value;
    use tokio_stream::StreamExt as _;

    use super::*;

    async fn sizes<T: Message + 'static>(items: Vec<T>) -> Vec<usize> {
        let stream = pieces(items, |piece| piece).into_inner();
        let all: Vec<_> = stream.collect().await;
        all.iter()
            .map(|piece| piece.as_ref().unwrap().len())
            .collect()
    }

    #[tokio::test]
    async fn every_item_is_sent_once_and_an_empty_list_is_no_message() {
        assert!(sizes(Vec::<UInt64Value>::new()).await.is_empty());
        let many = |count| (0..count).map(|value| UInt64Value { value }).collect();
        assert_eq!(sizes(many(1)).await, [1]);
        assert_eq!(sizes(many(2500)).await, [1000, 1000, 500]);
        let large = |bytes: usize| "x".repeat(bytes);
        let items = vec![large(PIECE * 2), large(10), large(PIECE - 100), large(200)];
        assert_eq!(sizes(items).await, [1, 2, 1]);
    }
}
