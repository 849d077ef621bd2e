//! `/api/pull`, `/api/copy` and `/api/delete`: changing the store that the server offers.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use ferrule_store::{Fault, Progress, Store};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::reply::write_line;
use super::{LATEST, ND_JSON, Named, blocking, error_json, find, required};
use crate::serve::app::App;
use crate::serve::body::{self, Json};
use crate::serve::drain::Phase;
use crate::serve::error::{Kind, Result, ServeError};

/// Between two lines about the same file.
const REPORT_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize)]
pub struct Pull {
    #[serde(flatten)]
    named: Named,
    stream: Option<bool>,
}

/// What a pull says; an error is its last word.
type Line = Result<Value>;

pub async fn pull(State(app): State<App>, Json(request): Json<Pull>) -> Result<Response<Body>> {
    let store = own_store(&app)?;
    let name = required(request.named.name())?.to_owned();
    if store.parse(&name).map_err(|error| explain(&name, error))?.canonical().is_none() {
        return Err(ServeError::invalid("model", format!("'{name}' is a path, and models are pulled by name")));
    }
    let mut lines = begin_pull(&app, store, name)?;
    if request.stream.unwrap_or(true) {
        let mut response = Response::new(Body::from_stream(stream::poll_fn(move |cx| {
            lines.poll_recv(cx).map(|line| line.map(|line| Ok::<_, std::convert::Infallible>(framed(line))))
        })));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(ND_JSON));
        return Ok(response);
    }
    let mut last = Value::Null;
    while let Some(line) = lines.recv().await {
        last = line?;
    }
    Ok(body::json(&last))
}

fn framed(line: Line) -> Bytes {
    let mut out = Vec::new();
    write_line(&mut out, &line.unwrap_or_else(|error| error_json(&error.message)));
    out.into()
}

/// Pulls on a thread of its own, until it is done or nobody listens.
fn begin_pull(app: &App, store: Store, name: String) -> Result<UnboundedReceiver<Line>> {
    let in_flight = app.drain.enter()?;
    let busy = |_| {
        let message = "this server pulls as many models as it can at once; try again later";
        ServeError::new(Kind::Overloaded, message).retry_after(Duration::from_secs(10))
    };
    let permit = app.pulls.clone().try_acquire_owned().map_err(busy)?;
    let (sender, receiver) = unbounded_channel();
    let app = app.clone();
    tokio::task::spawn_blocking(move || {
        let _held = (in_flight, permit);
        let mut reports = Reports { app, sender, file: String::new(), total: None, last: None };
        reports.say(json!({"status": "pulling manifest"}));
        match store.pull(&name, &mut reports) {
            Ok(_) => reports.say(json!({"status": "success"})),
            Err(error) => reports.end(explain(&name, error)),
        }
    });
    Ok(receiver)
}

/// Tells of a pull's progress in Ollama's words.
struct Reports {
    app: App,
    /// Lines are few and short, so what waits for a slow client is little.
    sender: UnboundedSender<Line>,
    /// The file that is under way.
    file: String,
    total: Option<u64>,
    last: Option<Instant>,
}

impl Reports {
    /// Whoever has left is not told; the store asks `is_cancelled`.
    fn say(&self, line: Value) {
        let _ = self.sender.send(Ok(line));
    }

    fn end(&self, error: ServeError) {
        let _ = self.sender.send(Err(error));
    }
}

impl Progress for Reports {
    fn message(&mut self, text: &str) {
        self.say(json!({ "status": text }));
    }

    fn begin(&mut self, what: &str, total: Option<u64>) {
        (self.file, self.total, self.last) = (what.into(), total, None);
        self.position(0);
    }

    /// Clients tell files apart by `digest`.
    fn position(&mut self, bytes: u64) {
        let is_last = self.total == Some(bytes);
        if self.last.is_some_and(|last| last.elapsed() < REPORT_EVERY) && !is_last {
            return;
        }
        self.last = Some(Instant::now());
        let file = &self.file;
        let mut line = json!({"status": format!("pulling {file}"), "digest": file, "completed": bytes});
        if let Some(total) = self.total {
            line["total"] = total.into();
        }
        self.say(line);
    }

    fn end(&mut self) {}

    fn is_cancelled(&mut self) -> bool {
        self.sender.is_closed() || self.app.drain.phase() == Phase::Stopping
    }
}

#[derive(Debug, Deserialize)]
pub struct Copy {
    source: String,
    destination: String,
}

/// A second name for the same files. An earlier copy of that name is replaced; in memory it stays until nobody uses it.
pub async fn copy(State(app): State<App>, Json(request): Json<Copy>) -> Result<()> {
    let store = own_store(&app)?;
    let served = find(&app, Some(&request.source))?;
    let name = request.destination.strip_suffix(LATEST).unwrap_or(&request.destination).to_owned();
    if let Ok(replaced) = app.registry.catalog().find(Some(&name)) {
        app.registry.expire(&replaced);
    }
    let copied = blocking(move || store.copy(&served.name, &name)).await?;
    copied.map(drop).map_err(|error| explain(&request.destination, error))
}

/// Deletes the model's files; in memory it stays until nobody uses it.
pub async fn delete(State(app): State<App>, Json(request): Json<Named>) -> Result<()> {
    let store = own_store(&app)?;
    let served = find(&app, request.name())?;
    app.registry.expire(&served);
    let name = served.name.clone();
    blocking(move || store.remove(&name)).await?.map(drop).map_err(|error| explain(&served.name, error))
}

/// The store, unless the server was started for certain models.
fn own_store(app: &App) -> Result<Store> {
    let listed =
        "this server was started for certain models, and changes none: started without any, it serves its whole store";
    app.registry.catalog().whole_store().cloned().ok_or_else(|| ServeError::new(Kind::InvalidRequest, listed))
}

fn explain(name: &str, error: ferrule_store::Error) -> ServeError {
    use ferrule_store::Error as E;
    match &error {
        E::NotPulled { .. } => ServeError::model_not_found(name, "is not in the store"),
        E::Busy { .. } => ServeError::new(Kind::Unavailable, error.to_string()).retry_after(Duration::from_secs(10)),
        _ if error.fault() == Fault::Caller => ServeError::invalid("model", error.to_string()),
        _ => ServeError::new(Kind::Internal, error.to_string()),
    }
}
