//! The picture of a file of results: bars of CPU time per message and of messages per second, as SVG.

use std::fmt::Write as _;

use crate::report::{Report, Run, Scenario, figure};

const WIDTH: f64 = 860.0;
const LABEL: f64 = 190.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;

/// One group of bars: a scenario, what is shown of it, and of whom.
struct Panel {
    scenario: &'static str,
    title: &'static str,
    unit: &'static str,
    figure: fn(&Run) -> f64,
}

const PANELS: [Panel; 4] = [
    Panel {
        scenario: "pass-many",
        title: "Pass, 100 connections, 10 KiB: CPU per message (less is better)",
        unit: "us",
        figure: |run| run.cpu_us,
    },
    Panel {
        scenario: "pass-new",
        title: "Pass, a new connection per message: CPU per message (less is better)",
        unit: "us",
        figure: |run| run.cpu_us,
    },
    Panel {
        scenario: "hold-100",
        title: "Hold, durable before the reply: messages per second (more is better)",
        unit: "/s",
        figure: |run| run.per_second,
    },
    Panel {
        scenario: "replay",
        title: "Replay of held mail: messages per second (more is better)",
        unit: "/s",
        figure: |run| run.per_second,
    },
];

/// Draws the panels whose scenarios were measured.
pub(crate) fn draw(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 34.0;
    for panel in &PANELS {
        let Some(scenario) = report.scenarios.iter().find(|one| one.name == panel.scenario) else {
            continue;
        };
        y = group(panel, scenario, y, &mut body);
    }
    let fact = |key: &str| report.machine[key].as_str().unwrap_or_default().to_owned();
    let small = format!(
        "{} · {} CPUs, {} · medians of alternating runs on one machine; only ratios travel",
        fact("date").split('T').next().unwrap_or_default(),
        report.machine["cpus"],
        fact("cpu")
    );
    // Writing to a String cannot fail.
    writeln!(body, "<text class=\"small\" x=\"8\" y=\"{:.0}\">{}</text>", y + 6.0, escape(&small))
        .ok();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {:.0}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<style>text{{fill:#334}}.title{{font-weight:bold}}\
         .small{{font-size:11px;fill:#778}}.ours{{fill:#2a7de1}}.other{{fill:#9aa5b1}}\
         @media (prefers-color-scheme: dark){{text{{fill:#dde}}.small{{fill:#99a}}}}</style>\n{body}</svg>\n",
        y + 18.0
    )
}

fn group(panel: &Panel, scenario: &Scenario, mut y: f64, body: &mut String) -> f64 {
    writeln!(body, "<text class=\"title\" x=\"8\" y=\"{y:.0}\">{}</text>", escape(panel.title))
        .ok();
    y += 12.0;
    let mut bars: Vec<(String, f64)> = Vec::new();
    for run in scenario.rounds.iter().flatten() {
        if run.component != "direct" && !bars.iter().any(|(name, _)| *name == run.component) {
            let median = scenario.spread(&run.component, panel.figure);
            bars.push((run.component.clone(), median.map_or(0.0, |spread| spread.median)));
        }
    }
    bars.sort_by_key(|(name, _)| !name.starts_with("lockgate"));
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    for (name, value) in &bars {
        let length = (WIDTH - LABEL - 110.0) * value / most;
        let class = if name.starts_with("lockgate") { "ours" } else { "other" };
        writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LABEL:.0}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"{BAR:.0}\" rx=\"2\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{} {}</text>",
            LABEL - 8.0,
            y + 14.0,
            escape(name),
            LABEL + length + 6.0,
            y + 14.0,
            figure(*value),
            panel.unit
        )
        .ok();
        y += STEP;
    }
    y + 28.0
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_of_a_measured_panel_has_a_bar_and_hostile_names_stay_text() {
        let run = |component: &str| Run {
            component: component.to_owned(),
            messages: 1,
            per_second: 1.0,
            p50_us: 1.0,
            p99_us: 1.0,
            cpu_us: 2.0,
        };
        let mut report = Report::default();
        report.put(Scenario {
            name: "hold-100".into(),
            words: String::new(),
            rounds: vec![vec![run("lockgate"), run("<peer>"), run("direct")]],
            ratios: Vec::new(),
            targets: Vec::new(),
            notes: Vec::new(),
        });
        let svg = draw(&report);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("&lt;peer&gt;"));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
