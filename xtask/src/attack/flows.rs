//! The order in which scenes are run: what leaves the machine idle runs beside something else.

use std::path::PathBuf;

use super::events::{Cues, Outage, Pause, Rebinding};
use super::judge::{Left, SLOWED, absent};
use super::outside::{Outside, remark};
use super::scenes::{self, Scene, Stage};
use super::tables::Row;
use super::{crash, crowd, display, resolver};
use crate::build::Built;
use crate::shell::{self, Failure};

/// Sandboxes that attack the machine at once: with half a core each, so that two cores are busy.
const ATTACKERS: usize = 4;
/// How often a neighbour is measured at most.
const TRIES: usize = 3;

/// All scenes of a run.
struct Flows<'a> {
    stage: &'a Stage,
    outside: &'a Outside,
    built: &'a Built,
    scenes: &'a [Scene],
}

/// Runs all scenes; only those with attempts of case `only`, if there is one.
pub(super) fn rows(
    stage: &Stage,
    outside: &Outside,
    built: &Built,
    only: Option<u64>,
) -> Result<Vec<Row>, Failure> {
    let scenes = scenes::all(only)?;
    let flows = Flows {
        stage,
        outside,
        built,
        scenes: &scenes,
    };
    shell::step(
        "… attempts on the network, at every level; lying resolvers, outages, uploads, floods, crashes",
    );
    let (mut rows, others) = beside(
        || [flows.network(), flows.flood(), flows.tools()].concat(),
        || Ok::<_, Failure>([flows.on_the_network(), flows.of_the_operator()?].concat()),
    );
    rows.extend(others?);
    shell::step("… escapes, resources, life, artifacts");
    rows.extend(flows.machine());
    if only.is_none_or(|only| only == 54) {
        rows.extend(crowd::rows(stage));
    }
    Ok(rows)
}

/// Two things at once.
fn beside<A: Send, B: Send>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        match one.join() {
            Ok(one) => (one, other),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

impl Flows<'_> {
    fn group(&self, name: &str) -> Vec<&Scene> {
        let scenes = self.scenes.iter();
        scenes.filter(|scene| scene.group() == name).collect()
    }

    fn network(&self) -> Vec<Row> {
        let network = self.group("network");
        let networked = network
            .iter()
            .filter(|scene| scene.level != "isolated")
            .count();
        let mut rebinding = Rebinding::new(self.outside, networked);
        let left = self.stage.run(&network, network.len().max(1), |pid, out| {
            rebinding.meanwhile(pid, out);
        });
        rebinding.finish();
        self.judged(&network, left, None)
    }

    fn on_the_network(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let outage = self.group("outage");
        if !outage.is_empty() {
            let mut event = Outage::new(self.outside);
            let left = self
                .stage
                .run(&outage, 1, |pid, out| event.meanwhile(pid, out));
            let left = match (left, event.happened()) {
                (Ok(_), false) => Err(Failure::new("there was no proxy to end")),
                (left, _) => left,
            };
            rows.extend(self.judged(&outage, left, None));
        }
        let upload = self.group("upload");
        let mut event = Outage::only_let_in(self.outside);
        let left = self
            .stage
            .run(&upload, 1, |pid, out| event.meanwhile(pid, out));
        rows.extend(self.judged(&upload, left, None));
        if let Some(scene) = self.group("resolver").first() {
            rows.extend(resolver::rows(scene, &resolver::program(self.built)));
        }
        rows
    }

    fn flood(&self) -> Vec<Row> {
        let flood = self.group("flood");
        let mut cues = Cues::new(&[("flooded", "flood-neighbour"), ("tried", "flood")]);
        let left = self
            .stage
            .run(&flood, 2, |pid, out| cues.meanwhile(pid, out));
        self.judged(&flood, left, None)
    }

    fn tools(&self) -> Vec<Row> {
        let tools = self.group("tools");
        let left = self.stage.run(&tools, 1, |_, _| {});
        self.judged(&tools, left, None)
    }

    fn machine(&self) -> Vec<Row> {
        let mut rows = self.neighbour();
        let (first, second) = beside(
            || {
                let machine = self.group("machine");
                let left = self.stage.run(&machine, ATTACKERS, |_, _| {});
                self.judged(&machine, left, None)
            },
            || [self.siblings(), self.paused()].concat(),
        );
        rows.extend(first);
        rows.extend(second);
        rows
    }

    /// A neighbour beside an attack, between two times that it is alone. What else the machine had
    /// to do meanwhile may look like a disturbance; it does not do so three times.
    fn neighbour(&self) -> Vec<Row> {
        let scenes = self.group("beside");
        let mut rows = Vec::new();
        for _ in 0..TRIES {
            let before = self.quiet();
            let left = self.stage.run(&scenes, scenes.len().max(1), |_, _| {});
            let quiet = match (before, self.quiet()) {
                (Some(one), Some(other)) => Some((one.0.max(other.0), one.1.max(other.1))),
                _ => None,
            };
            rows = self.judged(&scenes, left, quiet);
            if !rows.iter().any(|row| row.observed.starts_with(SLOWED)) {
                break;
            }
        }
        rows
    }

    /// What the neighbour measures when nothing is beside it.
    fn quiet(&self) -> Option<(f64, f64)> {
        let scenes = self.group("quiet");
        let folder = self.stage.run(&scenes, 1, |_, _| {}).ok()??;
        Left::read(folder).times("neighbour-alone")
    }

    fn siblings(&self) -> Vec<Row> {
        let siblings = self.group("siblings");
        let mut cues = Cues::new(&[("held", "sibling"), ("tried", "sibling-hog")]);
        let left = self
            .stage
            .run(&siblings, 2, |pid, out| cues.meanwhile(pid, out));
        self.judged(&siblings, left, None)
    }

    fn paused(&self) -> Vec<Row> {
        let paused = self.group("paused");
        let mut event = Pause::default();
        let left = self
            .stage
            .run(&paused, 1, |pid, out| event.meanwhile(pid, out, "paused"));
        let left = match (left, event.happened()) {
            (Ok(Some(_)), false) => Err(Failure::new("there was no container to pause")),
            (left, _) => left,
        };
        self.judged(&paused, left, None)
    }

    fn of_the_operator(&self) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        let oracle = self.group("oracle");
        let left = self.stage.run(&oracle, 2, |_, _| {});
        rows.extend(self.judged(&oracle, left, None));
        if let Some(scene) = self.group("display").first() {
            rows.extend(display::rows(self.stage, scene));
        }
        let scenes = self.scenes.iter();
        let crashes: Vec<&Scene> = scenes
            .filter(|scene| scene.group().starts_with("crash"))
            .collect();
        rows.extend(crash::rows(self.stage, &crashes)?);
        Ok(rows)
    }

    fn judged(
        &self,
        scenes: &[&Scene],
        left: Result<Option<PathBuf>, Failure>,
        quiet: Option<(f64, f64)>,
    ) -> Vec<Row> {
        match left {
            Ok(None) => Vec::new(),
            Ok(Some(folder)) => {
                let left = Left::read(folder);
                scenes
                    .iter()
                    .flat_map(|scene| left.rows(scene, self.stage, self.outside, quiet))
                    .collect()
            }
            Err(failure) => {
                remark(&failure.to_string());
                scenes
                    .iter()
                    .flat_map(|scene| absent(scene, "its run failed"))
                    .collect()
            }
        }
    }
}
