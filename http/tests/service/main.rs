//! The service over real sockets, with a real SQLite store and a fake chat.

mod accounts;
mod api;
mod connection;
mod cookie;
mod cors;
mod direct;
mod hooks;
mod input;
mod invites;
mod messages;
mod moderation;
mod names;
mod operations;
mod outbox;
mod overload;
mod page;
mod rooms;
mod support;
mod traces;
mod upgrade;
