//! Handlers for operators: health, readiness, metrics, and the description of the API.

use crate::app::{App, Port, Route};
use crate::errors::{ApiError, Code};
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::{Method, header};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// The description of the API (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("openapi.json");

/// Routes of the main port.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/healthz", healthz).with_query(),
        Route::new(Method::GET, "/readyz", readyz).with_query(),
        Route::new(Method::GET, "/metrics", metrics).with_query(),
        Route::new(Method::GET, "/openapi.json", openapi).with_query(),
    ]
}

/// Routes of the admin port.
pub(crate) fn admin_routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/healthz", healthz).with_query(),
        Route::new(Method::GET, "/readyz", readyz).with_query(),
        Route::new(Method::GET, "/metrics", metrics).with_query(),
        Route::new(Method::GET, "/admin/webhooks", webhooks),
    ]
}

/// Whether the process responds.
async fn healthz() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// Whether the server can serve: the chat runs and the database responds.
async fn readyz(State(app): State<Arc<App>>, Extension(port): Extension<Port>) -> Result<Response, ApiError> {
    let not_ready = |reason: String| {
        let hidden = !app.settings.public_metrics && port == Port::Main;
        let reason = if hidden { "the server is not ready".to_owned() } else { reason };
        ApiError::new(Code::Unavailable, reason).retry_after(1)
    };
    match unready_reason(&app).await {
        None => Ok(Json(json!({"status": "ready"})).into_response()),
        Some(reason) => Err(not_ready(reason)),
    }
}

/// Why the server can't serve, if it can't.
async fn unready_reason(app: &App) -> Option<String> {
    if let Some(reason) = app.chat.unready_reason() {
        return Some(reason);
    }
    let timeout = Duration::from_millis(app.settings.limits.ready_timeout_ms);
    app.readiness.of_database(&app.store, timeout).await.err().map(ToOwned::to_owned)
}

/// The metrics of the chat and of this service, in the Prometheus text format.
async fn metrics(State(app): State<Arc<App>>, Extension(port): Extension<Port>) -> Result<Response, ApiError> {
    if !app.settings.public_metrics && port == Port::Main {
        return Err(ApiError::no_such_path());
    }
    let (mut text, unready) = tokio::join!(app.chat.metrics(), unready_reason(&app));
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let ready = "Whether the server can do its work, as /readyz says.";
    let is_ready = u8::from(unready.is_none());
    text.push_str(&format!("# HELP uproar_ready {ready}\n# TYPE uproar_ready gauge\nuproar_ready {is_ready}\n"));
    let metrics = app.passwords.metrics();
    let attempts = app.attempts.metrics();
    for (name, help, value) in [
        ("uproar_passwords_hashed_total", "New passwords hashed.", metrics.hashed),
        ("uproar_passwords_verified_total", "Passwords compared with a hash.", metrics.verified),
        ("uproar_passwords_refused_total", "Password jobs refused because too many were waiting.", metrics.refused),
        ("uproar_sign_ins_failed_total", "Sign-ins with a wrong name or password.", attempts.failed),
        ("uproar_attempts_refused_total", "Sign-ins and sign-ups refused because of their rate.", attempts.refused),
    ] {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n"));
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// How far each webhook is.
async fn webhooks(State(app): State<Arc<App>>) -> Response {
    Json(app.chat.webhooks()).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
