//! The same as the stories, by chance: a model of the log beside the files.
#![allow(
    clippy::disallowed_methods,
    reason = "these tests play logrotate, in a folder of their own"
)]

use std::collections::HashSet;

use proptest::prelude::*;

use super::tests::{Scene, from_beginning};
use super::*;

/// Something that happens to a log.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Lines(u8),
    Part,
    Poll,
    Settle,
    Rotate,
    /// The writer goes on with the file that was rotated away.
    Late,
    Pack(u8),
    Copytruncate,
    TruncateOnly,
    /// From the last checkpoint, or one of so many before.
    Restart(u8),
}

/// What was written, and what was told.
struct Model {
    scene: Scene,
    /// Lines by file, oldest first: a rotated file ends a line.
    written: Vec<Vec<String>>,
    number: u32,
    part: bool,
    /// Polls since the followed file was rotated by name, if that was the last that happened to it.
    rotated: Option<u32>,
    /// Checkpoints and how much was told until then.
    kept: Vec<(Checkpoint, usize)>,
}

impl Model {
    fn new(poll_octets_max: u64) -> Self {
        let scene = Scene::new(Options { poll_octets_max, line_max: 4000, ..from_beginning() });
        scene.write("mail.log", "");
        let kept = vec![(scene.tail.checkpoint(), 0)];
        let written = vec![Vec::new()];
        Self { scene, written, number: 0, part: false, rotated: None, kept }
    }

    fn line(&mut self) -> String {
        self.number += 1;
        // Of different lengths, some long: fingerprints and ends are then both in and out of reach.
        let length = [0, 3, 40, 700, 3000][self.number as usize % 5];
        format!("{:08} {}.", self.number, "x".repeat(length))
    }

    fn append(&mut self, lines: u8) {
        if let Some(last) =
            self.written.last_mut().and_then(|file| file.last_mut()).filter(|_| self.part)
        {
            self.scene.write("mail.log", " rest\n");
            last.push_str(" rest");
            self.part = false;
        }
        for _ in 0..lines {
            let line = self.line();
            self.scene.write("mail.log", &format!("{line}\n"));
            self.written.last_mut().unwrap().push(line);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Lines(lines) => self.append(lines),
            Happening::Part => {
                self.append(0);
                let line = self.line();
                self.scene.write("mail.log", &line);
                self.written.last_mut().unwrap().push(line);
                self.part = true;
            }
            Happening::Poll => {
                self.scene.poll();
                self.rotated = self.rotated.map(|polls| polls + 1);
                self.keep();
            }
            Happening::Settle => {
                self.scene.settle();
                self.rotated = None;
                self.keep();
            }
            Happening::Rotate => {
                self.scene.rotate();
                self.next();
                self.rotated = Some(0);
            }
            Happening::Late => self.late(),
            Happening::Pack(number) => {
                let name = format!("mail.log.{}", number + 1);
                if self.scene.path(&name).exists() {
                    self.scene.gz(&name);
                    self.rotated = None;
                }
            }
            Happening::Copytruncate => {
                self.scene.copytruncate();
                self.next();
            }
            Happening::TruncateOnly => {
                // What was never seen cannot be missed: checkpoints that saw nothing of it do not
                // count.
                self.scene.settle();
                self.kept.clear();
                self.keep();
                self.scene.truncate();
                self.next();
            }
            Happening::Restart(back) => {
                let last = self.kept.len() - 1;
                let (checkpoint, told) = self.kept[last.saturating_sub(back.into())].clone();
                self.kept.truncate(last.saturating_sub(back.into()) + 1);
                self.scene.told.truncate(told);
                self.scene.restart(&checkpoint);
                // Grace begins anew.
                self.rotated = self.rotated.map(|_| 0).filter(|_| back == 0);
            }
        }
    }

    fn next(&mut self) {
        self.written.push(Vec::new());
        self.part = false;
        self.rotated = None;
    }

    fn late(&mut self) {
        let rotated = self.written.len().checked_sub(2);
        let Some(file) = rotated.filter(|_| self.rotated.is_some_and(|polls| polls < 8)) else {
            return;
        };
        // An empty file is not waited for.
        if self.written[file].is_empty() {
            return;
        }
        let line = self.line();
        let written = &mut self.written[file];
        let open = !std::fs::read(self.scene.path("mail.log.1")).unwrap().ends_with(b"\n");
        if open {
            self.scene.write("mail.log.1", " rest\n");
            written.last_mut().unwrap().push_str(" rest");
        }
        self.scene.write("mail.log.1", &format!("{line}\n"));
        self.written[file].push(line);
    }

    fn keep(&mut self) {
        self.kept.push((self.scene.tail.checkpoint(), self.scene.told.len()));
    }

    fn all(&self) -> Vec<String> {
        self.written.concat()
    }
}

fn happening(truncate_only: bool) -> impl Strategy<Value = Happening> {
    let last = if truncate_only { 2 } else { 0 };
    prop_oneof![
        6 => (1..4_u8).prop_map(Happening::Lines),
        3 => Just(Happening::Part),
        6 => Just(Happening::Poll),
        2 => Just(Happening::Settle),
        3 => Just(Happening::Rotate),
        2 => Just(Happening::Late),
        2 => (0..3_u8).prop_map(Happening::Pack),
        2 => Just(Happening::Copytruncate),
        2 => prop_oneof![3 => Just(0_u8), 2 => 0..6_u8].prop_map(Happening::Restart),
        last => Just(Happening::TruncateOnly),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_line_is_told_once_and_in_order(
        happenings in prop::collection::vec(happening(false), 1..40),
        poll_octets_max in prop_oneof![Just(1_u64), Just(8 << 20)],
    ) {
        let mut model = Model::new(poll_octets_max);
        for happening in happenings {
            model.happen(happening);
        }
        model.append(1);
        model.scene.settle();
        for _ in 0..model.written.len() {
            model.scene.settle();
        }
        prop_assert_eq!(&model.scene.told, &model.all());
        prop_assert_eq!(&model.scene.lost, &[]);
    }

    #[test]
    fn truncation_without_a_copy_is_exact_or_told(
        happenings in prop::collection::vec(happening(true), 1..40),
    ) {
        let mut model = Model::new(8 << 20);
        for happening in happenings {
            model.happen(happening);
        }
        model.append(1);
        for _ in 0..=model.written.len() {
            model.scene.settle();
        }
        if model.scene.lost.is_empty() {
            prop_assert_eq!(&model.scene.told, &model.all());
        }
        let different: HashSet<&String> = model.scene.told.iter().collect();
        prop_assert_eq!(different.len(), model.scene.told.len(), "none twice");
        let all = model.all();
        prop_assert_eq!(model.scene.told.last(), all.last());
    }
}
