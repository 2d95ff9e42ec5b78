//! Builds what the threads share: the mesh between them, the chat as HTTP sees it, and the HTTP service.

use super::{Setup, settings};
use crate::bus::SurveyCall;
use crate::chat::{Calls, Chat, ChatBus};
use crate::driver::{Control, ShardHandle};
use crate::lanes::LaneMetrics;
use crate::mesh::Mesh;
use crate::metrics;
use crate::outbox;
use crate::webhooks::Status;
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio::sync::mpsc;
use uproar_core::BusMetrics;
use uproar_core::limits::Limits;
use uproar_core::message::{Endpoint, Message, reserved_places};
use uproar_core::{AllowOrigin, Verify, lane_calls_limit};
use uproar_http::{Service, SharedTraces};

pub(super) struct Parts {
    pub(super) mesh: Mesh<Message>,
    pub(super) shards: ShardHandle,
    /// The other end of `shards`, one per shard.
    pub(super) controls: Vec<Control>,
    pub(super) chat: Arc<Chat>,
    /// The other end of `chat`.
    pub(super) calls: Calls,
    /// What `chat` asks the other nodes.
    pub(super) surveys: mpsc::Receiver<SurveyCall>,
    pub(super) lane_metrics: Arc<LaneMetrics>,
    pub(super) bus_metrics: Arc<BusMetrics>,
    pub(super) webhooks: Arc<Status>,
    pub(super) outbox: Option<Arc<outbox::Status>>,
    pub(super) service: Arc<Service>,
    pub(super) hooks: Hooks,
}

/// The checks that the shards leave to the HTTP service's code.
pub(super) struct Hooks {
    pub(super) allow_origin: AllowOrigin,
    pub(super) verify: Verify,
}

impl Parts {
    pub(super) fn build(setup: &Setup<'_>) -> Result<Parts> {
        let Setup { options, limits, tls, tokens, store, shards, lanes, seed, revocations, lease, tracer, .. } = setup;
        let mesh = Mesh::new(*shards, *lanes, |from, to| queue_capacity(limits, *shards, from, to))
            .context("can't create the queues between threads")?;
        let (handle, controls) = ShardHandle::new(mesh.shards.iter().map(|port| port.inbox.waker()).collect());
        let lane_metrics = Arc::new(LaneMetrics::default());
        let bus_metrics = Arc::new(BusMetrics::default());
        let (surveys, asked) = mpsc::channel(limits.surveys_limit as usize);
        let bus = ChatBus { state: Arc::clone(&setup.bus), metrics: Arc::clone(&bus_metrics), surveys };
        let certificate = tls.as_ref().map(|tls| Arc::clone(&tls.certificate));
        let process = metrics::Process::new(options.data.clone(), certificate);
        let webhooks = Arc::new(Status::new(&setup.webhooks, store.clock()));
        let outbox = setup.outbox.as_ref().map(|_| Arc::new(outbox::Status::new(store.clock())));
        let (chat, calls) = Chat::new(
            handle.clone(),
            *shards,
            *seed,
            limits.clone(),
            Arc::clone(&lane_metrics),
            bus,
            Arc::clone(&webhooks),
            outbox.clone(),
            process,
            tracer.clone(),
            revocations.clone(),
            lease.clone(),
            setup.is_node.then(|| store.clock()),
        );
        let chat = Arc::new(chat);
        let mut settings = settings::from_options(options, limits)?;
        let public_url = settings.public_url.clone();
        settings.oidc = public_url.and_then(|url| setup.issuers.oidc(setup.outgoing.clone(), url));
        settings.subject_issuer = setup.issuers.subject_issuer();
        let origins = settings.origins.clone();
        let traces = tracer.clone().map(|tracer| tracer as SharedTraces);
        let service = Service::new(Arc::clone(store), Arc::clone(tokens), chat.clone(), settings, traces)
            .context("can't start the password threads")?;
        let tokens = Arc::clone(tokens);
        let hooks = Hooks {
            allow_origin: Arc::new(move |origin, host| origins.allow_upgrade(origin.as_bytes(), host)),
            verify: Arc::new(move |token, now| tokens.verify(token, now)),
        };
        Ok(Parts {
            mesh,
            shards: handle,
            controls,
            chat,
            calls,
            surveys: asked,
            lane_metrics,
            bus_metrics,
            webhooks,
            outbox,
            service,
            hooks,
        })
    }
}

/// Capacity of the queue between two endpoints: room for all calls and answers, and for publications besides.
fn queue_capacity(limits: &Limits, shards: u16, from: Endpoint, to: Endpoint) -> usize {
    let calls = limits.mesh_calls_limit as usize;
    let lane_calls = lane_calls_limit(limits, shards) as usize;
    match (from, to) {
        (Endpoint::Shard(_), Endpoint::Shard(_)) => {
            reserved_places(limits.mesh_calls_limit) + limits.mesh_publications_limit as usize
        }
        (_, Endpoint::Lane(_)) => lane_calls,
        (Endpoint::Lane(_), _) | (_, Endpoint::Http) => 2 * lane_calls.max(calls),
        // What is announced must leave room for answers.
        (_, Endpoint::Bus) => calls + limits.mesh_publications_limit as usize,
        _ => calls,
    }
}
