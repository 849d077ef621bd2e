//! A running server, as commands talk to it.

use std::io::Read;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::failure::{Failure, Result};

/// Which server, and as whom.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Address of the running server
    #[arg(long, value_name = "URL", env = "FERRULE_HOST", default_value = "http://127.0.0.1:8000")]
    host: String,
    /// The server's API key
    #[arg(long, value_name = "KEY", env = "FERRULE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
}

impl ServerArgs {
    pub fn client(&self) -> Client {
        Client::new(&self.host, self.api_key.clone())
    }
}

#[derive(Debug)]
pub struct Client {
    agent: Agent,
    /// Without a slash at the end.
    host: String,
    api_key: Option<String>,
}

impl Client {
    /// `host` may leave `http://` out.
    pub fn new(host: &str, api_key: Option<String>) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).timeout_connect(Some(Duration::from_secs(5)));
        let scheme = if host.contains("://") { "" } else { "http://" };
        Self { agent: config.build().new_agent(), host: format!("{scheme}{}", host.trim_end_matches('/')), api_key }
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        let request = self.agent.get(self.url(path)).header("authorization", self.authorization());
        self.json(request.call())
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(self.send(path, body))
    }

    /// The answer's body, as it comes.
    pub fn stream(&self, path: &str, body: &Value) -> Result<impl Read + Send + 'static> {
        Ok(self.check(self.send(path, body))?.into_body().into_reader())
    }

    fn send(&self, path: &str, body: &Value) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.post(self.url(path)).header("authorization", self.authorization());
        request.header("content-type", "application/json").send(body.to_string())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.host)
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.api_key.as_deref().unwrap_or("none"))
    }

    fn json(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Value> {
        let body = self.check(response)?.body_mut().read_to_vec().map_err(|err| self.unreachable(&err))?;
        serde_json::from_slice(&body).map_err(|err| Failure::machine(format!("{} answers no JSON: {err}", self.host)))
    }

    /// Errors in the server's own words.
    fn check(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        let mut response = response.map_err(|err| self.unreachable(&err))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body: Value = response
            .body_mut()
            .read_to_vec()
            .map_or(Value::Null, |body| serde_json::from_slice(&body).unwrap_or_default());
        let why = body["error"]["message"].as_str().unwrap_or("no Ferrule server is there");
        let message = format!("{} ({status}): {why}", self.host);
        match status.is_client_error() {
            true => Err(Failure::usage(message)),
            false => Err(Failure::machine(message)),
        }
    }

    fn unreachable(&self, err: &ureq::Error) -> Failure {
        Failure::machine(format!("no server answers at {} ({err}); ferrule serve starts one", self.host))
    }
}
