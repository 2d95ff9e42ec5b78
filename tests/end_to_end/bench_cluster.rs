//! Proves that `uproar-bench cluster` measures nodes. How fast they are means nothing here.

use uproar_bench::client::Cores;
use uproar_bench::cluster::{self, Transport};
use uproar_bench::matrix::bars::Verdict;
use uproar_bench::server::Environment;

#[tokio::test]
async fn the_latency_between_nodes_is_measured() {
    let outcomes = tokio::task::spawn_blocking(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cores = Cores::all().expect("the cores");
        let (uproar, peers) = (env!("CARGO_BIN_EXE_uproar").into(), folder.path().into());
        let mut environment = Environment::new(uproar, peers, folder.path().into(), cores.clone(), cores);
        let rows = cluster::select(&["latency".to_owned()]).expect("a measurement of this name");
        cluster::measure(&mut environment, &Transport::Postgres, &rows, 1)
    });
    let outcomes = outcomes.await.expect("the measurement ends");
    assert_eq!(outcomes.len(), 1);
    // A run with faults has no value.
    assert!(!matches!(outcomes[0].verdict, Verdict::NotMeasured(_)), "{:?}", outcomes[0]);
    assert!(outcomes[0].spread.is_some(), "{:?}", outcomes[0]);
}
