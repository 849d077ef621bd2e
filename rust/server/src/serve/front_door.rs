//! Where every request comes in and every response goes out.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use futures_util::FutureExt;
use tower_service::Service;

use super::app::App;
use super::auth::{Caller, Identity, Signed, Standing};
use super::error::{Kind, Result, ServeError};
use super::trace::Trace;
use super::visit::Visit;
use super::{admin, anthropic, bedrock, body, dialect, live, native, ollama, openai, openapi, page, unread};

/// All dialects' routes.
pub fn router(app: App) -> Router {
    let dialects = openai::routes().merge(anthropic::routes()).merge(ollama::routes()).merge(bedrock::routes());
    let dialects = dialects.merge(dialect::shared_routes());
    let own =
        admin::routes().merge(native::routes()).merge(live::routes()).merge(page::routes()).merge(openapi::routes());
    let routes = Router::new().merge(own).merge(dialects);
    let routes = routes.route_layer(middleware::from_fn(note_route));
    routes
        .fallback(async |request: Request| -> ServeError {
            ServeError::new(Kind::NoSuchPath, format!("there is no {} {}", request.method(), request.uri().path()))
        })
        .method_not_allowed_fallback(async |request: Request| -> ServeError {
            let message = format!("{} does not take {}", request.uri().path(), request.method());
            ServeError::new(Kind::MethodNotAllowed, message)
        })
        .with_state(app)
}

/// Metrics count routes.
async fn note_route(request: Request, next: Next) -> Response<Body> {
    if let (Some(route), Some(visit)) = (request.extensions().get::<MatchedPath>(), visit(&request)) {
        visit.set_route(route.as_str());
    }
    next.run(request).await
}

fn visit(request: &Request) -> Option<&std::sync::Arc<Visit>> {
    request.extensions().get()
}

/// Answers one request. A panic on the way is that request's alone.
pub async fn front_door(app: App, mut router: Router, mut request: Request) -> Result<Response<Body>, Infallible> {
    let (body, unread) = unread::lend(std::mem::take(request.body_mut()), request.headers());
    *request.body_mut() = body;
    let identified = match is_open(request.uri().path()) {
        true => Ok(Caller::default()),
        false => identify(&app, &mut request).await,
    };
    let trace = app.trace_file.as_ref().and_then(|file| Trace::begin(file, request.headers()));
    let visit = Visit::begin(&request, identified.clone().unwrap_or_default(), trace);
    request.extensions_mut().insert(visit.clone());
    let mut response = match identified {
        Ok(_) => answer(&mut router, request).await,
        Err(error) => error.into_response(),
    };
    let mut is_late = false;
    if let Some(error) = response.extensions_mut().remove::<ServeError>() {
        is_late = error.kind == Kind::Timeout;
        // Which methods a path takes is the router's to say.
        let allow = response.headers_mut().remove(header::ALLOW);
        response = shaped(&visit, &error);
        response.headers_mut().extend(allow.map(|methods| (header::ALLOW, methods)));
    }
    if let Some(standing) = app.auth.standing(&visit.caller) {
        tell_standing(&standing, response.headers_mut());
    }
    if is_late || !unread.discard().await {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(visit.finish(&app, response))
}

async fn answer(router: &mut Router, request: Request) -> Response<Body> {
    match AssertUnwindSafe(router.call(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Err(_) => {
            ServeError::new(Kind::Internal, "a defect of the server ended this request; others go on").into_response()
        }
    }
}

/// Who sent the request. Signatures cover the body, so it is read for them, and put back.
async fn identify(app: &App, request: &mut Request) -> Result<Caller> {
    let claim = match app.auth.identify(request.headers())? {
        Identity::Known(caller) => return Ok(caller),
        Identity::Claimed(claim) => claim,
    };
    let body = std::mem::take(request.body_mut());
    let body = body::read(request.headers(), body, app).await?;
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let caller = claim.check(Signed { method, uri, headers, body: &body })?;
    *request.body_mut() = Body::from(body);
    Ok(caller)
}

/// What anybody may see: whether the server is there, its document, and the page, which asks for a key.
fn is_open(path: &str) -> bool {
    ["/", "/health", "/openapi.json"].contains(&path)
        || ["/health/", "/page/"].iter().any(|folder| path.starts_with(folder))
}

/// OpenAI's headers about what is left of a key's limits.
fn tell_standing(standing: &Standing, headers: &mut HeaderMap) {
    for (what, left) in [("requests", &standing.requests), ("tokens", &standing.tokens)] {
        let Some(left) = left else { continue };
        let reset = format!("{:.3}s", left.reset.as_secs_f64());
        for (name, value) in
            [("limit", left.limit.to_string()), ("remaining", left.remaining.to_string()), ("reset", reset)]
        {
            let name = HeaderName::try_from(format!("x-ratelimit-{name}-{what}")).expect("letters and dashes");
            headers.insert(name, HeaderValue::try_from(value).expect("digits and letters"));
        }
    }
}

/// The error as the request's dialect writes it: its shape, its status, and when to come again.
fn shaped(visit: &Visit, error: &ServeError) -> Response<Body> {
    let mut response = visit.dialect.error_response(error, &visit.id);
    if let Some(secs) = error.retry_after_secs() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ferrule_engine::EngineConfig;
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;
    use crate::serve::access_log::AccessLog;
    use crate::serve::app::{Limits, Shared};
    use crate::serve::auth::Auth;
    use crate::serve::drain::{Drain, Phase};
    use crate::serve::models::{Catalog, KeepAlive, Registry, RegistryConfig};
    use crate::serve::pace::Pace;

    /// A server with the null model, which takes 5 ms per step.
    fn app() -> App {
        let metrics = Arc::default();
        let config = RegistryConfig {
            engine: EngineConfig::default(),
            memory_budget: None,
            keep_alive: KeepAlive::Forever,
            patience: Duration::from_secs(60),
        };
        let catalog = Catalog::open(&["null:5".into()]).unwrap();
        let limits = Limits {
            max_body_bytes: 1 << 20,
            read_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            max_connections: 1,
        };
        let app = App::new(Shared {
            registry: Registry::new(catalog, config, Arc::clone(&metrics)),
            metrics,
            auth: Arc::new(Auth::open()),
            drain: Drain::new(),
            recent: Default::default(),
            pulls: Arc::new(tokio::sync::Semaphore::new(1)),
            limits,
            pace: Pace::new(Duration::ZERO),
            log: AccessLog::Off,
            trace_file: None,
        });
        app.drain.advance(Phase::Running);
        app
    }

    async fn complete(app: App, max_tokens: usize) -> (u16, Value) {
        let body = format!(r#"{{"prompt": "hi", "max_tokens": {max_tokens}, "ignore_eos": true}}"#);
        let request = Request::post("/v1/completions").body(Body::from(body)).unwrap();
        let response = front_door(app.clone(), router(app), request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn an_engine_that_a_defect_ended_is_replaced_for_the_next_request() {
        let app = app();
        let running: Vec<_> = (0..3).map(|_| tokio::spawn(complete(app.clone(), 4000))).collect();
        let engine = loop {
            if let Some(resident) = app.registry.residents().pop()
                && resident.model.engine.stats().num_running == 3
            {
                break resident.model.engine.clone();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        engine.watch(|_| panic!("a defect between two steps"));
        for request in running {
            let (status, body) = request.await.unwrap();
            let message = body["error"]["message"].as_str().unwrap();
            assert!(status == 500 && message.contains("a defect between two steps"), "{status} {body}");
        }
        assert!(engine.is_broken() && app.registry.residents().is_empty());
        let (status, body) = complete(app.clone(), 4).await;
        assert_eq!((status, &body["usage"]["completion_tokens"]), (200, &4.into()), "{body}");
        assert_eq!(app.registry.residents().len(), 1);
        // The engine lets go of a request a moment after its last word.
        app.drain.wait_idle().await;
    }

    #[tokio::test]
    async fn a_panic_ends_its_request_alone() {
        let mut router = Router::new().fallback(async |request: Request| {
            assert_ne!(request.uri().path(), "/broken", "a defect");
        });
        let request = |path: &str| Request::get(path).body(Body::empty()).unwrap();
        for _ in 0..2 {
            let failed = answer(&mut router, request("/broken")).await;
            assert_eq!(failed.extensions().get::<ServeError>().unwrap().kind, Kind::Internal);
            assert_eq!(answer(&mut router, request("/sound")).await.status(), 200);
        }
    }
}
