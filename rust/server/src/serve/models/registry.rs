//! Who is in memory, who comes, and who goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferrule_engine::{EngineConfig, Error};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout, timeout_at};

use super::catalog::{Catalog, Served};
use super::keep_alive::KeepAlive;
use super::load::{self, Need};
use super::room::{Occupant, Room, make_room};
use super::slot::{Lease, Loaded, LoadedModel, Outcome, Slot};
use crate::serve::error::{Kind, Result, ServeError};
use crate::serve::metrics::Metrics;
use crate::units;

#[derive(Debug, Clone)]
pub struct RegistryConfig {
    pub engine: EngineConfig,
    /// Bytes that all models together may take. None: what the machine has.
    pub memory_budget: Option<u64>,
    /// Unless a request says otherwise.
    pub keep_alive: KeepAlive,
    /// Longest that a request waits for its model.
    pub patience: Duration,
}

/// How long a model that needs room lets those that work go on taking requests.
const TURN: Duration = Duration::from_secs(2);

/// A model in memory, for those who list them.
pub struct Resident {
    pub model: Arc<LoadedModel>,
    /// None: it stays, or somebody uses it.
    pub expires: Option<Instant>,
    pub keep_alive: KeepAlive,
    pub num_leases: usize,
}

#[derive(Clone)]
pub struct Registry(Arc<Shared>);

pub struct Shared {
    catalog: Catalog,
    config: RegistryConfig,
    metrics: Arc<Metrics>,
    slots: Mutex<HashMap<String, Slot>>,
    /// Something about the slots changed.
    changes: watch::Sender<()>,
}

/// What a look at the slots gave.
enum Attempt {
    Ready(Lease),
    Loading(watch::Receiver<Outcome>),
    /// It is on its way out: wait for that, then look again.
    Leaving,
}

impl Registry {
    pub fn new(catalog: Catalog, config: RegistryConfig, metrics: Arc<Metrics>) -> Self {
        let (slots, changes) = (Mutex::default(), watch::Sender::new(()));
        Self(Arc::new(Shared { catalog, config, metrics, slots, changes }))
    }

    pub fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    pub fn config(&self) -> &RegistryConfig {
        &self.0.config
    }

    /// The model called `name`, loaded first if need be. `keep_alive` holds from now on, until another one is given.
    pub async fn acquire(&self, name: Option<&str>, keep_alive: Option<KeepAlive>) -> Result<Lease> {
        let served = self.0.catalog.find(name)?;
        let deadline = tokio::time::Instant::now() + self.0.config.patience;
        let late = || {
            let secs = self.0.config.patience.as_secs();
            let message = format!("the model '{}' could not be loaded within {secs} s", served.name);
            ServeError::new(Kind::Unavailable, message).retry_after(Duration::from_secs(10))
        };
        loop {
            let mut changes = self.0.changes.subscribe();
            match self.attempt(&served, keep_alive)? {
                Attempt::Ready(lease) => return Ok(lease),
                Attempt::Leaving => drop(timeout_at(deadline, changes.changed()).await.map_err(|_| late())?),
                Attempt::Loading(mut outcome) => {
                    let loaded = timeout_at(deadline, outcome.wait_for(Option::is_some)).await.map_err(|_| late())?;
                    // A sender that is gone left the slot to whoever looks next.
                    if let Some(Err(error)) = loaded.as_deref().ok().and_then(Option::as_ref) {
                        return Err(error.clone());
                    }
                }
            }
        }
    }

    fn attempt(&self, served: &Served, keep_alive: Option<KeepAlive>) -> Result<Attempt> {
        let mut slots = self.0.lock();
        if slots.get(&served.name).is_some_and(Slot::is_broken) {
            slots.remove(&served.name);
        }
        match slots.get_mut(&served.name) {
            Some(Slot::Loaded(loaded)) if loaded.gives_way => Ok(Attempt::Leaving),
            Some(Slot::Loaded(loaded)) => {
                loaded.lease();
                loaded.keep_alive = keep_alive.unwrap_or(loaded.keep_alive);
                Ok(Attempt::Ready(Lease::new(loaded.model.clone(), Arc::downgrade(&self.0))))
            }
            Some(Slot::Unloading { .. }) => Ok(Attempt::Leaving),
            Some(Slot::Loading { outcome, .. }) => {
                let (queued, limit) = (outcome.receiver_count(), self.0.config.engine.max_queue_len);
                match queued < limit {
                    true => Ok(Attempt::Loading(outcome.subscribe())),
                    false => Err(Error::Overloaded { queued, limit }.into()),
                }
            }
            None => {
                let (outcome, receiver) = watch::channel(None);
                slots.insert(served.name.clone(), Slot::Loading { reserved: 0, outcome });
                let keep_alive = keep_alive.unwrap_or(self.0.config.keep_alive);
                tokio::spawn(load_into_slot(self.clone(), served.clone(), keep_alive));
                Ok(Attempt::Loading(receiver))
            }
        }
    }

    /// The models in memory, by name.
    pub fn residents(&self) -> Vec<Resident> {
        let slots = self.0.lock();
        let resident = |slot: &Slot| match slot {
            Slot::Loaded(loaded) => Some(Resident {
                model: loaded.model.clone(),
                expires: loaded.expires(),
                keep_alive: loaded.keep_alive,
                num_leases: loaded.leases,
            }),
            _ => None,
        };
        let mut residents: Vec<_> = slots.values().filter(|slot| !slot.is_broken()).filter_map(resident).collect();
        residents.sort_by(|a, b| a.model.served.name.cmp(&b.model.served.name));
        residents
    }

    /// Whether a model is on its way into memory.
    pub fn is_loading(&self) -> bool {
        self.0.lock().values().any(|slot| matches!(slot, Slot::Loading { .. }))
    }

    /// Unloads the model as soon as nobody uses it. False: it is not in memory.
    pub fn expire(&self, served: &Served) -> bool {
        let mut slots = self.0.lock();
        let Some(Slot::Loaded(loaded)) = slots.get_mut(&served.name) else { return false };
        loaded.keep_alive = KeepAlive::For(Duration::ZERO);
        drop(slots);
        self.0.changed();
        true
    }

    /// Unloads what nobody has used for as long as it was to be kept. Never returns.
    pub async fn reap(self) {
        let mut changes = self.0.changes.subscribe();
        loop {
            let (expired, next) = self.0.expired(Instant::now());
            for id in expired {
                self.unload(&id).await;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = async { sleep_until(next.unwrap_or_else(Instant::now).into()).await }, if next.is_some() => {}
            }
        }
    }

    /// Ends every engine; what runs gets an error. Blocks until their threads are gone.
    pub fn shutdown(&self) {
        let models: Vec<_> = self.residents().into_iter().map(|resident| resident.model).collect();
        models.iter().for_each(|model| model.engine.shutdown());
    }

    /// Takes an idle model out of memory.
    async fn unload(&self, id: &str) {
        if let Some(model) = self.0.begin_unload(id) {
            // Ending the engine's thread and giving memory back takes a while.
            let gone = tokio::task::spawn_blocking(move || model.engine.shutdown()).await;
            gone.expect("shutting an engine down does not panic");
            self.0.lock().remove(id);
            self.0.changed();
        }
    }

    /// Unloads who must go until `need` fits, waiting for models that work. What is reserved counts from here on.
    async fn reserve(&self, served: &Served, need: Need, budget: u64) -> Result<()> {
        let reserved = self.wait_for_room(served, need, budget).await;
        self.0.let_all_stay();
        reserved
    }

    async fn wait_for_room(&self, served: &Served, need: Need, budget: u64) -> Result<()> {
        let began = Instant::now();
        loop {
            let mut changes = self.0.changes.subscribe();
            match self.0.try_reserve(&served.name, need.total(), budget) {
                Room::After(leaving) if leaving.is_empty() => return Ok(()),
                Room::After(leaving) => {
                    for id in leaving {
                        self.unload(&id).await;
                    }
                }
                Room::Never => return Err(too_large(served, need, budget)),
                Room::Later if began.elapsed() >= self.0.config.patience => {
                    return Err(no_room(served, need, budget));
                }
                Room::Later => {
                    if began.elapsed() >= TURN {
                        self.0.ask_for_room(&served.name, need.total(), budget);
                    }
                    // Without a change too: a model's wait for its first use may be over.
                    let _ = timeout(TURN, changes.changed()).await;
                }
            }
        }
    }

    async fn load(&self, served: &Served) -> Result<LoadedModel> {
        let need = match self.0.config.memory_budget {
            None => None,
            Some(budget) => {
                let need = self.blocking(served, load::need).await?;
                self.reserve(served, need, budget).await?;
                Some(need)
            }
        };
        loop {
            let metrics = self.0.metrics.model(&served.name);
            let loaded = self.blocking(served, move |served, config| load::load(served, config, need, metrics)).await;
            match loaded {
                Err(Error::OutOfMemory(why)) => match self.0.least_recently_used() {
                    Some(id) => self.unload(&id).await,
                    None => return Err(Error::OutOfMemory(why).into()),
                },
                loaded => return loaded.map_err(|error| unloadable(served, error)),
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        served: &Served,
        work: impl FnOnce(&Served, &EngineConfig) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (served, config) = (served.clone(), self.0.config.engine.clone());
        let done = tokio::task::spawn_blocking(move || work(&served, &config)).await;
        done.unwrap_or_else(|err| Err(Error::Internal(format!("loading the model panicked: {err}"))))
    }
}

/// Loads, and tells those who wait.
async fn load_into_slot(registry: Registry, served: Served, keep_alive: KeepAlive) {
    let result = registry.load(&served).await;
    let mut slots = registry.0.lock();
    let Some(Slot::Loading { outcome, .. }) = slots.remove(&served.name) else {
        unreachable!("only the loading task ends a loading slot")
    };
    let result = result.map(|model| {
        slots.insert(served.name.clone(), Slot::Loaded(Loaded::new(model, keep_alive)));
    });
    drop(slots);
    outcome.send_replace(Some(result));
    registry.0.changed();
}

fn too_large(served: &Served, need: Need, budget: u64) -> ServeError {
    let message = format!(
        "the model '{}' takes {} ({} of weights, {} of KV cache), more than the server's memory budget of {}",
        served.name,
        units::bytes(need.total()),
        units::bytes(need.weight_bytes),
        units::bytes(need.kv_bytes),
        units::bytes(budget)
    );
    ServeError::new(Kind::Unavailable, message)
}

fn no_room(served: &Served, need: Need, budget: u64) -> ServeError {
    let message = format!(
        "the model '{}' takes {}, and models that are answering leave less than that of the budget of {}",
        served.name,
        units::bytes(need.total()),
        units::bytes(budget)
    );
    ServeError::new(Kind::Unavailable, message).retry_after(Duration::from_secs(10))
}

/// Files that cannot be loaded are the server's business, whatever the engine calls them.
fn unloadable(served: &Served, error: Error) -> ServeError {
    let message = format!("the model '{}' cannot be loaded: {error}", served.name);
    ServeError { message, kind: Kind::Internal, ..ServeError::from(error) }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        // Every change under the lock is complete at once.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_replace(());
    }

    pub fn release(&self, model: &Arc<LoadedModel>) {
        if let Some(Slot::Loaded(loaded)) = self.lock().get_mut(&model.served.name)
            && Arc::ptr_eq(&loaded.model, model)
        {
            loaded.leases -= 1;
            loaded.last_used = Instant::now();
        }
        self.changed();
    }

    /// Idle models whose time is over, and when the next one's will be.
    fn expired(&self, now: Instant) -> (Vec<String>, Option<Instant>) {
        let slots = self.lock();
        let expiry = |(id, slot): (&String, &Slot)| match slot {
            Slot::Loaded(loaded) => Some((loaded.expires()?, id.clone())),
            _ => None,
        };
        let (expired, later): (Vec<_>, Vec<_>) = slots.iter().filter_map(expiry).partition(|(at, _)| *at <= now);
        (expired.into_iter().map(|(_, id)| id).collect(), later.into_iter().map(|(at, _)| at).min())
    }

    /// Marks an idle model as leaving. None: it is not there, or in use again.
    fn begin_unload(&self, id: &str) -> Option<Arc<LoadedModel>> {
        let mut slots = self.lock();
        match slots.get(id) {
            Some(Slot::Loaded(loaded)) if loaded.leases == 0 => {
                let model = loaded.model.clone();
                slots.insert(id.into(), Slot::Unloading { bytes: model.bytes });
                Some(model)
            }
            _ => None,
        }
    }

    fn try_reserve(&self, id: &str, need: u64, budget: u64) -> Room {
        let mut slots = self.lock();
        let others = slots.iter().filter(|(other, _)| *other != id);
        let occupants: Vec<_> = others.map(|(id, slot)| occupant(id, slot)).collect();
        let room = make_room(need, budget, &occupants);
        if let (Room::After(leaving), Some(Slot::Loading { reserved, .. })) = (&room, slots.get_mut(id))
            && leaving.is_empty()
        {
            *reserved = need;
        }
        room
    }

    /// Models that work take no new requests, least recently used first, so that `need` fits when they have finished.
    fn ask_for_room(&self, id: &str, need: u64, budget: u64) {
        let mut slots = self.lock();
        let others = slots.iter().filter(|(other, _)| *other != id);
        let used = |slot: &Slot| match slot {
            Slot::Loaded(loaded) => loaded.used_before(Instant::now()),
            _ => None,
        };
        let occupants: Vec<_> =
            others.map(|(id, slot)| Occupant { idle_since: used(slot), ..occupant(id, slot) }).collect();
        let Room::After(leaving) = make_room(need, budget, &occupants) else { return };
        for id in leaving {
            if let Some(Slot::Loaded(loaded)) = slots.get_mut(&id) {
                loaded.gives_way = true;
            }
        }
    }

    /// Who still needs room asks again.
    fn let_all_stay(&self) {
        for slot in self.lock().values_mut() {
            if let Slot::Loaded(loaded) = slot {
                loaded.gives_way = false;
            }
        }
        self.changed();
    }

    fn least_recently_used(&self) -> Option<String> {
        let slots = self.lock();
        let idle = slots.iter().map(|(id, slot)| occupant(id, slot)).filter_map(|o| Some((o.idle_since?, o.id)));
        idle.min().map(|(_, id)| id)
    }
}

fn occupant(id: &str, slot: &Slot) -> Occupant {
    let idle_since = match slot {
        Slot::Loaded(loaded) => loaded.idle_since(Instant::now()),
        _ => None,
    };
    Occupant { id: id.into(), bytes: slot.bytes(), idle_since }
}
