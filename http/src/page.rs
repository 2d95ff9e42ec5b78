//! Serves the files of the web client, at all paths that no call of the API has.
//!
//! The web client keeps its own locations in the fragment of the URL, which no server sees. So unknown paths need no
//! fallback to the index.

use crate::app::{App, Route};
use crate::errors::{ApiError, Code};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, Uri, header};
use std::sync::Arc;

/// The one route that always exists. [`file`] serves the rest.
pub(crate) fn routes() -> Vec<Route> {
    vec![Route::new(Method::GET, "/", index).with_query()]
}

async fn index(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.assets.index(&headers)
}

/// Answers at every path that is not a route: with a file of the web client, or 404.
pub(crate) async fn file(State(app): State<Arc<App>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    match app.assets.file(uri.path(), &headers) {
        None => ApiError::no_such_path().into_response(),
        Some(response) if method == Method::GET || method == Method::HEAD => response,
        Some(_) => {
            let error = ApiError::new(Code::MethodNotAllowed, "this is a file of the web client; it can only be read");
            ([(header::ALLOW, "GET,HEAD")], error).into_response()
        }
    }
}
