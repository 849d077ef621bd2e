//! Settings by name: how the fields of the engine's structs look in Python.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ferrule_engine::TokenId;
use ferrule_engine::config::{Activations, Device, Isa, KvDtype, Policy, Quantization};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::errors::{Raise, invalid_request};

/// A value that crosses the border both ways.
pub trait Field: Sized {
    fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self>;
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>>;
}

/// Reads the setting `name`; what is wrong with it is said with its name.
pub fn read<T: Field>(name: &str, value: &Bound<'_, PyAny>) -> PyResult<T> {
    T::from_python(value).map_err(|err| {
        let py = value.py();
        if err.is_instance_of::<PyOverflowError>(py) {
            return invalid_request(format!("{name} is {value}: it must be a whole number that is not negative"));
        }
        match err.is_instance_of::<PyTypeError>(py) {
            true => PyTypeError::new_err(format!("{name}: {}", err.value(py))),
            false => err,
        }
    })
}

pub fn unknown(what: &str, name: &str, known: &[&str]) -> PyErr {
    PyTypeError::new_err(format!("{what} has no '{name}': it has {}", known.join(", ")))
}

/// Types that PyO3 converts as we want them.
macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self> {
                value.extract()
            }

            fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.into_bound_py_any(py)
            }
        }
    )*};
}

plain!(usize, bool, Option<u64>, Option<usize>, Option<PathBuf>);

/// Names such as "int8", as the command line spells them.
macro_rules! named {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self> {
                value.extract::<String>()?.parse().raise()
            }

            fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.to_string().into_bound_py_any(py)
            }
        }

        impl Field for Option<$type> {
            fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self> {
                if value.is_none() { Ok(None) } else { <$type>::from_python(value).map(Some) }
            }

            fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.map(|value| value.to_string()).into_bound_py_any(py)
            }
        }
    )*};
}

named!(Activations, Device, Isa, KvDtype, Policy, Quantization);

/// The shortest decimal that reads back as `value`: 0.7 stays 0.7.
pub fn float(value: f32) -> f64 {
    value.to_string().parse().expect("Rust reads the numbers that it writes")
}

impl Field for f32 {
    fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        value.extract()
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        float(*self).into_bound_py_any(py)
    }
}

impl Field for Vec<TokenId> {
    fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(value.extract::<Option<Vec<TokenId>>>()?.unwrap_or_default())
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.into_bound_py_any(py)
    }
}

/// One text or several.
impl Field for Vec<String> {
    fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        match value.cast::<PyString>() {
            Ok(text) => Ok(vec![text.to_string()]),
            Err(_) => Ok(value.extract::<Option<Vec<String>>>()?.unwrap_or_default()),
        }
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.into_bound_py_any(py)
    }
}

/// A dictionary from token to bias.
impl Field for Vec<(TokenId, f32)> {
    fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        let biases: Option<BTreeMap<TokenId, f32>> = value.extract()?;
        Ok(biases.into_iter().flatten().collect())
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let biases = PyDict::new(py);
        for &(token, bias) in self {
            biases.set_item(token, float(bias))?;
        }
        Ok(biases.into_any())
    }
}
