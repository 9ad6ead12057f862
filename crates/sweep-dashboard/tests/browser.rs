//! The pages as a browser shows them, while the grid is written. Needs Chromium; says so where there is none.

mod common;

use std::io::Write as _;

use common::{HOSTILE, Scene, grid};
use serde_json::Value;
use sweep_testkit::{Browser, chromium};
use tempfile::TempDir;

/// What is wrong with the page: what it loads from elsewhere, whether it scrolls sideways, what sticks out of its cell, and
/// texts too pale to read (contrast below 4, WCAG 2's formula).
const MEASURE: &str = include_str!("browser/measure.js");

fn browser(folder: &TempDir) -> Option<Browser> {
    let Some(program) = chromium() else {
        // Written past the test harness, which would swallow it.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no Chromium on this machine, the dashboard was not looked at"
        );
        return None;
    };
    Some(Browser::start(&program, folder.path()))
}

#[test]
fn a_click_on_a_cell_leads_to_a_curve_that_grows() {
    let scene = Scene::new("grid", grid().into_iter().filter(|spec| spec.seed == 0).collect(), None);
    scene.succeed(0);
    let attempt = scene.start(1);
    scene.epoch(1, attempt, 0);
    let folder = tempfile::tempdir().unwrap();
    let Some(mut browser) = browser(&folder) else { return };
    browser.open(&format!("http://{}/sweep/1", scene.host));
    browser.wait_for("the page to be followed", "document.getElementById('live').textContent === 'live'");
    browser.evaluate("window.mark = 1");
    scene.epoch(1, attempt, 1);
    let link = format!("td a[href='/run/{}']", scene.specs[1].id());
    browser
        .wait_for("the cell", &format!("document.querySelector(\"{link}\").textContent.includes('epoch 2')"));
    scene.succeed(2);
    browser.wait_for("a colour", "document.querySelectorAll('td[class^=heat-]').length === 2");
    assert_eq!(browser.evaluate("window.mark"), 1, "the page was not loaded again");

    browser.click(&link);
    let points =
        "(document.querySelector('#accuracy .scatterlayer .trace')?.querySelectorAll('.point').length ?? 0)";
    browser.wait_for("two points", &format!("{points} === 2"));
    browser.wait_for("the page to be followed", "document.getElementById('live').textContent === 'live'");
    browser.evaluate("window.mark = 2");
    for epoch in 2..6 {
        scene.epoch(1, attempt, epoch);
        browser.wait_for("another point", &format!("{points} === {}", epoch + 1));
    }
    browser.wait_for("the state", "document.getElementById('state').textContent.includes('6 of 12 epochs')");
    assert_eq!(browser.evaluate("window.mark"), 2, "the page was not loaded again");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn nothing_overlaps_sticks_out_or_runs_on_any_screen() {
    let scene = Scene::new(HOSTILE, grid(), None);
    scene.carry_out();
    let folder = tempfile::tempdir().unwrap();
    let Some(mut browser) = browser(&folder) else { return };
    let pages = [
        "/sweeps".to_owned(),
        "/sweep/1".to_owned(),
        "/sweep/1?metric=delay&rows=dataset&columns=epsilon_schedule,backbone".to_owned(),
        "/sweep/1/runs?sort=-robust".to_owned(),
        "/sweep/1/runs?where=nonsense".to_owned(),
        "/compare?sweep=1".to_owned(),
        format!("/run/{}", scene.specs[0].id()),
        format!("/run/{}", scene.specs[5].id()),
    ];
    for (width, is_dark) in [(1280, false), (1280, true), (390, false), (390, true)] {
        browser.look(width, is_dark);
        for page in &pages {
            browser.open(&format!("http://{}{page}", scene.host));
            if page.starts_with("/run/") {
                browser.wait_for("charts", "document.querySelectorAll('.chart .main-svg').length >= 3");
            }
            let result = browser.evaluate(MEASURE);
            assert_eq!(result["wrong"], Value::Array(Vec::new()), "{page} at {width} px");
            let paper = if is_dark { "rgb(21, 24, 28)" } else { "rgb(255, 255, 255)" };
            assert_eq!(result["paper"], paper, "{page}");
            assert_eq!(result["hacked"], false, "{page}");
            assert_eq!(browser.complaints(), Vec::<String>::new(), "{page} at {width} px");
        }
    }
}
