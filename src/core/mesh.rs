//! Who talks to whom, and in which words. The queues themselves are the driver's (`crate::mesh`) or the simulator's.

/// Someone who has queues: one to and one from each other endpoint that it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A core with its connections and rooms.
    Shard(u16),
    /// A writer that commits batches.
    Lane(u16),
    /// The readers of the store.
    Reader,
    /// The HTTP service.
    Http,
}

/// What goes through the mesh.
#[derive(Debug)]
pub enum Message {}
