//! Which models a server offers, under which names.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferrule_store::{Name, Store};

use crate::failure::{Failure, Result};
use crate::progress::Downloads;
use crate::serve::error::ServeError;

/// What an engine is started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The model without weights; a step takes this long.
    Null(Duration),
    Files(PathBuf),
}

/// A model that may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The name that is shown.
    pub name: String,
    /// The name under which the store has it, if it comes from there.
    pub stored: Option<String>,
    pub source: Source,
    /// Seconds since 1970.
    pub created: u64,
}

#[derive(Debug)]
pub enum Catalog {
    /// These and no others.
    Listed { models: Vec<Served>, store: Store },
    /// Whatever the store has when it is asked.
    Store(Store),
}

impl Catalog {
    /// `models` as typed: a name, a path, or `NAME=PATH`. What is not here is fetched. None: the whole store.
    pub fn open(models: &[String]) -> Result<Self> {
        let store = Store::open_default()?;
        if models.is_empty() {
            return Ok(Self::Store(store));
        }
        let models: Vec<Served> = models.iter().map(|model| listed(model, &store)).collect::<Result<_>>()?;
        for (i, model) in models.iter().enumerate() {
            if models[..i].iter().any(|other| other.name == model.name) {
                return Err(Failure::usage(format!("two models are called '{}': write NAME=PATH", model.name)));
            }
        }
        Ok(Self::Listed { models, store })
    }

    pub fn store(&self) -> &Store {
        match self {
            Self::Listed { store, .. } | Self::Store(store) => store,
        }
    }

    /// The store, if all of it is offered.
    pub fn whole_store(&self) -> Option<&Store> {
        match self {
            Self::Listed { .. } => None,
            Self::Store(store) => Some(store),
        }
    }

    pub fn list(&self) -> Vec<Served> {
        match self {
            Self::Listed { models, .. } => models.clone(),
            // A store that cannot be read offers nothing; asking for a model by name says why.
            Self::Store(store) => store.list().unwrap_or_default().iter().map(of_store).collect(),
        }
    }

    /// The model that a request names. Without a name, the only one that there is. Never a path of the caller's.
    pub fn find(&self, name: Option<&str>) -> Result<Served, ServeError> {
        let Some(name) = name else { return self.only() };
        let canonical = || self.store().parse(name).ok().and_then(|name: Name| name.canonical());
        match self {
            Self::Listed { models, .. } => {
                let by_name = models.iter().find(|model| model.name == name);
                let by_stored = || {
                    let canonical = canonical()?;
                    models.iter().find(|model| model.stored.as_ref() == Some(&canonical))
                };
                by_name.or_else(by_stored).cloned().ok_or_else(|| unknown(name, &self.names()))
            }
            Self::Store(store) => match canonical().map(|canonical| store.show(&canonical)) {
                Some(Ok(model)) => Ok(of_store(&model)),
                Some(Err(err)) => Err(ServeError::model_not_found(name, &format!("is not here: {err}"))),
                None => Err(unknown(name, &self.names())),
            },
        }
    }

    fn only(&self) -> Result<Served, ServeError> {
        let mut models = self.list();
        match models.len() {
            1 => Ok(models.remove(0)),
            n => Err(ServeError::invalid("model", format!("the request names no model, and this server has {n}"))),
        }
    }

    fn names(&self) -> Vec<String> {
        self.list().into_iter().map(|model| model.name).collect()
    }
}

fn unknown(name: &str, served: &[String]) -> ServeError {
    ServeError::model_not_found(name, &format!("is not served here; there is {}", served.join(", ")))
}

fn listed(model: &str, store: &Store) -> Result<Served> {
    let (alias, model) = match model.split_once('=') {
        // A package's version has two of them.
        Some((alias, path)) if !path.starts_with('=') => (Some(alias), path),
        _ => (None, model),
    };
    let named = |name: String| alias.map_or(name, str::to_owned);
    if let Some(step_time) = null_step(model)? {
        return Ok(Served {
            name: named("null".into()),
            stored: None,
            source: Source::Null(step_time),
            created: now(),
        });
    }
    let files = store.locate(model, &mut Downloads::default())?;
    let stored = store.parse(model)?.canonical();
    let name = match &stored {
        Some(_) => model.to_owned(),
        None => files.file_stem().map_or(model.to_owned(), |stem| stem.to_string_lossy().into_owned()),
    };
    Ok(Served { name: named(name), stored, source: Source::Files(files), created: now() })
}

/// `null` takes no time; `null:20` takes 20 ms per step, so that tests and demonstrations see requests wait.
fn null_step(model: &str) -> Result<Option<Duration>> {
    match model.strip_prefix("null") {
        Some("") => Ok(Some(Duration::ZERO)),
        Some(rest) => match rest.strip_prefix(':').map(str::parse) {
            None => Ok(None),
            Some(Ok(millis)) => Ok(Some(Duration::from_millis(millis))),
            Some(Err(_)) => Err(Failure::usage(format!("'{model}': write null:N, N milliseconds per step"))),
        },
        None => Ok(None),
    }
}

fn of_store(model: &ferrule_store::Model) -> Served {
    Served {
        name: model.name.clone(),
        stored: Some(model.name.clone()),
        source: Source::Files(model.path()),
        created: model.pulled_at,
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
