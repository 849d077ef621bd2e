//! One look at the server: its models, their KV blocks, and the latest requests.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use ferrule_engine::kv::BlockState;
use ferrule_engine::snapshot::{RequestSnapshot, Snapshot};
use ferrule_engine::{EngineHandle, RequestId};
use serde_json::{Value, json};

use super::recent::Entry;
use crate::serve::admin::not_ready;
use crate::serve::app::App;
use crate::serve::auth::Caller;
use crate::serve::models::Resident;

/// A step may take longer; then a report tells everything but the blocks.
const PATIENCE: Duration = Duration::from_millis(400);

/// By the name of their model.
type Snapshots = HashMap<String, Snapshot>;

/// As `caller` may see it: whose requests have other keys are shown without their ids.
pub async fn report(app: &App, caller: &Caller) -> Value {
    let residents = app.registry.residents();
    let mut snapshots = Snapshots::new();
    for resident in &residents {
        if let Some(snapshot) = snapshot(&resident.model.engine).await {
            snapshots.insert(resident.model.served.name.clone(), snapshot);
        }
    }
    let now = Instant::now();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": not_ready(app).unwrap_or("ready"),
        "models": residents.iter().map(|resident| model(resident, &snapshots)).collect::<Vec<_>>(),
        "requests": app.recent.list().iter().map(|entry| request(entry, caller, &snapshots, now)).collect::<Vec<_>>(),
    })
}

async fn snapshot(engine: &EngineHandle) -> Option<Snapshot> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    engine.watch(move |snapshot| {
        // Who was not patient enough has gone.
        let _ = sender.send(snapshot);
    });
    tokio::time::timeout(PATIENCE, receiver).await.ok()?.ok()
}

fn model(resident: &Resident, snapshots: &Snapshots) -> Value {
    let model = &resident.model;
    let stats = model.engine.stats();
    let mut told = model.describe();
    told["block_size"] = json!(model.engine.config().block_size);
    told["num_preemptions"] = json!(stats.num_preemptions);
    told["prefix_cache_queries"] = json!(stats.prefix_cache_queries);
    told["prefix_cache_hits"] = json!(stats.prefix_cache_hits);
    told["blocks"] = json!(snapshots.get(&model.served.name).map(blocks));
    told
}

/// `12u3f`: twelve used blocks, then three free ones; `c`: cached, `s`: shared.
fn blocks(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for (count, state) in &snapshot.blocks {
        let letter = match state {
            BlockState::Free => 'f',
            BlockState::Cached => 'c',
            BlockState::Used => 'u',
            BlockState::Shared => 's',
        };
        write!(text, "{count}{letter}").expect("strings take everything");
    }
    text
}

/// Times count from the request's arrival, `age_ms` until now.
fn request(entry: &Entry, caller: &Caller, snapshots: &Snapshots, now: Instant) -> Value {
    let cost = entry.record.cost();
    let snapshot = cost.model.as_ref().and_then(|model| snapshots.get(model));
    let running: Vec<_> = snapshot.iter().flat_map(|snapshot| running(snapshot, &cost.engine_requests)).collect();
    let is_own = entry.caller.key.as_ref().map(|key| &key.name) == caller.key.as_ref().map(|key| &key.name);
    let queue_time = cost.queue_time.or_else(|| running.iter().find_map(|request| request.queue_time));
    let blocks = running.iter().flat_map(|request| &request.blocks).map(|ids| [ids.start, ids.end]);
    json!({
        "number": entry.number,
        "id": is_own.then_some(&entry.id),
        "model": cost.model,
        "age_ms": millis(now - entry.started),
        "queue_ms": queue_time.map(millis),
        "ttft_ms": cost.time_to_first_token.map(millis),
        "last_token_ms": cost.last_token.map(millis),
        "total_ms": cost.ended.filter(|_| cost.num_open == 0).map(millis),
        "prompt_tokens": cost.prompt_tokens,
        "cached_tokens": cost.cached_tokens + running.iter().map(|request| request.num_cached_tokens).sum::<usize>(),
        "computed_tokens": running.iter().map(|request| request.num_computed_tokens).sum::<usize>(),
        "generated_tokens": cost.generated_tokens,
        "end": cost.end.filter(|_| cost.num_open == 0),
        "blocks": blocks.collect::<Vec<_>>(),
    })
}

fn running<'a>(snapshot: &'a Snapshot, ids: &'a [RequestId]) -> impl Iterator<Item = &'a RequestSnapshot> {
    let found = |id: &RequestId| snapshot.requests.binary_search_by_key(id, |request| request.id).ok();
    ids.iter().filter_map(found).map(|index| &snapshot.requests[index])
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}
