//! The driver on io_uring (through tokio-uring).
//!
//! One task, the event loop, serves a whole shard. An idle connection has no task, no future and no buffer: its slot
//! holds the one operation in flight, with a waker that only records the slot's number.
//!
//! ```text
//!  completions ─▶ event loop ─▶ core ─▶ event loop ─▶ operations ─▶ kernel (in batches, at the latest before sleeping)
//! ```
//!
//! This is the only module of Uproar with `unsafe` code, for memory that the kernel reads or writes until an
//! operation completes.
#![allow(unsafe_code)]

mod buffers;
mod event_loop;
mod operation;

use super::ShardSetup;
use io_uring::{Probe, opcode};
use std::io;
use tokio_uring::Runtime;

/// Operations that can be prepared before the kernel is called. A turn with more takes several calls. With smaller
/// batches, the memory that the kernel reuses for operations stays in the CPU's caches: at 4096 an echo cost 10 % more.
/// Tests have few, so that the queue overflows.
const SUBMISSIONS: u32 = if cfg!(test) { 8 } else { 256 };

/// Completions that fit into the ring. The kernel keeps further ones outside, at a higher cost.
const COMPLETIONS: u32 = 16384;

/// Checks that this driver can run here: the kernel has io_uring with everything the driver uses, and nothing (such as
/// a container's seccomp profile or `kernel.io_uring_disabled`) forbids it.
///
/// # Errors
/// The reason why it can't run, for the operator.
pub fn available() -> Result<(), String> {
    // On a separate thread: the kernel tears a ring down some time after it was closed, and interrupts the thread that
    // created it, where a blocking call would return EINTR.
    std::thread::spawn(probe).join().unwrap_or_else(|_| Err("trying io_uring failed".into()))
}

fn probe() -> Result<(), String> {
    let ring = set_up(|builder| builder.build(SUBMISSIONS)).map_err(|error| reason(&error))?;
    // Without fast poll (Linux 5.7) each pending receive would occupy a kernel thread, and without nodrop (5.5)
    // completions could be lost.
    if !ring.params().is_feature_fast_poll() || !ring.params().is_feature_nodrop() {
        return Err("this kernel's io_uring is too old; Linux 5.7 or newer is needed".into());
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
            return Err(format!("this kernel's io_uring lacks the operation {name}; Linux 5.7 or newer is needed"));
        }
    }
    Ok(())
}

/// The ring of a shard, for the calling thread.
pub(super) fn runtime() -> io::Result<Runtime> {
    set_up(|builder| Runtime::new(tokio_uring::builder().entries(SUBMISSIONS).uring_builder(builder)))
}

/// See [`super::Driver::run`].
pub(super) fn run(runtime: &Runtime, setup: ShardSetup) {
    runtime.block_on(event_loop::run(setup));
}

/// Builds a ring with flags that save work, or without them if the kernel does not know them.
fn set_up<T>(build: impl Fn(&io_uring::Builder) -> io::Result<T>) -> io::Result<T> {
    let mut plain = tokio_uring::uring_builder();
    plain.setup_cqsize(COMPLETIONS);
    let mut saving = plain.clone();
    // COOP_TASKRUN (Linux 5.19): completions don't interrupt a busy shard; it gets them with its next call to the
    // kernel. DEFER_TASKRUN would not work: tokio-uring waits in epoll, which does not fetch deferred completions.
    // SUBMIT_ALL (5.18): a rejected operation does not hold up the operations after it.
    saving.setup_coop_taskrun().setup_submit_all();
    match build(&saving) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(&plain),
        result => result,
    }
}

/// Explains an error of `io_uring_setup(2)` to the operator.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring".into(),
        Some(libc::EPERM | libc::EACCES) => {
            format!("io_uring is forbidden here, by a seccomp profile or kernel.io_uring_disabled ({error})")
        }
        Some(libc::ENOMEM) => format!("not enough memory for io_uring; on old kernels, raise RLIMIT_MEMLOCK ({error})"),
        _ => error.to_string(),
    }
}
