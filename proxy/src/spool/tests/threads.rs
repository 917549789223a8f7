//! The spool as it runs: its own thread, a real disk, many sessions.

use disk::RealDisk;
use tokio::task::JoinSet;

use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn open(folder: &Path) -> (Spool, RecoveryReport) {
    let disk = Arc::new(RealDisk::new(folder));
    let (spool, report) = Spool::open(disk, &config(), key(), &gates()).unwrap();
    (spool, report)
}

async fn hold(spool: &Spool, id: u64, bytes: &[u8]) -> Result<SpoolId, HoldError> {
    let reservation = spool.reserve(bytes.len() as u64)?;
    let name = TransactionId::from_u64(id);
    let mut writer =
        spool.begin(reservation, name, &gate_of(id), Lane::Mail, envelope(1), arrival())?;
    for piece in bytes.chunks(10_000) {
        writer.write(piece).await?;
    }
    writer.commit(None).await
}

#[test]
fn many_sessions_hold_load_and_discharge_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let runtime = runtime();
    runtime.block_on(async {
        let mut sessions = JoinSet::new();
        for id in 1..=400_u64 {
            let spool = spool.clone();
            sessions.spawn(async move {
                let length = if id % 40 == 0 { 300_000 } else { 2_000 };
                let bytes = data(id, length);
                let held = hold(&spool, id, &bytes).await.unwrap();
                assert_eq!(read_all(&spool, id).unwrap(), bytes);
                if id % 2 == 0 {
                    spool.mark(held, vec![(0, OFFERED)]).await.unwrap();
                    spool.mark(held, vec![(0, relayed())]).await.unwrap();
                }
            });
        }
        while let Some(session) = sessions.join_next().await {
            session.unwrap();
        }
    });
    assert_eq!(spool.totals()[0].all().messages, 0);
    assert_eq!(spool.totals()[1].all().messages, 200);
    spool.close();
    spool.close();
    let closed = runtime.block_on(hold(&spool, 999, b"x"));
    assert!(matches!(closed, Err(HoldError::Closed)), "{closed:?}");
    assert_eq!(read_all(&spool, 1).unwrap(), data(1, 2_000), "reading goes on");
    drop(spool);

    let (spool, report) = open(folder.path());
    assert_eq!((report.messages, report.uncertain), (200, 0));
    assert!(report.damaged.is_empty() && report.set_aside.is_empty());
    assert_eq!(read_all(&spool, 1).unwrap(), data(1, 2_000));
    let second = Spool::open(Arc::new(RealDisk::new(folder.path())), &config(), key(), &gates());
    assert!(matches!(second.err().unwrap(), OpenError::Locked { .. }));
    spool.close();
    let offline = offline::open_readonly(&folder.path().join("spool"), None).unwrap();
    assert_eq!(offline.summaries().len(), 200);
}

#[test]
fn segments_exist_as_soon_as_one_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path());
    let there = || segments_exist(&disk, Path::new("spool")).unwrap();
    assert!(!there());
    let (spool, _) = open(folder.path());
    assert!(!there());
    runtime().block_on(hold(&spool, 1, b"x")).unwrap();
    assert!(there());
    spool.close();
}
