//! Bodies: JSON in, streams of frames out.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use ferrule_engine::Event;
use ferrule_engine::metrics::RequestMetrics;
use http_body::Frame;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::app::App;
use super::ask::Answer;
use super::error::{Kind, Result, ServeError};

/// The request's body, whatever its content type says: clients of all dialects are careless with that.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ServeError;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (head, body) = request.into_parts();
        parse(&read(&head.headers, body, app).await?).map(Self)
    }
}

/// The whole body, within the server's limits.
pub async fn read(headers: &HeaderMap, body: Body, app: &App) -> Result<Bytes> {
    let limit = app.limits.max_body_bytes;
    let too_large = || ServeError::new(Kind::BodyTooLarge, format!("the request's body is larger than {limit} bytes"));
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| len > limit as u64) {
        return Err(too_large());
    }
    let body = Limited::new(body, limit).collect();
    match tokio::time::timeout(app.limits.read_timeout, body).await {
        Err(_) => {
            let secs = app.limits.read_timeout.as_secs();
            Err(ServeError::new(Kind::Timeout, format!("the request's body did not arrive within {secs} s")))
        }
        Ok(Err(err)) if err.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(err)) => Err(ServeError::new(Kind::InvalidRequest, format!("the request's body is broken: {err}"))),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

/// JSON with an error that names the field. Unknown fields are ignored.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|err| {
        let path = err.path().to_string();
        match err.inner().is_data() {
            true if path != "." => ServeError::invalid(&path, format!("{path}: {}", err.inner())),
            true => ServeError::new(Kind::InvalidRequest, err.inner().to_string()),
            false => not_json(err.inner()),
        }
    })?;
    json.end().map_err(|err| not_json(&err)).map(|()| value)
}

fn not_json(err: &serde_json::Error) -> ServeError {
    ServeError::new(Kind::InvalidRequest, format!("the request's body is not valid JSON: {err}"))
}

/// A whole JSON response with status 200.
pub fn json(value: &impl Serialize) -> Response<Body> {
    json_with(StatusCode::OK, value)
}

pub fn json_with(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("what is answered has no maps with keys other than strings");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("what is written has no maps with keys other than strings");
}

/// Content type of a stream of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// How a dialect writes a stream. Frames are appended to `out`.
pub trait Framer: Send + Unpin + 'static {
    /// What comes first, before anything is computed.
    fn open(&mut self, out: &mut Vec<u8>);

    /// Anything but an answer's last event. `answer`: which one, if there are several.
    fn event(&mut self, answer: usize, event: Event, out: &mut Vec<u8>);

    /// An answer is complete.
    fn done(&mut self, answer: usize, metrics: &RequestMetrics, out: &mut Vec<u8>);

    /// All answers are complete: what comes last.
    fn close(&mut self, out: &mut Vec<u8>);

    /// The stream ends here, and this is why.
    fn error(&mut self, error: &ServeError, out: &mut Vec<u8>);
}

/// A response that streams what `answers` say, written by `framer`.
pub fn stream(answers: Vec<Answer>, mut framer: impl Framer, content_type: &'static str) -> Response<Body> {
    let mut opening = Vec::new();
    framer.open(&mut opening);
    let answers = answers.into_iter().map(Some).collect();
    let mut response = Response::new(Body::new(AnswerBody { answers, framer, opening, batch: Vec::new() }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that would collect the stream are told not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Each poll writes everything that waits, in one piece: the further a connection lags, the fewer the writes.
struct AnswerBody<F> {
    /// None: complete.
    answers: Vec<Option<Answer>>,
    framer: F,
    opening: Vec<u8>,
    batch: Vec<Event>,
}

impl<F: Framer> AnswerBody<F> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        if self.answers.is_empty() {
            return Poll::Ready(None);
        }
        let mut out = std::mem::take(&mut self.opening);
        for index in 0..self.answers.len() {
            self.take_events(index, cx, &mut out);
        }
        if !self.answers.is_empty() && self.answers.iter().all(Option::is_none) {
            self.framer.close(&mut out);
            self.answers.clear();
        }
        match out.is_empty() && !self.answers.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(Some(out)),
        }
    }

    fn take_events(&mut self, index: usize, cx: &mut Context<'_>, out: &mut Vec<u8>) {
        // An answer whose events made no frame (yet) must be polled until it registers its waker.
        while let Some(Some(answer)) = self.answers.get_mut(index) {
            if answer.poll_batch(cx, &mut self.batch).is_pending() {
                return;
            }
            for event in std::mem::take(&mut self.batch) {
                match event {
                    Event::Done(metrics) => {
                        self.framer.done(index, &metrics, out);
                        self.answers[index] = None;
                    }
                    Event::Error(error) => {
                        let error = self.answers[index].as_ref().expect("it is still there").explain(error);
                        self.framer.error(&error, out);
                        // The other answers are of no use alone.
                        return self.answers.clear();
                    }
                    event => self.framer.event(index, event, out),
                }
            }
            if !out.is_empty() {
                return;
            }
        }
    }
}

impl<F: Framer> http_body::Body for AnswerBody<F> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.poll_bytes(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes.into()))))
    }
}
