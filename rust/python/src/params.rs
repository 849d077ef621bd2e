//! SamplingParams: the engine's own struct behind a Python class.

use ferrule_engine::request;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors::Raise;
use crate::field::{self, Field};

/// How tokens are chosen and when to stop. Keyword arguments only; names and meanings follow vLLM's.
#[pyclass(frozen, eq, module = "ferrule")]
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingParams(pub request::SamplingParams);

impl SamplingParams {
    /// Nothing is generated; the prompt's own tokens get their log-probabilities.
    pub fn scoring() -> Self {
        Self(request::SamplingParams { max_tokens: 0, prompt_logprobs: Some(0), ..Default::default() })
    }
}

/// The list of fields, once: it makes the setter by name, the listing, and the Python class.
macro_rules! sampling_params {
    ($($name:ident),* $(,)?) => {
        const FIELDS: &[&str] = &[$(stringify!($name)),*];

        impl SamplingParams {
            fn set(&mut self, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
                match name {
                    $(stringify!($name) => self.0.$name = field::read(name, value)?,)*
                    _ => return Err(field::unknown("SamplingParams", name, FIELDS)),
                }
                Ok(())
            }

            /// The fields that differ from their defaults.
            fn changed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
                let (changed, default) = (PyDict::new(py), request::SamplingParams::default());
                $(if self.0.$name != default.$name {
                    changed.set_item(stringify!($name), self.0.$name.to_python(py)?)?;
                })*
                Ok(changed)
            }
        }

        #[pymethods]
        impl SamplingParams {
            $(#[getter]
            fn $name<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.0.$name.to_python(py)
            })*

            #[new]
            #[pyo3(signature = (**settings), text_signature = "(*, n=1, max_tokens=256, min_tokens=0, temperature=1.0, \
                top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, repetition_penalty=1.0, presence_penalty=0.0, \
                frequency_penalty=0.0, logit_bias=None, stop=None, stop_token_ids=None, include_stop_str_in_output=False, \
                ignore_eos=False, seed=None, logprobs=None, prompt_logprobs=None, skip_special_tokens=True)")]
            fn new(settings: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
                Self::default().replace(settings)
            }

            /// The same with some fields changed.
            #[pyo3(signature = (**settings))]
            fn replace(&self, settings: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
                let mut params = self.clone();
                for (name, value) in settings.into_iter().flatten() {
                    params.set(&name.extract::<String>()?, &value)?;
                }
                // Token ids are checked by the engine, which knows the vocabulary.
                params.0.validate(usize::MAX).raise()?;
                Ok(params)
            }

            fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
                let settings: PyResult<Vec<String>> =
                    self.changed(py)?.iter().map(|(name, value)| Ok(format!("{name}={}", value.repr()?))).collect();
                Ok(format!("SamplingParams({})", settings?.join(", ")))
            }

            /// Pickles as the fields that were set.
            fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
                Ok((PyTuple::empty(py), self.changed(py)?))
            }
        }
    };
}

sampling_params!(
    n,
    max_tokens,
    min_tokens,
    temperature,
    top_k,
    top_p,
    min_p,
    typical_p,
    repetition_penalty,
    presence_penalty,
    frequency_penalty,
    logit_bias,
    stop,
    stop_token_ids,
    include_stop_str_in_output,
    ignore_eos,
    seed,
    logprobs,
    prompt_logprobs,
    skip_special_tokens,
);
