//! Typed access to the fields of a JSON object: a wrong type is an error that names file and field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

pub struct Fields<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The object in the file at `path`.
    pub fn read(path: &'a Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|err| Error::io(path, err))?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(map)) => Ok(Self { path, map }),
            Ok(_) => Err(Error::corrupt(path, "this is no JSON object")),
            Err(err) => Err(Error::corrupt(path, format!("this is no JSON: {err}"))),
        }
    }

    /// Takes from `defaults` what is absent here. A null is not absent: it says that there is none.
    pub fn or_defaults(mut self, defaults: &str) -> Self {
        let defaults: Map<String, Value> = serde_json::from_str(defaults).expect("the table of families is JSON");
        for (key, value) in defaults {
            self.map.entry(key).or_insert(value);
        }
        self
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// The value, unless absent or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(&self, key: &str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.corrupt(format!("'{key}' is not {wanted}"))),
        }
    }

    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number", |value| usize::try_from(value.as_u64()?).ok())
    }

    pub fn number(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a number", |value| Some(value.as_f64()? as f32))
    }

    pub fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    pub fn text(&self, key: &str) -> Result<Option<String>> {
        self.typed(key, "text", |value| value.as_str().map(String::from))
    }

    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(key, "a list of numbers", |value| {
            value.as_array()?.iter().map(|number| Some(number.as_f64()? as f32)).collect()
        })
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.typed(key, "a list of texts", |value| {
            value.as_array()?.iter().map(|text| text.as_str().map(String::from)).collect()
        })
    }

    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        let map = self.typed(key, "an object", |value| value.as_object().cloned())?;
        Ok(map.map(|map| Self { path: self.path, map }))
    }

    pub fn need<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.corrupt(format!("'{key}' is missing")))
    }

    pub fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(self.path, what)
    }

    pub fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(self.path, format!("the model uses {what}, which Ferrule cannot run yet"))
    }
}
