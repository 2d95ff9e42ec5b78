//! Proves that `uproar-bench size` measures what docs/operations.md says about the size of a machine. The amounts are
//! small, so only the size of an empty server and of a message mean anything here.

use uproar_bench::client::Cores;
use uproar_bench::matrix::workloads::{Driver, Subject};
use uproar_bench::server::Environment;
use uproar_bench::size::{Amounts, TEXT_BYTES, measure};

#[tokio::test]
async fn the_size_of_a_machine_is_measured() {
    let size = tokio::task::spawn_blocking(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cores = Cores::all().expect("the cores");
        let (uproar, peers) = (env!("CARGO_BIN_EXE_uproar").into(), folder.path().into());
        let mut environment = Environment::new(uproar, peers, folder.path().into(), cores.clone(), cores);
        let subject = Subject::Uproar { driver: Driver::Auto, shards: 1 };
        measure(&mut environment, subject, Amounts { connections: 100, rooms: 20, messages: 5_000 })
    });
    let size = size.await.expect("the measurement ends").expect("a measurement");
    assert!(size.empty > 1e6, "{size:?}");
    // A message is stored once, and its id twice.
    let least = (TEXT_BYTES + 2 * 36) as f64;
    for message in [size.message_on_sqlite, size.message_on_postgres] {
        assert!((least..10.0 * least).contains(&message), "{size:?}");
    }
    assert_eq!(size.to_markdown().lines().count(), 8, "{}", size.to_markdown());
}
