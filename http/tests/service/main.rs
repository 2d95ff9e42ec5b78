//! The service over real sockets, with a real SQLite store and a chat that does only what is asked of it.

mod accounts;
mod connection;
mod cookie;
mod cors;
mod input;
mod messages;
mod operations;
mod overload;
mod page;
mod rooms;
mod support;
mod upgrade;
