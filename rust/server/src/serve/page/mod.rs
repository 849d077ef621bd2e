//! The page at `/`: a chat, and the engine at work. Files are part of the binary; nothing comes from elsewhere.

use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::routing::get;

use crate::serve::app::App;
use crate::serve::auth::{hex, sha256};
use crate::serve::error::{Kind, Result, ServeError};

/// A file of the page.
struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
}

/// (name, content type, content) of a file beside this one.
macro_rules! asset {
    ($name:literal, $content_type:literal) => {
        Asset { name: $name, content_type: $content_type, content: include_str!($name) }
    };
}

const ASSETS: &[Asset] = &[
    asset!("index.html", "text/html; charset=utf-8"),
    asset!("style.css", "text/css; charset=utf-8"),
    asset!("icon.svg", "image/svg+xml"),
    asset!("main.js", "text/javascript; charset=utf-8"),
    asset!("api.js", "text/javascript; charset=utf-8"),
    asset!("chat.js", "text/javascript; charset=utf-8"),
    asset!("settings.js", "text/javascript; charset=utf-8"),
    asset!("markdown.js", "text/javascript; charset=utf-8"),
    asset!("engine.js", "text/javascript; charset=utf-8"),
    asset!("chart.js", "text/javascript; charset=utf-8"),
    asset!("blocks.js", "text/javascript; charset=utf-8"),
    asset!("timeline.js", "text/javascript; charset=utf-8"),
    asset!("dom.js", "text/javascript; charset=utf-8"),
];

/// By [`ASSETS`].
static ETAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| ASSETS.iter().map(|asset| format!("\"{}\"", &hex(&sha256(asset.content))[..32])).collect());

/// What an answer of a model says must never be run, and nothing is asked of other hosts.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(async |headers: HeaderMap| file("index.html", &headers)))
        .route("/page/{name}", get(async |Path(name): Path<String>, headers: HeaderMap| file(&name, &headers)))
}

fn file(name: &str, asked: &HeaderMap) -> Result<Response<Body>> {
    let index = ASSETS.iter().position(|asset| asset.name == name);
    let index = index.ok_or_else(|| ServeError::new(Kind::NoSuchPath, format!("the page has no file '{name}'")))?;
    let (asset, etag) = (&ASSETS[index], &ETAGS[index]);
    let is_known = asked.get(header::IF_NONE_MATCH).is_some_and(|known| known == etag.as_str());
    let mut response = match is_known {
        true => Response::new(Body::empty()),
        false => Response::new(Body::from(asset.content)),
    };
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, asset.content_type),
        (header::ETAG, etag),
        // Asked for again each time, and then not sent again.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
