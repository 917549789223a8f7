//! What was measured, as values: runs, ratios within one round, targets; as a table and as JSON.
//!
//! Not here: how it was measured (`scenario`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer, Serialize};

/// One run of one component.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Run {
    /// What was measured: `lockgate`, `direct`, or a peer.
    pub(crate) component: String,
    /// Messages.
    pub(crate) messages: u64,
    /// Messages per second.
    pub(crate) per_second: f64,
    /// Latency from MAIL (with new connections: from connect) to the final reply, in microseconds;
    /// not a number where there is none, as in a replay: `null` in JSON.
    #[serde(deserialize_with = "or_none")]
    pub(crate) p50_us: f64,
    /// The same, 99th percentile.
    #[serde(deserialize_with = "or_none")]
    pub(crate) p99_us: f64,
    /// CPU time per message of the component in microseconds; of `direct`: of the generator.
    pub(crate) cpu_us: f64,
}

/// Smallest, middle and largest of a figure over the rounds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Smallest.
    pub(crate) min: f64,
    /// Middle.
    pub(crate) median: f64,
    /// Largest.
    pub(crate) max: f64,
}

/// A ratio of lockgate to another component, each time within one round.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Ratio {
    /// Which component stands above the line.
    pub(crate) of: String,
    /// Which below.
    pub(crate) to: String,
    /// CPU time per message.
    pub(crate) cpu: Option<Spread>,
    /// Messages per second.
    pub(crate) rate: Spread,
}

/// A target and what came of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Target {
    /// `P1` to `P11`.
    pub(crate) id: String,
    /// What is asked.
    pub(crate) words: String,
    /// The bound.
    pub(crate) bound: f64,
    /// Whether the bound is a ceiling; else it is a floor.
    pub(crate) at_most: bool,
    /// The figure: the median over the rounds.
    pub(crate) value: f64,
}

impl Target {
    /// Was it reached?
    pub(crate) fn met(&self) -> bool {
        if self.at_most { self.value <= self.bound } else { self.value >= self.bound }
    }
}

/// One scenario.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Scenario {
    /// Its name on the command line.
    pub(crate) name: String,
    /// What it does.
    pub(crate) words: String,
    /// Rounds; in each, runs in the order in which they were made.
    pub(crate) rounds: Vec<Vec<Run>>,
    /// Ratios.
    pub(crate) ratios: Vec<Ratio>,
    /// Targets.
    pub(crate) targets: Vec<Target>,
    /// What else is to be known, such as peers that are not installed.
    pub(crate) notes: Vec<String>,
}

/// A file of results.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Report {
    /// The machine and the versions.
    pub(crate) machine: serde_json::Value,
    /// How it was measured.
    pub(crate) method: String,
    /// The scenarios.
    pub(crate) scenarios: Vec<Scenario>,
}

/// JSON has no word for a figure that is none: it is written as `null`.
fn or_none<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

impl Spread {
    /// Of figures; none of no figures. The middle of an even number is between the two middle ones.
    pub(crate) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.retain(|figure| figure.is_finite());
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let half = figures.len() / 2;
        let median = if figures.len().is_multiple_of(2) {
            f64::midpoint(figures[half - 1], figures[half])
        } else {
            figures[half]
        };
        Some(Self { min, median, max })
    }
}

impl Scenario {
    /// A figure of a component, over the rounds.
    pub(crate) fn spread(&self, component: &str, figure: impl Fn(&Run) -> f64) -> Option<Spread> {
        let runs = self.rounds.iter().flatten().filter(|run| run.component == component);
        Spread::of(runs.map(figure).collect())
    }

    /// A figure made of two components' runs of the same round.
    pub(crate) fn within_rounds(
        &self,
        first: &str,
        second: &str,
        figure: impl Fn(&Run, &Run) -> f64,
    ) -> Option<Spread> {
        let find =
            |round: &'_ [Run], name: &str| round.iter().find(|run| run.component == name).cloned();
        let figures = self
            .rounds
            .iter()
            .filter_map(|round| Some(figure(&find(round, first)?, &find(round, second)?)));
        Spread::of(figures.collect())
    }

    /// Adds the ratios of every `lockgate` to everything else.
    pub(crate) fn compare(&mut self) {
        let mut names: Vec<String> = Vec::new();
        for run in self.rounds.iter().flatten() {
            if !names.contains(&run.component) {
                names.push(run.component.clone());
            }
        }
        let (ours, others): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| name.starts_with("lockgate"));
        for of in &ours {
            for to in &others {
                let rate = self.within_rounds(of, to, |a, b| a.per_second / b.per_second);
                let cpu = self.within_rounds(of, to, |a, b| a.cpu_us / b.cpu_us);
                if let Some(rate) = rate {
                    let cpu = if to == "direct" { None } else { cpu };
                    self.ratios.push(Ratio { of: of.clone(), to: to.clone(), cpu, rate });
                }
            }
        }
    }

    /// Adds a target if its figure was measured.
    pub(crate) fn ask(
        &mut self,
        id: &str,
        words: &str,
        at_most: bool,
        bound: f64,
        value: Option<f64>,
    ) {
        match value {
            Some(value) => self.targets.push(Target {
                id: id.to_owned(),
                words: words.to_owned(),
                bound,
                at_most,
                value,
            }),
            None => self.notes.push(format!("{id}: {words}: not measured")),
        }
    }

    /// For people.
    pub(crate) fn print(&self) {
        println!("\n{}: {}", self.name, self.words);
        println!(
            "{:<22} {:>10} {:>9} {:>9} {:>9}   (medians of {} rounds)",
            "component",
            "messages/s",
            "p50 us",
            "p99 us",
            "CPU us",
            self.rounds.len()
        );
        let mut seen: Vec<&str> = Vec::new();
        for run in self.rounds.iter().flatten() {
            if seen.contains(&run.component.as_str()) {
                continue;
            }
            seen.push(&run.component);
            let median = |figure: fn(&Run) -> f64| {
                self.spread(&run.component, figure).map_or(f64::NAN, |spread| spread.median)
            };
            println!(
                "{:<22} {:>10.0} {:>9.0} {:>9.0} {:>9.1}",
                run.component,
                median(|run| run.per_second),
                median(|run| run.p50_us),
                median(|run| run.p99_us),
                median(|run| run.cpu_us)
            );
        }
        for ratio in &self.ratios {
            let rate = ratio.rate;
            print!(
                "{} / {}: messages/s {:.2} {:.2} {:.2}",
                ratio.of, ratio.to, rate.min, rate.median, rate.max
            );
            if let Some(cpu) = ratio.cpu {
                print!(", CPU {:.2} {:.2} {:.2}", cpu.min, cpu.median, cpu.max);
            }
            println!(" (min median max)");
        }
        for target in &self.targets {
            println!("{}", target.line());
        }
        for note in &self.notes {
            println!("note: {note}");
        }
    }
}

impl Target {
    /// One line.
    pub(crate) fn line(&self) -> String {
        let sign = if self.at_most { "<=" } else { ">=" };
        let met = if self.met() { "met" } else { "MISSED" };
        let (value, bound) = (figure(self.value), figure(self.bound));
        format!("{} {}: {value} (target {sign} {bound}): {met}", self.id, self.words)
    }
}

/// A figure with three digits that count.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Report {
    /// Reads a file of results.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Puts a scenario in; one of the same name is replaced.
    pub(crate) fn put(&mut self, scenario: Scenario) {
        match self.scenarios.iter_mut().find(|other| other.name == scenario.name) {
            Some(place) => *place = scenario,
            None => self.scenarios.push(scenario),
        }
    }

    /// Writes the file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// The targets as a table in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text =
            String::from("| | scenario | target | measured | |\n|---|---|---|--:|---|\n");
        for scenario in &self.scenarios {
            for target in &scenario.targets {
                let sign = if target.at_most { "≤" } else { "≥" };
                let met = if target.met() { "met" } else { "**missed**" };
                text.push_str(&format!(
                    "| {} | `{}` | {} {sign} {} | {} | {met} |\n",
                    target.id,
                    scenario.name,
                    target.words,
                    figure(target.bound),
                    figure(target.value)
                ));
            }
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn run(component: &str, per_second: f64, cpu_us: f64) -> Run {
        let component = component.to_owned();
        Run { component, messages: 1, per_second, p50_us: 1.0, p99_us: 2.0, cpu_us }
    }

    fn scenario() -> Scenario {
        Scenario {
            name: "pass".into(),
            words: String::new(),
            rounds: vec![
                vec![run("lockgate", 10.0, 5.0), run("peer", 5.0, 10.0)],
                vec![run("peer", 20.0, 1.0), run("lockgate", 10.0, 2.0)],
                vec![run("lockgate", 30.0, 3.0), run("peer", 10.0, 3.0)],
            ],
            ratios: Vec::new(),
            targets: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn ratios_are_made_within_a_round_whatever_the_order() {
        let mut scenario = scenario();
        scenario.compare();
        let ratio = &scenario.ratios[0];
        assert_eq!(ratio.rate, Spread { min: 0.5, median: 2.0, max: 3.0 });
        assert_eq!(ratio.cpu, Some(Spread { min: 0.5, median: 1.0, max: 2.0 }));
    }

    #[test]
    fn a_target_is_met_on_its_side_of_the_bound() {
        let mut scenario = scenario();
        scenario.ask("P1", "CPU", true, 1.0, Some(1.0));
        scenario.ask("P1", "rate", false, 1.1, Some(1.0));
        scenario.ask("P1", "nothing", false, 1.1, None);
        let met: Vec<bool> = scenario.targets.iter().map(Target::met).collect();
        assert_eq!(met, [true, false]);
        assert_eq!(scenario.notes.len(), 1);
    }

    #[test]
    fn a_report_is_read_as_it_was_written_and_a_scenario_is_replaced() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut report = Report::default();
        report.put(scenario());
        report.put(scenario());
        let mut replay = run("lockgate", 1.0, 1.0);
        replay.p50_us = f64::NAN;
        report.scenarios[0].rounds[2].push(replay);
        report.write(file.path()).unwrap();
        let again = Report::read(file.path()).unwrap();
        assert_eq!(again.scenarios.len(), 1);
        assert_eq!(again.scenarios[0].rounds.len(), 3);
        assert!(again.scenarios[0].rounds[2][2].p50_us.is_nan());
    }

    #[test]
    fn the_middle_of_two_figures_favours_neither() {
        let spread = Spread::of(vec![6.0, 26.0, f64::NAN]);
        assert_eq!(spread, Some(Spread { min: 6.0, median: 16.0, max: 26.0 }));
        assert_eq!(Spread::of(vec![f64::NAN]), None);
    }
}
