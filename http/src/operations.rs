//! For those who run the server: is it alive, can it serve, what does it do, what does it offer.

use crate::errors::{ApiError, Code};
use crate::service::{App, Port, Route};
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::{Method, header};
use serde_json::json;
use std::sync::Arc;

/// The description of the API (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("openapi.json");

/// Routes of the main port.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/healthz", healthz),
        Route::new(Method::GET, "/readyz", readyz),
        Route::new(Method::GET, "/metrics", metrics),
        Route::new(Method::GET, "/openapi.json", openapi),
    ]
}

/// Routes of the operators' own port.
pub(crate) fn admin_routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/healthz", healthz),
        Route::new(Method::GET, "/readyz", readyz),
        Route::new(Method::GET, "/metrics", metrics),
    ]
}

/// The process answers.
async fn healthz() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// The process can serve: the chat runs, the database answers.
async fn readyz(State(app): State<Arc<App>>, Extension(port): Extension<Port>) -> Result<Response, ApiError> {
    let not_ready = |why: String| {
        let hidden = app.settings.own_admin_port && port == Port::Main;
        let why = if hidden { "the server can't serve at the moment".to_owned() } else { why };
        ApiError::new(Code::Unavailable, why).retry_after(1)
    };
    if let Some(why) = app.chat.unready() {
        return Err(not_ready(why));
    }
    match tokio::time::timeout(app.settings.limits.ready_timeout, app.store.ping()).await {
        Ok(Ok(())) => Ok(Json(json!({"status": "ready"})).into_response()),
        // What exactly is for the log: it can name hosts and users.
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready");
            Err(not_ready("the database does not answer as it should".to_owned()))
        }
        Err(_) => Err(not_ready("the database does not answer in time".to_owned())),
    }
}

/// Figures in the Prometheus text format: the chat's and this service's own.
async fn metrics(State(app): State<Arc<App>>, Extension(port): Extension<Port>) -> Result<Response, ApiError> {
    if app.settings.own_admin_port && port == Port::Main {
        return Err(crate::service::not_found());
    }
    let mut text = app.chat.metrics().await;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let figures = app.passwords.figures();
    for (name, help, value) in [
        ("uproar_passwords_hashed_total", "New passwords hashed.", figures.hashed),
        ("uproar_passwords_verified_total", "Passwords compared with a hash.", figures.verified),
        ("uproar_passwords_refused_total", "Password jobs refused because too many waited.", figures.refused),
    ] {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n"));
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
