//! The pages as they come over the wire.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use common::{EPOCHS, HOSTILE, Scene, grid};
use serde_json::Value;

/// A response of the server.
#[derive(Debug)]
struct Response {
    status: u16,
    /// In lower case.
    head: String,
    body: String,
}

impl Scene {
    /// Asks for a page.
    fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[("Host", &self.host)])
    }

    /// Asks with these headers and no others.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut stream = self.send(method, path, headers);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Response { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// Follows a page; returns the data of each event.
    fn follow(&self, path: &str) -> impl Iterator<Item = String> + use<> {
        let stream = self.send("GET", path, &[("Host", &self.host)]);
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned))
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.set_read_timeout(Some(sweep_testkit::PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\n").unwrap();
        for (name, value) in headers {
            write!(stream, "{name}: {value}\r\n").unwrap();
        }
        write!(stream, "Connection: close\r\n\r\n").unwrap();
        stream
    }
}

/// What every response must carry.
const HEADERS: [&str; 5] = [
    "content-security-policy: default-src 'none'; script-src 'self'",
    "x-content-type-options: nosniff",
    "referrer-policy: no-referrer",
    "cross-origin-resource-policy: same-origin",
    "cache-control: ",
];

#[test]
fn every_page_is_whole_hardened_and_escaped() {
    let scene = Scene::new(HOSTILE, grid(), None);
    scene.carry_out();
    let (done, failed, running) = (scene.specs[0].id(), scene.specs[5].id(), scene.specs[12].id());
    let pages = [
        ("/sweeps".to_owned(), vec!["72"]),
        (
            "/sweep/1".to_owned(),
            vec!["2 workers run now", "1 running", "✕", "training epoch 5", "target epsilon 8/255"],
        ),
        ("/sweep/1?metric=delay&rows=dataset,seed&columns=backbone".to_owned(), vec!["delay"]),
        ("/sweep/1?where=state%3Dfailed".to_owned(), vec!["failed"]),
        ("/sweep/1/runs".to_owned(), vec!["72 runs, 1 to 72", "diverged"]),
        ("/sweep/1/runs?where=state%3Dfailed&sort=-seed".to_owned(), vec!["2 runs, 1 to 2", "descending"]),
        ("/sweep/1/runs?where=nonsense".to_owned(), vec!["KEY=VALUE"]),
        ("/sweep/1/runs?where=backbon%3Dvit".to_owned(), vec!["did you mean `backbone`?"]),
        ("/sweep/1/runs?page=9".to_owned(), vec!["behind the last one"]),
        ("/compare?sweep=1".to_owned(), vec!["ramp 3-9", "expected robustness %"]),
        (
            "/compare?sweep=1&rows=dataset&columns=none&metric=robust&where=seed%3D0".to_owned(),
            vec!["Means mix runs", "backbone"],
        ),
        ("/compare?sweep=1&columns=nonsense".to_owned(), vec!["no run has the key `nonsense`"]),
        (format!("/run/{done}"), vec!["12 of 12 epochs", "85798656"]),
        (format!("/run/{failed}"), vec!["diverged: the loss is NaN", "code 65", "epoch 1\n"]),
        (format!("/run/{running}"), vec!["training epoch 5, step 37 of 120", "data-figure"]),
    ];
    for (path, texts) in pages {
        let page = scene.get(&path);
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        for header in HEADERS {
            assert!(page.head.contains(header), "{path}: {header} in {}", page.head);
        }
        assert!(
            page.head.contains("cache-control: no-store") && page.head.contains("text/html; charset=utf-8")
        );
        assert!(!page.body.contains("<script>") && !page.body.contains("style="), "{path}");
        assert_eq!(
            page.body.matches("<script").count(),
            page.body.matches("<script defer=\"defer\" src=\"/assets/").count()
        );
        assert_eq!(page.body.matches("<h1>").count(), 1);
        for text in texts {
            assert!(page.body.contains(text), "{path}: `{text}` is not in {}", page.body);
        }
    }
    let page = scene.get("/sweep/1").body;
    // An input size that goes with the dataset makes no tables of its own.
    assert_eq!(
        (page.matches("<figure class=\"panel\">").count(), page.matches("<td id=\"c").count()),
        (4, 36)
    );
    let first = scene.get("/");
    assert_eq!(first.status, 303);
    assert!(first.head.contains("location: /sweep/1"));
}

#[test]
fn what_is_not_there_is_said() {
    let scene = Scene::new("grid", grid(), None);
    let run = scene.specs[0].id().to_string();
    let cases = [
        ("/nothing", 404, "nothing at /nothing"),
        ("/sweep/7", 404, "no sweep 7"),
        ("/sweep/x", 404, "no number of a sweep"),
        ("/run/zzz", 404, "No run begins with `zzz`"),
        ("/run/", 404, ""),
        ("/assets/0/plotly.js", 404, "no such file"),
        ("/sweep/1?metric=nonsense", 400, "none of clean"),
        ("/sweep/1?rows=nonsense", 400, "no run has the key"),
        ("/sweep/1/runs?page=x", 200, "page: "),
        ("/compare?sweep=nonsense", 404, "no sweep `nonsense`"),
    ];
    for (path, status, text) in cases {
        let page = scene.get(path);
        assert_eq!((page.status, page.body.contains(text)), (status, true), "{path}: {}", page.body);
        assert!(HEADERS.iter().all(|header| page.head.contains(header)), "{path}");
    }
    // 72 runs and 16 digits: some digit begins several of them.
    let several = (0..16)
        .map(|digit| scene.get(&format!("/run/{digit:x}")))
        .find(|page| page.body.contains("Which one?"));
    let several = several.unwrap();
    assert!(several.status == 404 && several.body.matches("<li><a href=\"/run/").count() >= 2);
    let found = scene.get(&format!("/run/{}", &run[..16]));
    assert!(found.status == 303 && found.head.contains(&format!("location: /run/{run}")));
}

#[test]
fn strangers_and_changes_are_refused() {
    let scene = Scene::new("grid", grid(), None);
    let host = scene.host.as_str();
    for wrong in ["evil.org", "localhost", "127.0.0.1:1", "evil.org:80"] {
        assert_eq!(scene.ask("GET", "/sweep/1", &[("Host", wrong)]).status, 421, "{wrong}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/sweep/1", "/nothing", "/sweep/1/events"] {
            let refused = scene.ask(method, path, &[("Host", host), ("Content-Length", "0")]);
            assert!(refused.status == 405 && refused.head.contains("allow: get, head"), "{method} {path}");
        }
    }
    let strange = |mode| {
        let headers = [("Host", host), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", mode)];
        scene.ask("GET", "/sweep/1", &headers).status
    };
    assert_eq!((strange("no-cors"), strange("cors"), strange("navigate")), (403, 403, 200));
    let head = scene.ask("HEAD", "/sweep/1", &[("Host", host)]);
    assert!(head.status == 200 && head.body.is_empty());
}

#[test]
fn a_token_is_asked_for_and_becomes_a_cookie() {
    const TOKEN: &str = "a-token-of-enough-letters";
    let scene = Scene::new("grid", grid(), Some(TOKEN));
    let host = scene.host.as_str();
    for path in
        ["/", "/sweep/1", "/sweep/1/events", "/assets/0/page.js", "/sweep/1?token=a-token-of-enough-letterz"]
    {
        assert_eq!(scene.get(path).status, 401, "{path}");
    }
    let once = scene.get(&format!("/sweep/1?token={TOKEN}&metric=clean"));
    assert!(once.status == 303 && once.head.contains("location: /sweep/1?metric=clean\r\n"), "{}", once.head);
    let cookie = once.head.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    assert!(once.head.contains("httponly; samesite=strict"));
    assert_eq!(scene.ask("GET", "/sweep/1", &[("Host", host), ("Cookie", &cookie)]).status, 200);
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(scene.ask("GET", "/sweep/1", &[("Host", host), ("Authorization", &bearer)]).status, 200);
}

#[test]
fn assets_stay_and_are_where_pages_say() {
    let scene = Scene::new("grid", grid(), None);
    let page = scene.get(&format!("/run/{}", scene.specs[0].id())).body;
    let paths: Vec<&str> =
        page.split("\"/assets/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(paths.len(), 3, "style, script, charts");
    for path in paths {
        let asset = scene.get(&format!("/assets/{path}"));
        assert_eq!(asset.status, 200);
        assert!(asset.head.contains("cache-control: public, max-age=31536000, immutable"));
        assert!(HEADERS.iter().all(|header| asset.head.contains(header)));
    }
    assert!(!scene.get("/sweep/1").body.contains("plotly.js"), "only where a chart is");
}

#[test]
fn changes_come_by_themselves_and_nothing_else_does() {
    let scene = Scene::new("grid", grid(), None);
    scene.succeed(0);
    let attempt = scene.start(2);
    let page = scene.get("/sweep/1").body;
    let since = page.split("data-since=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let mut grid = scene.follow(&format!("/sweep/1/events?since={since}"));
    let mut run = scene.follow(&format!("/run/{}/events", scene.specs[2].id()));
    let parts = |data: Option<String>| -> Vec<Value> { serde_json::from_str(&data.unwrap()).unwrap() };
    // Checks may come later than their page.
    let mut done = scene.follow(&format!("/run/{}/events", scene.specs[0].id()));
    let checks = parts(done.next()).into_iter().find(|part| part["id"] == "gates").unwrap();
    let checks = checks["html"].as_str().unwrap();
    assert!(checks.contains("zero is clean") && checks.matches("✓ yes").count() == 4, "{checks}");
    // Who says nothing about what it has gets everything once.
    let all = parts(run.next());
    assert!(all.iter().any(|part| part["id"] == "accuracy") && all.len() > 8);
    // The page is followed from when it says something; what is written from then on are changes.
    scene.epoch(2, attempt, 0);
    assert!(!parts(grid.next()).is_empty());
    for epoch in 1..EPOCHS {
        scene.epoch(2, attempt, epoch);
    }
    let found = std::iter::from_fn(|| Some(parts(grid.next()))).find(|parts| {
        parts.iter().any(|part| {
            part["html"]
                .as_str()
                .is_some_and(|html| html.contains("12/12") && html.contains("training epoch 13"))
        })
    });
    let changed = found.unwrap();
    assert!(changed.len() <= 5, "the lines above and at most a cell, not {} parts", changed.len());
    let points = |part: &Value| -> usize {
        let figure: Value = serde_json::from_str(part["figure"].as_str().unwrap()).unwrap();
        figure["data"][0]["x"].as_array().unwrap().len()
    };
    let all_points = std::iter::from_fn(|| Some(parts(run.next())))
        .flatten()
        .filter(|part| part["id"] == "accuracy")
        .map(|part| points(&part))
        .find(|points| *points == EPOCHS as usize);
    assert_eq!(all_points, Some(EPOCHS as usize));
}
