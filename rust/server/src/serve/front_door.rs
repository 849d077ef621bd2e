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
    use super::*;

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
