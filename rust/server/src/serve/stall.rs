//! Clients that read nothing.
//!
//! What they are sent fills the system's buffers and then their connection's, and there it would stay.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream whose writes fail when nothing could be written for `timeout`.
pub struct Stalling<S> {
    stream: S,
    timeout: Duration,
    /// Since a write had to wait.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Stalling<S> {
    pub fn new(stream: S, timeout: Duration) -> Self {
        Self { stream, timeout, deadline: None }
    }

    fn poll_written(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = write(Pin::new(&mut self.stream), cx);
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A client that takes what is sent, or nothing.
    struct Client {
        reads: bool,
    }

    impl AsyncWrite for Client {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.reads { Poll::Ready(Ok(bytes.len())) } else { Poll::Pending }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn write(stream: &mut Stalling<Client>, reads: bool) -> Poll<io::Result<usize>> {
        stream.stream.reads = reads;
        Pin::new(stream).poll_write(&mut Context::from_waker(Waker::noop()), b"frame")
    }

    #[tokio::test]
    async fn time_runs_while_nothing_is_taken() {
        let mut stream = Stalling::new(Client { reads: true }, Duration::from_secs(3600));
        assert!(write(&mut stream, false).is_pending());
        let since = stream.deadline.as_ref().unwrap().deadline();
        assert!(write(&mut stream, false).is_pending());
        assert_eq!(stream.deadline.as_ref().unwrap().deadline(), since);
        assert!(matches!(write(&mut stream, true), Poll::Ready(Ok(5))));
        assert!(stream.deadline.is_none());
    }

    #[tokio::test]
    async fn who_takes_nothing_in_time_is_disconnected() {
        let mut stream = Stalling::new(Client { reads: true }, Duration::ZERO);
        assert!(matches!(write(&mut stream, true), Poll::Ready(Ok(5))));
        let failed = std::future::poll_fn(|cx| {
            stream.stream.reads = false;
            Pin::new(&mut stream).poll_write(cx, b"frame")
        });
        assert_eq!(failed.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
