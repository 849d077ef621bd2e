//! What handlers leave of their request's body, such as one that is too large or whose key is unknown.
//!
//! A connection that is closed while its client sends is reset, and then the client may never read the answer. So the
//! rest is read, up to a limit, before the answer is sent.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

const MAX_BYTES: usize = 64 << 20;
const MAX_TIME: Duration = Duration::from_secs(5);

/// A body in the hands of a handler. One at a time polls it: the handler, then whoever reads the rest.
#[derive(Clone)]
struct Lent(Arc<Mutex<Body>>);

/// The rest of a body that was lent.
pub struct Unread {
    body: Lent,
    /// The client waits for a word before it sends.
    is_expecting: bool,
}

pub fn lend(body: Body, headers: &HeaderMap) -> (Body, Unread) {
    let lent = Lent(Arc::new(Mutex::new(body)));
    let is_expecting = headers.contains_key(header::EXPECT);
    (Body::new(lent.clone()), Unread { body: lent, is_expecting })
}

impl Unread {
    /// Reads and forgets what is left. False: it was too much, and the connection is of no more use.
    pub async fn discard(mut self) -> bool {
        if self.body.is_end_stream() {
            return true;
        }
        !self.is_expecting && tokio::time::timeout(MAX_TIME, self.read()).await.unwrap_or(false)
    }

    async fn read(&mut self) -> bool {
        let mut left = MAX_BYTES;
        while let Some(frame) = self.body.frame().await {
            let len = frame.map_or(usize::MAX, |frame| frame.data_ref().map_or(0, Bytes::len));
            match left.checked_sub(len) {
                Some(less) => left = less,
                None => return false,
            }
        }
        true
    }
}

impl Lent {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_rest_is_what_the_handler_left() {
        let headers = HeaderMap::new();
        let (mut lent, unread) = lend(Body::from("all of it"), &headers);
        assert!(lent.frame().await.is_some());
        assert!(unread.body.is_end_stream());
        assert!(unread.discard().await);
        let (lent, unread) = lend(Body::from("all of it"), &headers);
        drop(lent);
        assert!(!unread.body.is_end_stream());
        assert!(unread.discard().await);
    }

    #[tokio::test]
    async fn who_waits_for_a_word_is_not_waited_for() {
        let headers = HeaderMap::from_iter([(header::EXPECT, "100-continue".parse().unwrap())]);
        assert!(!lend(Body::from("never sent"), &headers).1.discard().await);
        let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1 << 16])));
        assert!(!lend(Body::from_stream(endless), &HeaderMap::new()).1.discard().await);
    }
}
