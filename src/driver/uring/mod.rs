//! The driver on io_uring, through tokio-uring.
//!
//! One task, the [`pump::Pump`], serves a whole shard. There is no task, no future and no buffer for a connection that
//! rests: its one operation in flight is kept in its slot, with a waker that only notes the slot's number.
//!
//! ```text
//!  completions ─▶ pump ─▶ core ─▶ pump ─▶ operations ─▶ kernel (many at once, the last when the thread goes to sleep)
//! ```
//!
//! This is the only place in Uproar that has `unsafe` code: pointers that the kernel reads or writes until an
//! operation's completion has come.
#![allow(unsafe_code)]

mod buffers;
mod operation;
mod pump;

use super::{Error, ShardSetup};
use io_uring::{Probe, opcode};
use std::io;
use tokio_uring::Runtime;

/// Operations that can be prepared before the kernel is called. A turn may have more: they go in several calls, and what
/// the kernel keeps for an operation, which it uses again, stays in the caches. With 4096 an echo cost a tenth more.
/// Few in tests, so that these come to that.
const SUBMISSIONS: u32 = if cfg!(test) { 8 } else { 256 };

/// Completions that the kernel keeps in the ring. More are kept outside, which costs more.
const COMPLETIONS: u32 = 16384;

/// Whether this driver can work here: the kernel has io_uring with all that is used of it, and nothing (a container's
/// seccomp profile, `kernel.io_uring_disabled`) forbids it.
///
/// # Errors
/// The reason, to be shown to the operator.
pub fn available() -> Result<(), String> {
    // On a thread of its own: when a ring is torn down, a while after it was closed, the kernel interrupts the thread
    // that made it, and some blocking call there returns EINTR.
    std::thread::spawn(probe).join().unwrap_or_else(|_| Err("io_uring cannot be tried out".into()))
}

fn probe() -> Result<(), String> {
    let ring = set_up(|builder| builder.build(SUBMISSIONS)).map_err(|error| reason(&error))?;
    // Without fast poll (Linux 5.7) each waiting receive would hold a kernel thread, and without nodrop (5.5)
    // completions could be lost.
    if !ring.params().is_feature_fast_poll() || !ring.params().is_feature_nodrop() {
        return Err("io_uring of this kernel is too old: Linux 5.7 is needed".into());
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| reason(&error))?;
    for (name, code) in [
        ("nop", opcode::Nop::CODE),
        ("recv", opcode::Recv::CODE),
        ("send", opcode::Send::CODE),
        ("sendmsg", opcode::SendMsg::CODE),
        ("poll", opcode::PollAdd::CODE),
        ("provide_buffers", opcode::ProvideBuffers::CODE),
    ] {
        if !probe.is_supported(code) {
            return Err(format!("io_uring of this kernel does not know the operation {name}: Linux 5.7 is needed"));
        }
    }
    Ok(())
}

/// See [`super::Driver::run`].
pub(super) fn run(setup: ShardSetup) -> Result<(), Error> {
    let build =
        |builder: &io_uring::Builder| Runtime::new(tokio_uring::builder().entries(SUBMISSIONS).uring_builder(builder));
    set_up(build).map_err(Error::Uring)?.block_on(pump::run(setup));
    Ok(())
}

/// Builds a ring with the flags that save work, or without them on kernels that don't know them.
fn set_up<T>(build: impl Fn(&io_uring::Builder) -> io::Result<T>) -> io::Result<T> {
    let mut plain = tokio_uring::uring_builder();
    plain.setup_cqsize(COMPLETIONS);
    let mut saving = plain.clone();
    // COOP_TASKRUN (Linux 5.19): completions don't interrupt a shard that is at work; it fetches them when it calls the
    // kernel the next time. Not DEFER_TASKRUN: tokio-uring waits in epoll, which does not fetch them then.
    // SUBMIT_ALL (5.18): one operation that is refused does not hold up those behind it.
    saving.setup_coop_taskrun().setup_submit_all();
    match build(&saving) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(&plain),
        result => result,
    }
}

/// What an operator can do with an error of `io_uring_setup(2)`.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring".into(),
        Some(libc::EPERM | libc::EACCES) => {
            format!("io_uring is forbidden here, by a seccomp profile or kernel.io_uring_disabled ({error})")
        }
        Some(libc::ENOMEM) => format!("no memory for io_uring; on old kernels RLIMIT_MEMLOCK is too low ({error})"),
        _ => error.to_string(),
    }
}
