//! What figures are made of: series, ends, axes, labels; and that the same results give the same bytes.

mod common;

use std::fs;

use common::{Fake, Fate};
use sweep_report::pairs::Seeds;
use sweep_report::{Body, Drawn, Error, Figure, Form, Key, Panel, Series, draw, page, write};

/// Two backbones, three datasets, standard fine-tuning and three target epsilons under two schedules, two seeds.
const PHENOMENON: &str = "
name: small
run: {epochs: 12, evaluation: {max_epsilon: 8/255}, learning_rate_schedule: {kind: constant}}
matrix:
  backbone: [a, b]
  dataset: [shapes, blobs, glyphs]
  target_epsilon: [0, 2/255, 4/255, 8/255]
  epsilon_schedule: [{kind: none}, {kind: fixed}, {kind: ramp, start: 3, end: 9}]
  seed: [0, 1]
exclude:
  - {target_epsilon: 0, epsilon_schedule: {kind: fixed}}
  - {target_epsilon: 0, epsilon_schedule: {kind: ramp, start: 3, end: 9}}
  - {target_epsilon: 2/255, epsilon_schedule: {kind: none}}
  - {target_epsilon: 4/255, epsilon_schedule: {kind: none}}
  - {target_epsilon: 8/255, epsilon_schedule: {kind: none}}
backbones:
  a: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}, weights: {kind: random}}
  b: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 1}, weights: {kind: random}}
";

/// An ablation of the ramp's ends, and nothing else.
const ABLATION: &str = "
name: ablation
run: {backbone: a, dataset: shapes, target_epsilon: 4/255, epochs: 12, evaluation: {max_epsilon: 4/255}, learning_rate_schedule: {kind: constant}}
matrix:
  epsilon_schedule:
    - {kind: fixed}
    - {kind: warmup, end: 3}
    - {kind: warmup, end: 9}
    - {kind: ramp, start: 3, end: 9}
    - {kind: ramp, start: 3, end: 12}
    - {kind: step, start: 3}
backbones:
  a: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}, weights: {kind: random}}
";

/// Classes for which 5 % accuracy is no guess.
const MANY: u32 = 100;

fn fake(yaml: &str, classes: u32, fate: impl Fn(usize, &sweep_core::spec::RunSpec) -> Fate) -> Fake {
    Fake::new(yaml, classes, |_| {}, fate)
}

fn finished(yaml: &str) -> Fake {
    fake(yaml, MANY, |_, _| Fate::Succeeds)
}

fn figure<'a>(drawn: &'a Drawn, name: &str) -> &'a Figure {
    drawn.figures.iter().find(|figure| figure.name == name).unwrap_or_else(|| panic!("no figure {name}"))
}

fn series(panel: &Panel) -> &[Series] {
    let Body::Lines { series, .. } = &panel.body else { panic!("{} has no lines", panel.title) };
    series
}

#[test]
fn a_complete_sweep_gives_every_figure_but_the_ablation() {
    let drawn = draw(&finished(PHENOMENON).material());
    let shapes: Vec<(&str, usize, usize)> =
        drawn.figures.iter().map(|figure| (figure.name, figure.panels.len(), figure.legend.len())).collect();
    assert_eq!(
        shapes,
        [
            ("accuracy-over-target-epsilon", 4, 3),
            ("schedules", 3, 2),
            ("validation-curves", 12, 5),
            ("accuracy-over-radius", 18, 3),
            ("aggregated", 18, 2),
            ("training-curves", 18, 5),
            ("delay-over-target-epsilon", 4, 3),
            ("severity-over-delay", 4, 3),
        ]
    );
    let omitted: Vec<&str> = drawn.omitted.iter().map(|omitted| omitted.reference).collect();
    assert_eq!(omitted, ["Table 7", "Figure 7", "Figure 10"]);
}

#[test]
fn accuracy_over_the_target_begins_with_standard_fine_tuning() {
    let material = finished(PHENOMENON).material();
    let drawn = draw(&material);
    for panel in &figure(&drawn, "accuracy-over-target-epsilon").panels {
        assert_eq!(series(panel).len(), 3, "one curve a dataset");
        for series in series(panel) {
            let places: Vec<f64> = series.points.iter().map(|point| point.x).collect();
            assert_eq!(places, [0.0, 2.0, 4.0, 8.0]);
            assert!(series.points.iter().all(|point| point.n == 2), "two seeds a point");
            let first = &series.points[0];
            let run = material.runs.iter().find(|run| run.result.id == first.run).unwrap();
            assert!(run.is_standard && run.result.dataset == series.label);
        }
    }
}

#[test]
fn schedules_are_those_that_training_used() {
    let drawn = draw(&finished(PHENOMENON).material());
    let panel = &figure(&drawn, "schedules").panels[1];
    assert_eq!(panel.title, "target epsilon 4/255");
    let [fixed, ramp] = series(panel) else { panic!("two schedules") };
    assert!(fixed.points.iter().all(|point| (point.y - 4.0).abs() < 1e-9));
    // Epochs count from 1 here: the schedule's epoch 3 is the fourth, and still has no attack.
    let radius = |epoch: usize| ramp.points[epoch - 1].y;
    assert_eq!((radius(1), radius(4), radius(10)), (0.0, 0.0, 4.0));
    assert!((radius(5) - 4.0 / 6.0).abs() < 1e-9);
}

#[test]
fn shaded_areas_are_expected_robustness() {
    let material = finished(PHENOMENON).material();
    let drawn = draw(&material);
    let panels = &figure(&drawn, "accuracy-over-radius").panels;
    let panel = panels.iter().find(|panel| panel.title == "a, blobs, 4/255").unwrap();
    for series in series(panel).iter().filter(|series| series.label != "standard") {
        let end = series.shaded_to.unwrap();
        let inside: Vec<_> = series.points.iter().filter(|point| point.x <= end).collect();
        let area: f64 =
            inside.windows(2).map(|pair| (pair[1].x - pair[0].x) * f64::midpoint(pair[0].y, pair[1].y)).sum();
        let runs = material.runs.iter().filter(|run| {
            let result = &run.result;
            run.subject() == "a"
                && result.dataset == "blobs"
                && run.target() == 4.0
                && run.schedule() == series.label
        });
        let expected: Vec<f64> = runs.map(|run| run.result.expected_robustness.unwrap() * 100.0).collect();
        let mean = expected.iter().sum::<f64>() / expected.len() as f64;
        assert!((area / end - mean).abs() < 1e-9, "{}", series.label);
    }
}

#[test]
fn bars_average_settings_that_are_complete_only() {
    let is_hole = |spec: &sweep_core::spec::RunSpec| {
        spec.backbone.name == "b" && spec.dataset.name == "glyphs" && spec.epsilon_schedule.label() == "fixed"
    };
    let fake = fake(PHENOMENON, MANY, |_, spec| if is_hole(spec) { Fate::Waits } else { Fate::Succeeds });
    let drawn = draw(&fake.material());
    let panels = &figure(&drawn, "aggregated").panels;
    let by_dataset = panels.iter().find(|panel| panel.title == "clean, by dataset, 4/255").unwrap();
    let Body::Bars { groups, .. } = &by_dataset.body else { panic!("bars") };
    let names: Vec<&str> = groups.iter().map(|group| group.label.as_str()).collect();
    assert_eq!(names, ["shapes", "blobs", "glyphs"]);
    let material = fake.material();
    let of_a = material.runs.iter().find(|run| {
        run.result.backbone == "a"
            && run.result.dataset == "glyphs"
            && run.schedule() == "ramp 3-9"
            && run.target() == 4.0
    });
    // The ramp of backbone b on glyphs is there, but has no partner.
    assert_eq!(groups[2].bars[1].unwrap().run, of_a.unwrap().result.id);
}

#[test]
fn delays_and_severity_tell_one_story() {
    let drawn = draw(&finished(PHENOMENON).material());
    let delays = figure(&drawn, "delay-over-target-epsilon");
    let severity = figure(&drawn, "severity-over-delay");
    for (delay, scatter) in delays.panels.iter().zip(&severity.panels) {
        assert_eq!(delay.title, scatter.title);
        let notes = scatter.notes.join(", ");
        for (delay, scatter) in series(delay).iter().zip(series(scatter)) {
            let mut places: Vec<f64> = delay.points.iter().map(|point| point.y).collect();
            places.sort_by(f64::total_cmp);
            let across: Vec<f64> = scatter.points.iter().map(|point| point.x).collect();
            assert_eq!(places, across);
            let is_constant = places.first() == places.last();
            let note = if is_constant { "r undefined" } else { "r = −" };
            assert!(notes.contains(&format!("{}: {note}", delay.label)), "{}: {notes}", delay.label);
        }
    }
    let notes = severity.panels.iter().flat_map(|panel| &panel.notes);
    assert!(notes.filter(|note| note.contains("r = −")).count() > 1);
}

#[test]
fn delays_and_severity_are_of_runs_that_succeeded() {
    let fails =
        |spec: &sweep_core::spec::RunSpec| spec.seed == 1 && spec.target_epsilon.fraction() == (4, 255);
    let fake = fake(PHENOMENON, MANY, |_, spec| if fails(spec) { Fate::FailsLate } else { Fate::Succeeds });
    let drawn = draw(&fake.material());
    let delays = figure(&drawn, "delay-over-target-epsilon").panels.iter().flat_map(series);
    let severity = figure(&drawn, "severity-over-delay").panels.iter().flat_map(series);
    for (delay, scatter) in delays.zip(severity) {
        let alone = delay.points.iter().filter(|point| point.n == 1).collect::<Vec<_>>();
        assert!(matches!(alone[..], [point] if point.x == 4.0), "{alone:?}");
        assert!(scatter.points.iter().any(|point| point.n == 1 && point.x == alone[0].y));
    }
}

/// Standard fine-tuning is in the grid once for every target epsilon, which it has no use for.
#[test]
fn standard_fine_tuning_counts_once_a_seed() {
    let (grid, rest) = PHENOMENON.split_once("exclude:").unwrap();
    let backbones = &rest[rest.find("backbones:").unwrap()..];
    let yaml = format!("{}{backbones}", grid.replace("[0, 2/255", "[2/255"));
    let material = finished(&yaml).material();
    assert_eq!(material.runs.iter().filter(|run| run.is_standard).count(), 2 * 3 * 3 * 2);
    let drawn = draw(&material);
    for figure in &drawn.figures {
        for series in
            figure.panels.iter().filter(|panel| matches!(panel.body, Body::Lines { .. })).flat_map(series)
        {
            assert!(series.points.iter().all(|point| point.n == 2), "{}: {}", figure.name, series.label);
        }
    }
    let html = page(&material, &drawn).unwrap();
    assert!(section(&html, "results").contains("Means over 2 seeds."));
}

#[test]
fn few_classes_have_an_onset_above_chance() {
    let many = draw(&finished(PHENOMENON).material());
    let few = draw(&fake(PHENOMENON, 4, |_, _| Fate::Succeeds).material());
    let cross = |drawn: &Drawn| figure(drawn, "validation-curves").legend.last().unwrap().label.clone();
    assert_eq!(cross(&many), "onset: validation accuracy above 5 %");
    assert_eq!(cross(&few), "onset: validation accuracy clearly above chance");
}

#[test]
fn the_ablation_is_a_map_of_both_ends() {
    let drawn = draw(&finished(ABLATION).material());
    let Body::Heat { columns, rows, cells, .. } = &figure(&drawn, "ablation").panels[0].body else {
        panic!("a map")
    };
    assert_eq!(columns, &["0", "3", "9", "12"]);
    assert_eq!(rows, &["0", "3"]);
    let filled: Vec<Vec<bool>> = cells.iter().map(|row| row.iter().map(Option::is_some).collect()).collect();
    assert_eq!(filled, [[true, true, true, false], [false, true, true, true]]);
    let first = drawn.omitted.iter().find(|omitted| omitted.reference == "Figure 1").unwrap();
    assert!(first.reason.contains("two target epsilons"), "{}", first.reason);
}

#[test]
fn ramps_by_epoch_and_by_step_have_maps_of_their_own() {
    let more = "    - {kind: step, start: 3}\n    - {kind: ramp, start: 3, end: 9, per: step}\n";
    let material = finished(&ABLATION.replace("    - {kind: step, start: 3}\n", more)).material();
    let drawn = draw(&material);
    let [by_epoch, by_step] = &figure(&drawn, "ablation").panels[..] else { panic!("two maps") };
    assert_eq!([&*by_epoch.title, &*by_step.title], ["a, shapes, 4/255", "a, shapes, 4/255, per step"]);
    let schedule = |panel: &Panel, row: usize, column: usize| {
        let Body::Heat { cells, .. } = &panel.body else { panic!("a map") };
        let run = cells[row][column].unwrap().run;
        material.runs.iter().find(|other| other.result.id == run).unwrap().schedule().to_owned()
    };
    assert_eq!([schedule(by_epoch, 0, 0), schedule(by_epoch, 1, 2)], ["fixed", "ramp 3-9"]);
    assert_eq!([schedule(by_step, 0, 0), schedule(by_step, 1, 2)], ["fixed", "ramp 3-9 per step"]);
}

#[test]
fn radii_that_training_finds_are_drawn_where_it_found_them() {
    let auto = "{kind: auto, patience: 2, end: 12}";
    let yaml = PHENOMENON.replace("{kind: fixed}", auto);
    let material = finished(&yaml).material();
    let drawn = draw(&material);
    let panels = &figure(&drawn, "schedules").panels;
    // At the smallest target all of them find the same beginning. At the others there is a panel for the ramp of a fixed
    // beginning, and one for what each backbone found on each dataset.
    assert_eq!(panels.len(), 1 + 2 * (1 + 2 * 3));
    for run in
        material.runs.iter().filter(|run| run.schedule().starts_with("ramp auto") && run.target() == 8.0)
    {
        let title = format!("target epsilon 8/255, {}, {}", run.subject(), run.result.dataset);
        let panel = panels.iter().find(|panel| panel.title == title).unwrap();
        let [found] = series(panel) else { panic!("the ramp of a fixed beginning is elsewhere") };
        let alike = material.runs.iter().filter(|other| {
            (other.subject(), &other.result.dataset, other.schedule(), other.target())
                == (run.subject(), &run.result.dataset, run.schedule(), run.target())
        });
        let sums = alike.fold([0.0; 12], |mut sums, run| {
            run.curve.iter().zip(&mut sums).for_each(|(point, sum)| *sum += point.epsilon * 255.0);
            sums
        });
        assert!(found.points.iter().zip(sums).all(|(point, sum)| (point.y - sum / 2.0).abs() < 1e-9));
    }
}

#[test]
fn an_unfinished_sweep_draws_what_it_has() {
    let drawn = draw(&fake(PHENOMENON, MANY, |_, _| Fate::Waits).material());
    assert!(drawn.figures.is_empty());
    assert_eq!(drawn.omitted.len(), 11);
    let swept = fake(PHENOMENON, MANY, |index, _| if index == 0 { Fate::Fails } else { Fate::Waits });
    let html = page(&swept.material(), &draw(&swept.material())).unwrap();
    assert!(html.contains("the loss &lt;b&gt;is&lt;/b&gt; NaN"));
    assert!(html.contains("<b>Holes</b>: 84 of 84 runs"));
}

#[test]
fn what_differs_beside_the_seed_is_never_averaged() {
    let yaml = PHENOMENON.replace("  seed: [0, 1]\n", "  seed: [0, 1]\n  batch_size: [16, 32]\n");
    let material = finished(&yaml).material();
    let subjects: std::collections::BTreeSet<String> =
        material.runs.iter().map(sweep_report::ReportedRun::subject).collect();
    let expected = ["a (batch_size=16)", "a (batch_size=32)", "b (batch_size=16)", "b (batch_size=32)"];
    assert!(subjects.iter().eq(expected.iter()), "{subjects:?}");
    let drawn = draw(&material);
    for figure in &drawn.figures {
        for panel in &figure.panels {
            if let Body::Lines { series, .. } = &panel.body {
                assert!(
                    series.iter().flat_map(|series| &series.points).all(|point| point.n <= 2),
                    "{}",
                    panel.title
                );
            }
        }
    }
}

#[test]
fn the_same_results_give_the_same_bytes() {
    let (one, other) = (finished(PHENOMENON).material(), finished(PHENOMENON).material());
    let bytes = |material| {
        let drawn = draw(material);
        let figure = &drawn.figures[0];
        (page(material, &drawn).unwrap(), figure.sheet().unwrap(), figure.png().unwrap())
    };
    assert!(bytes(&one) == bytes(&other));
}

#[test]
fn files_are_well_formed_and_named() {
    let drawn = draw(&finished(PHENOMENON).material());
    for figure in &drawn.figures {
        let sheet = figure.sheet().unwrap();
        assert!(sheet.starts_with("<svg xmlns=") && sheet.ends_with("</svg>\n"));
        assert!(!sheet.contains("var(") && !sheet.contains("href"), "{}: stands alone", figure.name);
        assert!(!sheet.contains("NaN"), "{}", figure.name);
        for entry in &figure.legend {
            assert!(sheet.contains(&format!(">{}</text>", entry.label)), "{}: {}", figure.name, entry.label);
        }
    }
    // The reader of the picture checks the drawing's markup.
    let png = figure(&drawn, "severity-over-delay").png().unwrap();
    assert_eq!(&png[1..4], b"PNG");
}

#[test]
fn hostile_names_are_text() {
    // A sweep file takes no such names; a database from elsewhere can hold them.
    let hostile = "\"><script>alert(1)</script>";
    let rename = |spec: &mut sweep_core::spec::RunSpec| {
        for name in [&mut spec.backbone.name, &mut spec.dataset.name] {
            name.push_str(hostile);
        }
    };
    let fake = Fake::new(PHENOMENON, MANY, rename, |_, _| Fate::Succeeds);
    let material = fake.material();
    assert!(material.runs.iter().all(|run| run.result.backbone.ends_with(hostile)));
    let drawn = draw(&material);
    let html = page(&material, &drawn).unwrap();
    assert!(!html.contains("<script"));
    assert!(html.contains("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"));
    for figure in &drawn.figures {
        assert!(!figure.sheet().unwrap().contains("<script"), "{}", figure.name);
    }
}

#[test]
fn every_link_has_its_target_and_nothing_is_loaded() {
    let material = finished(PHENOMENON).material();
    let html = page(&material, &draw(&material)).unwrap();
    let targets: std::collections::BTreeSet<&str> =
        html.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let links: Vec<&str> = html.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(links.len() > 500);
    for link in links {
        assert!(targets.contains(link), "{link}");
    }
    for loading in ["http://", "https://", " src=", "url(", "@import", "<script", "<link", "<iframe"] {
        assert!(!html.contains(loading), "{loading}");
    }
}

#[test]
fn a_page_of_many_runs_is_cut_and_says_so() {
    let seeds: Vec<String> = (0..2_500).map(|seed| seed.to_string()).collect();
    let schedules = ABLATION.find("    - {kind: warmup, end: 3}").unwrap();
    let rest = ABLATION.find("backbones:").unwrap();
    let yaml = format!("{}  seed: [{}]\n{}", &ABLATION[..schedules], seeds.join(", "), &ABLATION[rest..]);
    let swept = fake(&yaml, MANY, |index, _| if index % 600 == 0 { Fate::Succeeds } else { Fate::Waits });
    let material = swept.material();
    let html = page(&material, &draw(&material)).unwrap();
    assert_eq!(html.matches(" id=\"run-").count(), 2_000);
    assert!(html.contains("The first 2000 of 2500 runs"));
    assert!(html.contains("(5 of 2500)"), "the cell says how many of its runs are measured");
    assert!(html.len() < 2_000_000, "{} bytes", html.len());
}

#[test]
fn a_report_replaces_a_report_and_nothing_else() {
    let fake = finished(ABLATION);
    let material = fake.material();
    let folder = fake.folder.path().join("deep/report");
    let written = write(&material, &folder, &[Form::Svg, Form::Png]).unwrap();
    assert_eq!(written.page, folder.join("report.html"));
    let count = |folder: &std::path::Path| fs::read_dir(folder).unwrap().count();
    assert_eq!(count(&folder.join("figures")), 2 * written.drawn.figures.len());
    write(&material, &folder, &[]).unwrap();
    assert_eq!((count(&folder.join("figures")), count(folder.parent().unwrap())), (0, 1));

    fs::write(folder.join("figures/mine.txt"), "x").unwrap();
    let refused = write(&material, &folder, &[]).unwrap_err();
    assert!(matches!(&refused, Error::Foreign { entry, .. } if entry == "figures"), "{refused}");
    let strange = fake.folder.path().join("strange");
    fs::create_dir(&strange).unwrap();
    fs::write(strange.join("report.html"), "<p>mine</p>").unwrap();
    assert!(matches!(write(&material, &strange, &[]).unwrap_err(), Error::Foreign { .. }));
    assert_eq!(fs::read_to_string(strange.join("report.html")).unwrap(), "<p>mine</p>");
}

/// Returns a section of the page.
fn section<'a>(html: &'a str, id: &str) -> &'a str {
    let from = html.find(&format!("<section id=\"{id}\">")).unwrap_or_else(|| panic!("no section {id}"));
    let to = html[from..].find("</section>").map_or(html.len(), |length| from + length);
    &html[from..to]
}

#[test]
fn schedules_are_paired_at_every_target() {
    let swept = finished(PHENOMENON);
    let material = swept.material();
    let html = page(&material, &draw(&material)).unwrap();
    let pairs = section(&html, "pairs");
    // Three targets and three metrics below one line of headings; standard fine-tuning has no counterpart.
    assert_eq!(pairs.matches("<tr>").count(), 1 + 9, "{pairs}");
    let pairing = "epsilon_schedule=fixed,ramp 3-9".parse().unwrap();
    let by = [Key::new(Key::TARGET_EPSILON)];
    for comparison in
        sweep_report::pairs::pairs(&material.table, &pairing, &by, Seeds::Folded).unwrap().comparisons()
    {
        let difference = comparison.difference.unwrap();
        assert_eq!(difference.n, 6);
        assert!(pairs.contains(&format!("{:+.2}", difference.mean * 100.0)), "{comparison:?}");
    }
    assert!(section(&html, "paper").contains("No run has a counterpart"));
}

#[test]
fn one_schedule_is_paired_with_nothing() {
    let swept = finished(&ABLATION.replace(
        "    - {kind: warmup, end: 3}\n    - {kind: warmup, end: 9}\n    - {kind: ramp, start: 3, end: 9}\n    \
         - {kind: ramp, start: 3, end: 12}\n    - {kind: step, start: 3}\n",
        "",
    ));
    let material = swept.material();
    let html = page(&material, &draw(&material)).unwrap();
    assert!(section(&html, "pairs").contains("Every run under attack has the same schedule."));
}
