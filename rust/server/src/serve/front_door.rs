//! Where every request comes in and every response goes out.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Response, header};
use axum::middleware::{self, Next};
use futures_util::FutureExt;
use tower_service::Service;

use super::app::App;
use super::error::{Kind, ServeError};
use super::visit::Visit;
use super::{admin, native, openai};

/// All dialects' routes.
pub fn router(app: App) -> Router {
    let routes = Router::new().merge(admin::routes()).merge(native::routes()).merge(openai::routes());
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
    let visit = Visit::begin(&request);
    request.extensions_mut().insert(visit.clone());
    let answered = AssertUnwindSafe(router.call(request)).catch_unwind().await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Err(_) => {
            let error = ServeError::new(Kind::Internal, "a defect of the server ended this request; others go on");
            axum::response::IntoResponse::into_response(error)
        }
    };
    if let Some(error) = response.extensions_mut().remove::<ServeError>() {
        response = shaped(&visit.path, &error);
    }
    Ok(visit.finish(&app, response))
}

/// The error as the path's dialect writes it.
fn shaped(path: &str, error: &ServeError) -> Response<Body> {
    let _ = path;
    let mut response = openai::error_response(error);
    *response.status_mut() = error.kind.status();
    if let Some(secs) = error.retry_after_secs() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    response
}
