//! The engine's and the store's errors as Python exceptions; the classes are in `ferrule/errors.py`.

use ferrule_engine::Error;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// An error whose class in `ferrule.errors` is known.
pub trait ToException: std::fmt::Display {
    fn class(&self) -> &'static str;
}

impl ToException for Error {
    fn class(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "InvalidRequest",
            Self::InvalidConfig(_) => "InvalidConfig",
            Self::ModelNotFound(_) => "ModelNotFound",
            Self::Unsupported { .. } => "UnsupportedModel",
            Self::Corrupt { .. } => "CorruptModel",
            Self::OutOfMemory(_) => "OutOfMemory",
            Self::Device(_) => "DeviceError",
            Self::Overloaded { .. } => "Overloaded",
            Self::Cancelled(_) => "Cancelled",
            Self::Io { .. } => "StorageError",
            Self::Internal(_) => "InternalError",
        }
    }
}

impl ToException for ferrule_store::Error {
    fn class(&self) -> &'static str {
        match self.fault() {
            ferrule_store::Fault::Caller => "ModelNotFound",
            ferrule_store::Fault::Model => "CorruptModel",
            ferrule_store::Fault::Machine => "StorageError",
        }
    }
}

/// Raises the exception that belongs to an error.
pub fn exception(err: &impl ToException) -> PyErr {
    Python::attach(|py| match class(py, err.class()) {
        Ok(class) => PyErr::from_type(class, err.to_string()),
        Err(import) => import,
    })
}

fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    Ok(py.import("ferrule.errors")?.getattr(name)?.cast_into()?)
}

pub fn invalid_request(what: impl Into<String>) -> PyErr {
    exception(&Error::InvalidRequest(what.into()))
}

/// `result.raise()?` at the border.
pub trait Raise<T> {
    fn raise(self) -> PyResult<T>;
}

impl<T, E: ToException> Raise<T> for Result<T, E> {
    fn raise(self) -> PyResult<T> {
        self.map_err(|err| exception(&err))
    }
}
