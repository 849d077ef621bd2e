//! Requests whose fields are read by type, and fields that are refused.

use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::app::App;
use super::body::Json;
use super::error::{Kind, Result, ServeError};

/// A body that is a JSON object. Fields are read from it by type; those that nobody reads are ignored.
pub struct Fields(Value);

impl FromRequest<App> for Fields {
    type Rejection = ServeError;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        Json::from_request(request, app).await.map(|Json(fields)| fields)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(|fields| Self(Value::Object(fields)))
    }
}

impl Fields {
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_path_to_error::deserialize(&self.0).map_err(|err| {
            let path = err.path().to_string();
            match path.as_str() {
                "." => ServeError::new(Kind::InvalidRequest, err.inner().to_string()),
                _ => ServeError::invalid(&path, format!("{path}: {}", err.inner())),
            }
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    /// Refuses fields that would change the answer and that are not built: silence would be a wrong answer.
    pub fn refuse(&self, unbuilt: &[Unbuilt]) -> Result<()> {
        for &Unbuilt { name, harmless } in unbuilt {
            match self.0.get(name) {
                Some(value) if !value.is_null() && !harmless(value) => {
                    return Err(ServeError::invalid(name, format!("{name} is not supported by this server")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A field of the API that Ferrule does not serve.
pub struct Unbuilt {
    name: &'static str,
    /// Values that ask for nothing.
    harmless: fn(&Value) -> bool,
}

pub const fn unbuilt(name: &'static str, harmless: fn(&Value) -> bool) -> Unbuilt {
    Unbuilt { name, harmless }
}

pub fn never(_: &Value) -> bool {
    false
}

pub fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty) || value == ""
}

pub fn is_false(value: &Value) -> bool {
    value == false
}
