//! The Hugging Face hub: what a repository has, and its files by ranges.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::choose::Offer;
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::partial::Partial;
use crate::progress::Progress;

/// Attempts in a row that bring no byte before a transfer is given up.
const MAX_IDLE_ATTEMPTS: u32 = 3;

#[derive(Debug)]
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// A repository at one commit.
#[derive(Debug)]
pub struct Listing {
    pub revision: String,
    pub license: Option<String>,
    pub offers: Vec<Offer>,
}

/// One file of one commit.
#[derive(Debug, Clone, Copy)]
pub struct Location<'a> {
    pub repo: &'a str,
    pub revision: &'a str,
    pub file: &'a str,
}

impl Hub {
    /// None: the hub is not to be asked.
    pub fn new(config: &StoreConfig) -> Result<Option<Self>> {
        let Some(endpoint) = config.hub_endpoint.clone() else { return Ok(None) };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("ferrule/", env!("CARGO_PKG_VERSION")))
            // Ranges and sizes are those of the file itself.
            .accept_encoding("identity")
            .tls_config(tls(config)?)
            .timeout_resolve(Some(Duration::from_secs(3)))
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .timeout_per_read(Some(Duration::from_secs(30)))
            .build()
            .new_agent();
        Ok(Some(Self { agent, endpoint, token: config.hub_token.clone() }))
    }

    pub fn list(&self, repo: &str) -> Result<Listing> {
        let mut response = self.get(&format!("/api/models/{repo}?blobs=true"), 0).map_err(unreachable)?;
        check(repo, &response)?;
        let bad = |why: String| Error::BadAnswer { what: repo.into(), why };
        let info: RepoInfo = response
            .body_mut()
            .read_to_vec()
            .map_err(unreachable)
            .and_then(|body| serde_json::from_slice(&body).map_err(|err| bad(format!("no listing: {err}"))))?;
        Ok(Listing {
            license: info.license(),
            offers: info.siblings.into_iter().map(Offer::from).collect(),
            revision: info.sha.unwrap_or_else(|| "main".into()),
        })
    }

    /// Fills `partial` up to `total` bytes, going on after broken connections as long as bytes come.
    pub fn fetch(&self, at: Location, partial: &mut Partial, total: u64, progress: &mut dyn Progress) -> Result<()> {
        let mut idle = 0;
        while partial.len() < total {
            let before = partial.len();
            let why = match self.fetch_rest(at, partial, progress)? {
                Some(why) => why,
                None if partial.len() >= total => break,
                None => "the answer was too short".into(),
            };
            idle = if partial.len() > before { 0 } else { idle + 1 };
            if idle == MAX_IDLE_ATTEMPTS {
                return Err(Error::Broken { what: partial.name().into(), have: partial.len(), total, why });
            }
            std::thread::sleep(Duration::from_millis(200) * idle);
        }
        Ok(())
    }

    /// One request. The transfer's trouble, if it may pass, is the value.
    fn fetch_rest(&self, at: Location, partial: &mut Partial, progress: &mut dyn Progress) -> Result<Option<String>> {
        let Location { repo, revision, file } = at;
        let what = format!("{repo}/{file}");
        let response = match self.get(&format!("/{repo}/resolve/{revision}/{file}"), partial.len()) {
            Err(err) if partial.len() == 0 => return Err(unreachable(err)),
            Err(err) => return Ok(Some(err.to_string())),
            Ok(response) => response,
        };
        let continues = response.status().as_u16() == 206 && starts_at(&response, partial.len());
        if response.status().as_u16() == 416 {
            partial.restart()?;
            return Ok(Some("the file is shorter than what an earlier attempt left".into()));
        }
        check(&what, &response)?;
        if !continues {
            partial.restart()?;
        }
        let transfer = partial.append(&mut response.into_body().into_reader(), progress)?;
        Ok(transfer.err().map(|err| err.to_string()))
    }

    fn get(&self, path: &str, from: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(format!("{}{path}", self.endpoint));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }
}

fn tls(config: &StoreConfig) -> Result<TlsConfig> {
    let Some(path) = &config.ca_bundle else { return Ok(TlsConfig::default()) };
    let pem = std::fs::read(path).map_err(|err| Error::io(path, err))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(certificates.collect()))).build())
}

fn unreachable(err: ureq::Error) -> Error {
    let why = match err {
        ureq::Error::HostNotFound => "its address cannot be resolved".into(),
        ureq::Error::Io(err) => err.to_string(),
        err => err.to_string(),
    };
    Error::Unreachable { why }
}

fn check(what: &str, response: &Response<Body>) -> Result<()> {
    let what = what.to_owned();
    match response.status().as_u16() {
        200 | 206 => Ok(()),
        status @ (401 | 403) => Err(Error::Refused { what, status }),
        404 => Err(Error::NotOnHub { what }),
        status => Err(Error::BadAnswer { what, why: format!("status {status}") }),
    }
}

/// Whether a partial answer begins at the byte that was asked for.
fn starts_at(response: &Response<Body>, from: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

#[derive(Deserialize)]
struct RepoInfo {
    sha: Option<String>,
    #[serde(default, rename = "cardData")]
    card: Option<Card>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Card {
    /// A name, or a list of them.
    license: Option<serde_json::Value>,
    license_name: Option<String>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl RepoInfo {
    fn license(&self) -> Option<String> {
        let card = self.card.as_ref()?;
        match (&card.license_name, &card.license) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(serde_json::Value::String(name))) => Some(name.clone()),
            (None, Some(list)) => Some(list.to_string()),
            (None, None) => None,
        }
    }
}

impl From<Sibling> for Offer {
    fn from(file: Sibling) -> Self {
        let bytes = file.lfs.as_ref().map(|lfs| lfs.size).or(file.size).unwrap_or(0);
        Self { path: file.rfilename, bytes, sha256: file.lfs.map(|lfs| lfs.sha256) }
    }
}
