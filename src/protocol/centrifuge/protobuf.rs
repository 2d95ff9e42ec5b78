//! Protobuf: binary frames, each message behind its length.

use super::{Command, Malformed, Push, Reply};
use crate::core::run::Entry;

#[derive(Debug)]
pub struct Publications {}

impl Publications {
    pub fn encode<'a>(_entries: impl IntoIterator<Item = &'a Entry>, _limit_bytes: usize) -> Publications {
        todo!()
    }

    pub fn count(&self) -> usize {
        todo!()
    }
}

pub fn next_command<'a>(_frame: &mut &'a [u8]) -> Option<Result<Command<'a>, Malformed>> {
    todo!()
}

pub fn push_reply(_out: &mut Vec<u8>, _id: u32, _reply: Reply<'_>) {
    todo!()
}

pub fn push_push(_out: &mut Vec<u8>, _channel: &str, _push: &Push<'_>) {
    todo!()
}
