//! `ferrule serve`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ferrule_engine::EngineConfig;

use crate::engine_args::EngineArgs;
use crate::failure::Result;
use crate::serve::{AccessLog, KeepAlive, Limits, ServeConfig, TlsFiles, serve};
use crate::units::parse_bytes;

/// Speaks the APIs of OpenAI, Anthropic, Ollama and Amazon Bedrock. The first Ctrl-C or SIGTERM lets running answers finish, the second ends them.
#[derive(Debug, Args)]
pub struct Serve {
    /// Models to load: names, paths, or NAME=PATH [default: any model of the store, loaded when asked for]
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Sequences that run at once, per model
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().max_num_seqs)]
    max_num_seqs: usize,
    /// Tokens computed per step, prompts and answers together
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().max_num_batched_tokens)]
    max_num_batched_tokens: usize,
    /// Requests that may wait, per model; more are answered with 429 at once
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().max_queue_len)]
    max_queue_len: usize,
    /// Memory that all models together may take; the least recently used one makes room [default: the machine's]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_budget: Option<u64>,
    /// How long an unused model stays in memory, such as 5m; -1: for ever [default: -1 with MODEL, otherwise 5m]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    keep_alive: Option<KeepAlive>,
    /// Seconds that running answers have to finish after a signal to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_timeout: u64,
    /// Largest body of a request
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "8MiB")]
    max_body_size: u64,
    /// Seconds that a request has to arrive
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    read_timeout: u64,
    /// Seconds that a client may take nothing of what is sent to it; then it is disconnected
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    write_timeout: u64,
    /// Connections at once; more wait
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_connections: u32,
    /// Milliseconds that tokens of a stream may wait to be sent together; its first ones are sent at once
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=10_000))]
    stream_interval: u64,
    /// Access log on stderr: human, json or off
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    log: AccessLog,
    /// File that gets OpenTelemetry's spans of requests to models, as JSON lines of its protocol
    #[arg(long, value_name = "FILE")]
    trace_file: Option<PathBuf>,
    /// File with the hashes of API keys (see ferrule key); it is read again when it changes
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// File with the certificate chain (PEM): serve HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// File with the certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve other machines without keys
    #[arg(long, conflicts_with = "api_key_file")]
    no_auth: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

impl Serve {
    pub fn execute(self) -> Result {
        let engine = EngineConfig {
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_queue_len: self.max_queue_len,
            ..self.engine.config()
        };
        engine.validate()?;
        let default_keep_alive = match self.models.is_empty() {
            true => KeepAlive::For(Duration::from_secs(300)),
            false => KeepAlive::Forever,
        };
        serve(ServeConfig {
            models: self.models,
            address: self.host,
            port: self.port,
            engine,
            memory_budget: self.memory_budget,
            keep_alive: self.keep_alive.unwrap_or(default_keep_alive),
            drain_timeout: Duration::from_secs(self.drain_timeout),
            limits: Limits {
                max_body_bytes: self.max_body_size as usize,
                read_timeout: Duration::from_secs(self.read_timeout),
                write_timeout: Duration::from_secs(self.write_timeout),
                max_connections: self.max_connections as usize,
            },
            stream_interval: Duration::from_millis(self.stream_interval),
            tls: self.tls_cert.zip(self.tls_key).map(|(cert, key)| TlsFiles { cert, key }),
            log: self.log,
            trace_file: self.trace_file,
            api_key_file: self.api_key_file,
            no_auth: self.no_auth,
        })
    }
}
