//! Keyword arguments of Engine: the fields of the engine's configuration.

use ferrule_engine::EngineConfig;
use ferrule_server::units::parse_bytes;
use ferrule_store::Store;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{Raise, invalid_request};
use crate::field::{self, Field};

/// The list of fields, once: it makes the setter by name and the listing.
macro_rules! engine_config {
    ($($name:ident),* $(,)?) => {
        const FIELDS: &[&str] = &["kv_cache_memory", "swap_space", "packed_weights_limit", $(stringify!($name)),*];

        fn set(config: &mut EngineConfig, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
            match name {
                "kv_cache_memory" => config.kv_cache_memory = bytes(name, value)?,
                "swap_space" => config.swap_space = bytes(name, value)?.unwrap_or(0),
                "packed_weights_limit" => {
                    let least = || invalid_request("packed_weights_limit is None: it must be a size");
                    config.packed_weights_limit = bytes(name, value)?.ok_or_else(least)?;
                }
                $(stringify!($name) => config.$name = field::read(name, value)?,)*
                _ => return Err(field::unknown("Engine", name, FIELDS)),
            }
            Ok(())
        }

        /// Every field, as a dictionary.
        pub fn to_dict<'py>(config: &EngineConfig, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
            let dict = PyDict::new(py);
            $(dict.set_item(stringify!($name), config.$name.to_python(py)?)?;)*
            dict.set_item("kv_cache_memory", config.kv_cache_memory)?;
            dict.set_item("swap_space", config.swap_space)?;
            dict.set_item("packed_weights_limit", config.packed_weights_limit)?;
            Ok(dict)
        }
    };
}

engine_config!(
    max_num_seqs,
    max_num_batched_tokens,
    max_model_len,
    block_size,
    kv_cache_dtype,
    activations,
    quantization,
    threads,
    device,
    cublaslt,
    policy,
    enable_prefix_caching,
    async_scheduling,
    max_queue_len,
    isa,
    packed_weights,
);

pub fn from_kwargs(settings: Option<&Bound<'_, PyDict>>) -> PyResult<EngineConfig> {
    let packed_weights = Store::open_default().ok().map(|store| store.packed_weights());
    let mut config = EngineConfig { packed_weights, ..EngineConfig::default() };
    for (name, value) in settings.into_iter().flatten() {
        set(&mut config, &name.extract::<String>()?, &value)?;
    }
    config.validate().raise()?;
    Ok(config)
}

/// Bytes as a number, or as a text such as "512MB".
fn bytes(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    match value.extract::<String>() {
        Err(_) => field::read(name, value),
        Ok(text) => parse_bytes(&text).map(Some).map_err(|err| invalid_request(format!("{name}: {err}"))),
    }
}
