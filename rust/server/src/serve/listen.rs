//! Connections: taken up to a limit, read within a time, served until they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::app::App;
use super::front_door::front_door;
use super::stall::Stalling;

const MAX_HEADERS: usize = 100;
/// Head and pieces of bodies are read through a buffer of at most this.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// After the last answer, for what is still on its way to clients.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Serves until the drain says stop. Returns when connections are closed, or will not close.
pub async fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, app: App, router: Router) {
    let connections = Arc::new(Semaphore::new(app.limits.max_connections));
    loop {
        tokio::select! {
            (accepted, permit) = next(&listener, &connections) => match accepted {
                Ok((stream, _)) => accept(stream, tls.clone(), permit, &app, &router),
                // Out of file descriptors, or a client that left at once: neither is a reason to stop.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            () = app.drain.stopping() => break,
        }
    }
    let all_closed = connections.acquire_many(app.limits.max_connections as u32);
    let _ = tokio::time::timeout(LAST_BYTES, all_closed).await;
}

/// While all connections are in use, others wait in the system's backlog.
async fn next(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> (std::io::Result<(TcpStream, SocketAddr)>, OwnedSemaphorePermit) {
    let permit = connections.clone().acquire_owned().await.expect("the semaphore is never closed");
    (listener.accept().await, permit)
}

fn accept(stream: TcpStream, tls: Option<TlsAcceptor>, permit: OwnedSemaphorePermit, app: &App, router: &Router) {
    // Tokens are sent when they are there. Without it they come a little later.
    let _ = stream.set_nodelay(true);
    let stream = Stalling::new(stream, app.limits.write_timeout);
    let (app, router) = (app.clone(), router.clone());
    match tls {
        None => drop(tokio::spawn(serve(stream, permit, app, router))),
        Some(tls) => drop(tokio::spawn(serve_tls(stream, tls, permit, app, router))),
    }
}

/// A handshake has the time that a request's head has. One that fails is its client's business.
async fn serve_tls(
    stream: Stalling<TcpStream>,
    tls: TlsAcceptor,
    permit: OwnedSemaphorePermit,
    app: App,
    router: Router,
) {
    tokio::select! {
        shaken = tokio::time::timeout(app.limits.read_timeout, tls.accept(stream)) => {
            if let Ok(Ok(stream)) = shaken {
                serve(stream, permit, app.clone(), router).await;
            }
        }
        () = app.drain.stopping() => {}
    }
}

/// One connection, until its end or the server's.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    permit: OwnedSemaphorePermit,
    app: App,
    router: Router,
) {
    let service = {
        let app = app.clone();
        service_fn(move |request| front_door(app.clone(), router.clone(), hyper::Request::map(request, Body::new)))
    };
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(app.limits.read_timeout);
    server.max_headers(MAX_HEADERS).max_buf_size(MAX_BUFFER_BYTES);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // A connection that breaks is its client's business.
        _ = &mut connection => {}
        () = app.drain.stopping() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    drop(permit);
}
