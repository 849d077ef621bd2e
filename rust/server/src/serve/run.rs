//! From settings to a server that runs, and to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrule_engine::EngineConfig;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use super::access_log::AccessLog;
use super::app::{App, Limits, Shared};
use super::auth::Auth;
use super::drain::{Drain, Phase};
use super::live::Recent;
use super::metrics::Metrics;
use super::models::{Catalog, KeepAlive, Registry, RegistryConfig};
use super::pace::Pace;
use super::tls::TlsFiles;
use super::trace::TraceFile;
use super::{front_door, listen};
use crate::failure::{Failure, Result};
use crate::print;

#[derive(Debug)]
pub struct ServeConfig {
    /// As typed; none: the whole store.
    pub models: Vec<String>,
    pub address: String,
    pub port: u16,
    pub engine: EngineConfig,
    pub memory_budget: Option<u64>,
    pub keep_alive: KeepAlive,
    /// How long running answers may go on after a signal to stop.
    pub drain_timeout: Duration,
    pub limits: Limits,
    /// A stream is written to at most once in this time.
    pub stream_interval: Duration,
    /// None: HTTP without TLS.
    pub tls: Option<TlsFiles>,
    pub log: AccessLog,
    /// Where spans are written. None: nowhere.
    pub trace_file: Option<PathBuf>,
    /// None: no keys.
    pub api_key_file: Option<PathBuf>,
    /// Without keys, listen on addresses that others reach.
    pub no_auth: bool,
}

/// Longest that a request waits for its model.
const PATIENCE: Duration = Duration::from_secs(300);

/// Pulls at once: each holds a thread of those that tokenize, for as long as its source takes.
const MAX_PULLS: usize = 8;

/// An engine that has not ended its step within this, when all must end, is left behind.
const LAST_STEP: Duration = Duration::from_secs(10);

/// Serves until a signal says stop.
pub fn serve(config: ServeConfig) -> Result {
    let catalog = Catalog::open(&config.models)?;
    // The kernels want the cores; HTTP needs little.
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 4).clamp(1, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|err| Failure::machine(format!("the server's threads: {err}")))?;
    let served = runtime.block_on(run(config, catalog));
    // What still runs was told to stop, and had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

async fn run(config: ServeConfig, catalog: Catalog) -> Result {
    let auth = match &config.api_key_file {
        Some(file) => Auth::from_file(file.clone()).map_err(Failure::usage)?,
        None => Auth::open(),
    };
    let tls = config.tls.as_ref().map(TlsFiles::acceptor).transpose()?;
    let listener = bind(&config).await?;
    let address = listener.local_addr()?;
    if config.api_key_file.is_none() && !config.no_auth && !address.ip().is_loopback() {
        let message = "without --api-key-file only this machine is served; --no-auth serves everybody";
        return Err(Failure::usage(format!("{address} can be reached by others: {message}")));
    }
    let metrics = Arc::new(Metrics::default());
    let registry_config = RegistryConfig {
        engine: config.engine.clone(),
        memory_budget: config.memory_budget,
        keep_alive: config.keep_alive,
        patience: PATIENCE,
    };
    let registry = Registry::new(catalog, registry_config, metrics.clone());
    let app = App::new(Shared {
        registry: registry.clone(),
        metrics,
        auth: Arc::new(auth),
        drain: Drain::new(),
        recent: Recent::default(),
        pulls: Arc::new(Semaphore::new(MAX_PULLS)),
        limits: config.limits.clone(),
        pace: Pace::new(config.stream_interval),
        log: config.log,
        trace_file: config.trace_file.as_deref().map(TraceFile::open).transpose()?,
    });
    let signals = Signals::install()?;
    let server = tokio::spawn(listen::listen(listener, tls, app.clone(), front_door::router(app.clone())));
    tokio::spawn(registry.clone().reap());
    tokio::spawn(app.auth.clone().watch());
    tokio::spawn(app.auth.clone().keep());
    announce(&config, &app, address)?;
    tokio::select! {
        Err(failure) = preload(&config, &app) => return Err(failure),
        () = signals.stop.notified() => {}
    }
    stop(&app, &signals, config.drain_timeout).await;
    tokio::select! {
        _ = server => {}
        () = signals.stop.notified() => {}
    }
    app.auth.save();
    if let Some(file) = &app.trace_file {
        file.flush();
    }
    Ok(())
}

async fn bind(config: &ServeConfig) -> Result<TcpListener> {
    let to = (config.address.as_str(), config.port);
    TcpListener::bind(to).await.map_err(|err| {
        Failure::machine(format!(
            "cannot listen on {}:{}: {err}; --port takes another one",
            config.address, config.port
        ))
    })
}

/// Where the server is and what it has, for people and for scripts that started it.
fn announce(config: &ServeConfig, app: &App, address: SocketAddr) -> Result {
    let models: Vec<_> = app.registry.catalog().list().into_iter().map(|model| model.name).collect();
    let models = match (models.is_empty(), config.models.is_empty()) {
        (true, _) => "none yet: ferrule pull smollm2".into(),
        (false, true) => format!("{} (from the store, loaded when asked for)", models.join(", ")),
        (false, false) => models.join(", "),
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    print::line(&format!("listening on {scheme}://{address}"))?;
    let keys = match app.auth.num_keys() {
        None => "off: whoever reaches this address may use it".into(),
        Some(count) => format!(
            "{count}, from {}",
            config.api_key_file.iter().map(|file| file.display().to_string()).collect::<String>()
        ),
    };
    print::fields(&[("models", models), ("keys", keys)])
}

/// Models that were named are there before the server says that it is ready.
async fn preload(config: &ServeConfig, app: &App) -> Result {
    let mut took = Duration::ZERO;
    let named = if config.models.is_empty() { Vec::new() } else { app.registry.catalog().list() };
    for model in &named {
        let lease = app.registry.acquire(Some(&model.name), None).await;
        took += lease.map_err(|err| Failure::machine(err.message))?.load_time;
    }
    app.drain.advance(Phase::Running);
    match named.is_empty() {
        true => print::line("ready"),
        false => print::line(&format!("ready; loading took {:.0} ms", took.as_secs_f64() * 1e3)),
    }
}

/// Running answers finish, or their time is over, or a second signal comes.
async fn stop(app: &App, signals: &Signals, drain_timeout: Duration) {
    app.drain.advance(Phase::Draining);
    let num_running = app.drain.num_in_flight();
    if num_running > 0 {
        print::note(&format!(
            "stopping: {num_running} requests are being answered and have {} s; a second signal ends them",
            drain_timeout.as_secs()
        ));
    }
    tokio::select! {
        () = app.drain.wait_idle() => {}
        () = tokio::time::sleep(drain_timeout) => {}
        () = signals.stop.notified() => {}
    }
    app.drain.advance(Phase::Stopping);
    let registry = app.registry.clone();
    // Requests that still run get an error that says why, when the step that is under way has ended.
    let ended = tokio::task::spawn_blocking(move || registry.shutdown());
    tokio::select! {
        _ = ended => {}
        () = tokio::time::sleep(LAST_STEP) => {}
        () = signals.stop.notified() => {}
    }
}

/// SIGINT and SIGTERM, counted.
struct Signals {
    stop: Arc<tokio::sync::Notify>,
}

impl Signals {
    fn install() -> Result<Self> {
        let stop = Arc::new(tokio::sync::Notify::new());
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let mut signals = signal(kind).map_err(|err| Failure::machine(format!("signals: {err}")))?;
            let stop = stop.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    stop.notify_one();
                }
            });
        }
        Ok(Self { stop })
    }
}
