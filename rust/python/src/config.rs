//! Keyword arguments of Engine: the fields of the engine's configuration.

use ferrule_engine::EngineConfig;
use ferrule_server::units::parse_bytes;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{Raise, invalid_request};
use crate::field::{self, Field};

/// The list of fields, once: it makes the setter by name and the listing.
macro_rules! engine_config {
    ($($name:ident),* $(,)?) => {
        const FIELDS: &[&str] = &["kv_cache_memory", $(stringify!($name)),*];

        fn set(config: &mut EngineConfig, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
            match name {
                "kv_cache_memory" => config.kv_cache_memory = memory(name, value)?,
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
    threads,
    device,
    policy,
    enable_prefix_caching,
    max_queue_len,
    isa,
);

pub fn from_kwargs(settings: Option<&Bound<'_, PyDict>>) -> PyResult<EngineConfig> {
    let mut config = EngineConfig::default();
    for (name, value) in settings.into_iter().flatten() {
        set(&mut config, &name.extract::<String>()?, &value)?;
    }
    config.validate().raise()?;
    Ok(config)
}

/// Bytes as a number, or as a text such as "512MB".
fn memory(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    match value.extract::<String>() {
        Err(_) => field::read(name, value),
        Ok(text) => parse_bytes(&text).map(Some).map_err(|err| invalid_request(format!("{name}: {err}"))),
    }
}
