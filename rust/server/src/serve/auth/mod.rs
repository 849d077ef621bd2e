//! Who asks, and how much they may.

mod key_file;
mod quota;
mod sigv4;
mod usage;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::{HeaderMap, header};

pub use self::key_file::{Key, KeyFile, KeyLimits, Secret, hex, sha256};
use self::quota::Quota;
pub use self::quota::Standing;
use self::sigv4::Signature;
pub use self::sigv4::Signed;
use self::usage::Usage;
use super::error::{Kind, Result, ServeError};
use crate::print;

/// How often the file is looked at for changes.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// How often what was used is written, if it has changed.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// Who sent a request.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// None: the server has no keys.
    pub key: Option<Arc<Key>>,
}

impl Caller {
    /// Keys do not share cached prefixes: whether a prompt was quick would tell what others asked.
    pub fn cache_salt(&self, own: Option<String>) -> Option<String> {
        match &self.key {
            None => own,
            Some(key) => Some(format!("{}\0{}", key.name, own.unwrap_or_default())),
        }
    }
}

/// What a request's head says about who sent it.
#[derive(Debug)]
pub enum Identity {
    Known(Caller),
    /// True if the signature fits the whole request.
    Claimed(Claim),
}

#[derive(Debug)]
pub struct Claim {
    signature: Signature,
    key: Arc<Key>,
}

impl Claim {
    pub fn check(self, request: Signed<'_>) -> Result<Caller> {
        let secret = self.key.sigv4_secret.as_ref().expect("claims are of keys that sign");
        self.signature.check(secret.expose(), request, SystemTime::now())?;
        Ok(Caller { key: Some(self.key) })
    }
}

/// The keys, and what each has used.
#[derive(Debug)]
pub struct Auth {
    /// None: everybody may.
    file: Option<PathBuf>,
    state: Mutex<State>,
    saved: Mutex<Saved>,
}

/// What was last written, and what came of it.
#[derive(Debug)]
struct Saved {
    usage: Usage,
    outcome: Result<(), String>,
}

#[derive(Debug, Default)]
struct State {
    by_hash: HashMap<[u8; 32], Arc<Key>>,
    by_name: HashMap<String, Arc<Key>>,
    /// By name, so that a key that is replaced takes over what was used.
    quotas: HashMap<String, Quota>,
}

impl State {
    fn set_keys(&mut self, keys: KeyFile) {
        let keys: Vec<_> = keys.keys.into_iter().map(Arc::new).collect();
        self.by_hash = keys.iter().map(|key| (key.sha256, key.clone())).collect();
        self.by_name = keys.into_iter().map(|key| (key.name.clone(), key)).collect();
    }

    fn usage(&self) -> Usage {
        let used = self.quotas.iter().filter(|(_, quota)| quota.used() > 0);
        Usage { tokens: used.map(|(name, quota)| (name.clone(), quota.used())).collect() }
    }
}

impl Auth {
    /// Everybody may do everything.
    pub fn open() -> Self {
        Self::new(None, State::default(), Usage::default())
    }

    /// What the keys have used is kept beside their file.
    pub fn from_file(file: PathBuf) -> Result<Self, String> {
        let usage = Usage::read(&Usage::path(&file))?;
        let quotas = usage.tokens.iter().map(|(name, &used)| (name.clone(), Quota::with_used(used))).collect();
        let mut state = State { quotas, ..State::default() };
        state.set_keys(KeyFile::read(&file)?);
        Ok(Self::new(Some(file), state, usage))
    }

    fn new(file: Option<PathBuf>, state: State, usage: Usage) -> Self {
        Self { file, state: Mutex::new(state), saved: Mutex::new(Saved { usage, outcome: Ok(()) }) }
    }

    /// How many keys there are. None: none are needed.
    pub fn num_keys(&self) -> Option<usize> {
        self.file.as_ref().map(|_| self.lock().by_hash.len())
    }

    /// Whose key is in `headers`: as `Authorization: Bearer`, `x-api-key` or `api-key`, or that of a signature.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Identity> {
        if self.file.is_none() {
            return Ok(Identity::Known(Caller::default()));
        }
        if let Some(signature) = Signature::of(headers) {
            let signature = signature?;
            let key = self.lock().by_name.get(&signature.key_id).cloned();
            return match key.filter(|key| key.sigv4_secret.is_some()) {
                Some(key) => Ok(Identity::Claimed(Claim { signature, key })),
                None => Err(ServeError::new(
                    Kind::Unauthorized,
                    format!("no key that may sign requests is called '{}'", signature.key_id),
                )),
            };
        }
        let Some(secret) = presented(headers) else {
            return Err(ServeError::new(
                Kind::Unauthorized,
                "this server needs an API key: send it as 'Authorization: Bearer KEY'",
            ));
        };
        // Only hashes are compared, so times tell nothing about keys.
        let key = self.lock().by_hash.get(&sha256(secret)).cloned();
        match key {
            Some(key) => Ok(Identity::Known(Caller { key: Some(key) })),
            None => Err(ServeError::new(Kind::Unauthorized, "the API key is not one of this server's")),
        }
    }

    /// Takes one request and `tokens` from the caller's limits, or says when to come again.
    pub fn reserve(self: &Arc<Self>, caller: &Caller, tokens: u64) -> Result<Option<Reservation>> {
        let Some(key) = &caller.key else { return Ok(None) };
        let mut state = self.lock();
        let quota = state.quotas.entry(key.name.clone()).or_default();
        quota.reserve(&key.limits, tokens, Instant::now())?;
        Ok(Some(Reservation { auth: self.clone(), key: key.clone(), tokens }))
    }

    /// What is left of the caller's limits.
    pub fn standing(&self, caller: &Caller) -> Option<Standing> {
        let key = caller.key.as_ref()?;
        let mut state = self.lock();
        Some(state.quotas.entry(key.name.clone()).or_default().standing(&key.limits, Instant::now()))
    }

    /// Reads the file again whenever it changes. Never returns; a file that is broken changes nothing.
    pub async fn watch(self: Arc<Self>) {
        let Some(file) = &self.file else { return };
        let stamp = || std::fs::metadata(file).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
        let mut seen: Option<(SystemTime, u64)> = stamp();
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            let now = stamp();
            if now == seen {
                continue;
            }
            seen = now;
            match KeyFile::read(file) {
                Ok(keys) => {
                    print::note(&format!("{}: {} keys", file.display(), keys.keys.len()));
                    self.lock().set_keys(keys);
                }
                Err(why) => print::note(&format!("the keys stay as they were: {why}")),
            }
        }
    }

    /// Writes what the keys have used whenever it changes. Never returns.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SAVE_EVERY).await;
            let auth = self.clone();
            // The disk may take its time.
            let _ = tokio::task::spawn_blocking(move || auth.save()).await;
        }
    }

    /// Writes what the keys have used, unless it stands there. A file that cannot be written costs no request.
    pub fn save(&self) {
        let Some(file) = &self.file else { return };
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = self.lock().usage();
        if usage == saved.usage {
            return;
        }
        let outcome = usage.write(&Usage::path(file));
        if let Err(why) = &outcome
            && saved.outcome != outcome
        {
            print::note(&format!("token budgets will be forgotten when this server ends: {why}"));
        }
        *saved = Saved { usage, outcome };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change under the lock is complete at once.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = || {
        let (scheme, key) = text(header::AUTHORIZATION.as_str())?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    };
    bearer().or_else(|| text("x-api-key")).or_else(|| text("api-key"))
}

/// Tokens that a request may use; it is settled when it has ended.
#[derive(Debug)]
pub struct Reservation {
    auth: Arc<Auth>,
    key: Arc<Key>,
    tokens: u64,
}

impl Reservation {
    /// The request used `used` tokens. None: it was not taken after all.
    pub fn settle(self, used: Option<u64>) {
        let mut state = self.auth.lock();
        let quota = state.quotas.entry(self.key.name.clone()).or_default();
        quota.settle(&self.key.limits, self.tokens, used, Instant::now());
    }
}
