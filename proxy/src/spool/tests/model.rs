//! The spool against a model of it: random actions, crashes among them.

use std::collections::BTreeMap;

use disk::Crash;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Hold { length: usize, recipients: usize },
    Begin { length: usize },
    Abandon,
    Finish,
    Mark { message: prop::sample::Index, path: prop::sample::Index, mark: Mark },
    FailNext { after: u64 },
    Restart,
    Crash(Crash),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let length = prop_oneof![0..200_usize, 0..200_000_usize];
    let mark = prop_oneof![
        Just(OFFERED),
        Just(due()),
        Just(relayed()),
        Just(Mark::Kept { why: Kept::Refused, reply: "550 no".into() }),
    ];
    let crash =
        prop_oneof![Just(Crash::Lost), Just(Crash::Kept), (0..99_u64).prop_map(Crash::Torn)];
    let action = prop_oneof![
        6 => (length.clone(), 1..4_usize)
            .prop_map(|(length, recipients)| Action::Hold { length, recipients }),
        2 => (65_000..300_000_usize).prop_map(|length| Action::Begin { length }),
        1 => Just(Action::Abandon),
        2 => Just(Action::Finish),
        8 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), mark)
            .prop_map(|(message, path, mark)| Action::Mark { message, path, mark }),
        1 => (0..6_u64).prop_map(|after| Action::FailNext { after }),
        1 => Just(Action::Restart),
        2 => crash.prop_map(Action::Crash),
    ];
    prop::collection::vec(action, 1..40)
}

/// What must be there: messages promised, with the states that are possible for each path.
#[derive(Clone, Debug)]
struct Known {
    length: usize,
    paths: Vec<Vec<PathState>>,
}

#[derive(Default)]
struct Model {
    held: BTreeMap<u64, Known>,
    /// Never promised, and possibly there all the same after a crash: a lost reply.
    doubtful: BTreeMap<u64, usize>,
    next_id: u64,
}

impl Model {
    fn check(&mut self, bench: &Bench) {
        assert!(bench.spool.damaged().is_empty(), "{:?}", bench.spool.damaged());
        let found = bench.ids();
        for id in &found {
            if let Some(length) = self.doubtful.remove(id) {
                assert_eq!(read_all(&bench.spool, *id).unwrap(), data(*id, length));
                let paths = bench.states(*id).into_iter().map(|state| vec![state]).collect();
                self.held.insert(*id, Known { length, paths });
            }
            let known = self.held.get_mut(id);
            let known = known.unwrap_or_else(|| panic!("{id} was never given, or discharged"));
            assert_eq!(read_all(&bench.spool, *id).unwrap(), data(*id, known.length));
            for (state, possible) in bench.states(*id).into_iter().zip(&mut known.paths) {
                assert!(possible.contains(&state), "{id}: {state:?}, not {possible:?}");
                // What was found is what is durable now.
                *possible = vec![state];
            }
        }
        self.held.retain(|id, known| {
            let there = found.contains(id);
            let may_be_done = known.paths.iter().all(|path| path.iter().any(PathState::is_done));
            assert!(there || may_be_done, "{id} was promised and is gone: {known:?}");
            there
        });
    }
}

fn run(actions: Vec<Action>) {
    let mut disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    let mut model = Model { next_id: 1, ..Model::default() };
    let mut open: Option<(Writer, u64, usize)> = None;
    for action in actions {
        match action {
            Action::Hold { length, recipients } => {
                let id = model.next_id;
                model.next_id += 1;
                match bench.hold(id, recipients, &data(id, length)) {
                    Ok(_) => {
                        let paths = vec![vec![PathState::FRESH]; recipients];
                        model.held.insert(id, Known { length, paths });
                    }
                    Err(_) => _ = model.doubtful.insert(id, length),
                }
            }
            Action::Begin { length } => {
                let id = model.next_id;
                model.next_id += 1;
                let mut writer = bench.writer(id, 1).unwrap();
                bench.wait(writer.write(&data(id, length))).unwrap();
                bench.drive();
                open = Some((writer, id, length));
            }
            Action::Abandon => open = None,
            Action::Finish => {
                if let Some((writer, id, length)) = open.take() {
                    match bench.wait(writer.commit(None)) {
                        Ok(_) => {
                            let paths = vec![vec![PathState::FRESH]];
                            model.held.insert(id, Known { length, paths });
                        }
                        Err(_) => _ = model.doubtful.insert(id, length),
                    }
                }
            }
            Action::Mark { message, path, mark } => {
                let ids: Vec<u64> = model.held.keys().copied().collect();
                if !ids.is_empty() {
                    let id = *message.get(&ids);
                    try_mark(&mut bench, &mut model, id, &path, &mark);
                }
            }
            Action::FailNext { after } => {
                disk.fail_at(disk.operations() + after, io::ErrorKind::Other);
            }
            Action::Restart => {
                open = None;
                bench.close();
                disk = disk.after_crash(Crash::Kept);
                bench = Bench::open(&disk);
                model.check(&bench);
            }
            Action::Crash(crash) => {
                open = None;
                drop(bench);
                disk = disk.after_crash(crash);
                bench = Bench::open(&disk);
                model.check(&bench);
            }
        }
    }
    let found = Bench::open(&disk.after_crash(Crash::Lost));
    model.check(&found);
}

fn try_mark(
    bench: &mut Bench,
    model: &mut Model,
    id: u64,
    path: &prop::sample::Index,
    mark: &Mark,
) {
    let known = model.held.get_mut(&id).unwrap();
    let path = path.index(known.paths.len());
    let possible = &mut known.paths[path];
    let shown = bench.states(id)[path].clone();
    match bench.mark(spool_id(id), path as u32, mark.clone()) {
        Ok(()) => *possible = vec![shown.after(mark)],
        // It may be on disk or not; the index says what it said.
        Err(_) => possible.push(shown.after(mark)),
    }
    if bench.spool.summary(spool_id(id)).is_none() {
        assert!(known.paths.iter().all(|path| path.iter().all(PathState::is_done)));
        model.held.remove(&id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_spool_does_what_its_model_says(actions in actions()) {
        run(actions);
    }
}
