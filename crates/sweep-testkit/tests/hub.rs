//! The local Hub, asked over a bare socket.

mod client;

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use client::{Client, End, Reply};
use sweep_testkit::hub::{Access, Content, Fault, FaultKind, Kind, LocalHub, Origin, Step};
use sweep_testkit::{PATIENCE, wait_until};

/// A file in Git and its blob's SHA-1, as `git hash-object` prints it.
const CONFIG: &str = "hello\n";
const CONFIG_SHA1: &str = "ce013625030ba8dba906f756967f9e9ca394464a";

/// Length of the file in LFS: several buffers of the server.
const WEIGHTS: usize = 200_000;

fn weights() -> Vec<u8> {
    (0..WEIGHTS).map(|position| (position % 251) as u8).collect()
}

/// SHA-256 of [`weights`], as `sha256sum` prints it.
const WEIGHTS_SHA256: &str = "e24bc62381f1224fbbb74688663f8f9743b9680b193edd666835e97b06e730eb";

fn hub() -> (LocalHub, String) {
    let hub = LocalHub::start();
    let files =
        [("config.json", Content::Git(CONFIG.into())), ("model.safetensors", Content::Lfs(weights()))];
    let commit = hub.commit(Kind::Model, "Owner/Name", "main", &files);
    (hub, commit)
}

const CONFIG_PATH: &str = "/Owner/Name/resolve/main/config.json";
const WEIGHTS_PATH: &str = "/Owner/Name/resolve/main/model.safetensors";

fn always(at: Step, kind: FaultKind) -> Fault {
    Fault { at, path: None, kind, times: None }
}

fn get(hub: &LocalHub, path: &str) -> Reply {
    Client::default().get(&format!("{}{path}", hub.endpoint()), &[])
}

/// Gets the file in LFS from the CDN.
fn download(hub: &LocalHub) -> Reply {
    let mut client = Client::default();
    let redirect = client.head(&format!("{}{WEIGHTS_PATH}", hub.endpoint()), &[]);
    client.get(redirect.header("Location").expect("the file is elsewhere"), &[])
}

#[test]
fn a_file_in_git_is_behind_a_relative_redirect() {
    let (hub, commit) = hub();
    let mut client = Client::default();
    let redirect = client.head(&format!("{}{CONFIG_PATH}", hub.endpoint()), &[]);
    assert_eq!((redirect.status, redirect.header("X-Repo-Commit")), (307, Some(&*commit)));
    let place = redirect.header("Location").unwrap().to_owned();
    assert!(place.starts_with(&format!("/api/resolve-cache/models/Owner/Name/{commit}/")), "{place}");
    let url = format!("{}{place}", hub.endpoint());
    for reply in [client.head(&url, &[]), client.get(&url, &[])] {
        assert_eq!((reply.status, reply.header("X-Repo-Commit")), (200, Some(&*commit)));
        assert_eq!(reply.header("ETag"), Some(&*format!("\"{CONFIG_SHA1}\"")));
        assert_eq!(reply.header("Content-Length"), Some("6"));
        assert_eq!(reply.header("X-Xet-Hash"), None);
    }
    assert_eq!(client.get(&url, &[]).body, CONFIG.as_bytes());
    assert_eq!(client.connections, 1, "the connection stays open");
}

#[test]
fn a_file_in_lfs_is_at_the_cdn() {
    let (hub, commit) = hub();
    let mut client = Client::default();
    let redirect = client.head(&format!("{}{WEIGHTS_PATH}", hub.endpoint()), &[]);
    assert_eq!((redirect.status, redirect.header("X-Repo-Commit")), (302, Some(&*commit)));
    assert_eq!(redirect.header("X-Linked-Etag"), Some(&*format!("\"{WEIGHTS_SHA256}\"")));
    assert_eq!(redirect.header("X-Linked-Size"), Some("200000"));
    let url = redirect.header("Location").unwrap();
    assert!(url.starts_with(&hub.cdn()), "{url}");
    let reply = client.get(url, &[]);
    assert_eq!((reply.status, reply.end), (200, End::Whole));
    assert!(reply.body == weights(), "the bytes are others");
    assert_eq!(reply.header("X-Repo-Commit"), None);
    assert!(!reply.header("ETag").unwrap().contains(WEIGHTS_SHA256));

    assert_eq!(client.get(url, &[("Authorization", "Bearer x")]).status, 400);
    assert_eq!(client.get(url.split_once('?').unwrap().0, &[]).status, 403, "the signature is missing");
}

#[test]
fn a_file_on_disk_is_streamed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w");
    fs::write(&path, weights()).unwrap();
    let hub = LocalHub::start();
    hub.commit(Kind::Model, "Owner/Name", "main", &[("model.safetensors", Content::LfsFile(path))]);
    assert!(download(&hub).body == weights(), "the bytes are others");
}

#[test]
fn odd_names_survive_every_redirect() {
    let hub = LocalHub::start();
    let files =
        [("a b/ü%2F+?#.bin", Content::Lfs(weights())), ("a b/ü%2F+?#.txt", Content::Git(CONFIG.into()))];
    hub.commit(Kind::Dataset, "o/n", "odd/branch", &files);
    let path = "/datasets/o/n/resolve/odd%2Fbranch/a%20b/%C3%BC%252F%2B%3F%23";
    let cdn = get(&hub, &format!("{path}.bin"));
    let reply = Client::default().get(cdn.header("Location").unwrap(), &[]);
    assert!(reply.body == weights(), "the bytes are others");
    let cached = get(&hub, &format!("{path}.txt"));
    assert_eq!(get(&hub, cached.header("Location").unwrap()).body, CONFIG.as_bytes());
}

#[test]
fn ranges_and_known_etags() {
    let (hub, commit) = hub();
    let mut client = Client::default();
    let cached = format!("{}/api/resolve-cache/models/Owner/Name/{commit}/config.json", hub.endpoint());
    let part = client.get(&cached, &[("Range", "bytes=1-3")]);
    assert_eq!((part.status, &*part.body), (206, &b"ell"[..]));
    assert_eq!(part.header("Content-Range"), Some("bytes 1-3/6"));
    let none = client.get(&cached, &[("Range", "bytes=6-")]);
    assert_eq!((none.status, none.header("Content-Range")), (416, Some("bytes */6")));
    let known = client.get(&cached, &[("If-None-Match", &format!("\"{CONFIG_SHA1}\""))]);
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(client.get(&cached, &[("If-None-Match", "\"other\"")]).status, 200);
    assert_eq!(client.connections, 1);
    assert_eq!(hub.requests()[0].range.as_deref(), Some("bytes=1-3"));
}

#[test]
fn what_a_repository_is() {
    let (hub, commit) = hub();
    let info = get(&hub, "/api/models/Owner/Name?blobs=true").json();
    assert_eq!(info["id"], "Owner/Name");
    assert_eq!(info["sha"], *commit);
    assert_eq!(info["siblings"][0]["rfilename"], "config.json");
    assert_eq!(info["siblings"][1]["lfs"]["sha256"], WEIGHTS_SHA256);
    assert_eq!(get(&hub, &format!("/api/models/Owner/Name/revision/{commit}")).json()["sha"], *commit);

    let other = hub.commit(Kind::Model, "Owner/Name", "refs/convert/parquet", &[]);
    let references = get(&hub, "/api/models/Owner/Name/refs").json();
    assert_eq!(references["branches"][0]["targetCommit"], *commit);
    assert_eq!(references["converts"][0]["name"], "parquet");
    assert_eq!(references["converts"][0]["targetCommit"], *other);
    let revision = "/api/models/Owner/Name/revision/refs%2Fconvert%2Fparquet";
    assert_eq!(get(&hub, revision).json()["sha"], *other);
}

#[test]
fn commits_follow_from_their_files() {
    let hub = LocalHub::start();
    let commit =
        |text: &str| hub.commit(Kind::Dataset, "o/n", "main", &[("README.md", Content::Git(text.into()))]);
    let (first, second) = (commit("1"), commit("2"));
    assert_ne!(first, second);
    assert_eq!(get(&hub, "/api/datasets/o/n").json()["sha"], *second);
    let old = format!("/datasets/o/n/resolve/{first}/README.md");
    assert_eq!(get(&hub, &old).header("X-Repo-Commit"), Some(&*first));
    assert_eq!(commit("1"), first);
    assert_eq!(get(&hub, "/api/datasets/o/n").json()["sha"], *first);
}

#[test]
fn listings_have_pages() {
    let hub = LocalHub::start();
    let paths = ["a", "data/train/0.parquet", "data/train/1.parquet", "data/über 1.txt", "z"];
    let files = paths.map(|path| (path, Content::Lfs(path.into())));
    hub.commit(Kind::Dataset, "o/n", "main", &files);
    hub.set_page_size(2);
    let mut client = Client::default();
    let mut next = Some(format!("{}/api/datasets/o/n/tree/main?recursive=true", hub.endpoint()));
    let mut pages = Vec::new();
    while let Some(url) = next {
        let page = client.get(&url, &[]);
        pages.push(page.json().as_array().unwrap().clone());
        let link = page.header("Link").map(|link| link.split_once('>').unwrap());
        next = link.map(|(url, relation)| {
            assert_eq!(relation, "; rel=\"next\"");
            url.strip_prefix('<').unwrap().to_owned()
        });
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2, 1]);
    let listed = |kind: &str| -> Vec<String> {
        let entries = pages.iter().flatten().filter(|entry| entry["type"] == kind);
        entries.map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("file"), paths);
    assert_eq!(listed("directory"), ["data", "data/train"]);

    let flat = get(&hub, "/api/datasets/o/n/tree/main/data").json();
    assert_eq!(flat[0]["path"], "data/train");
    assert_eq!(flat[1]["path"], "data/über 1.txt");
    assert_eq!(flat[1]["size"], "data/über 1.txt".len());
    assert_eq!(get(&hub, "/api/datasets/o/n/tree/main/none").status, 404);
}

#[test]
fn facts_about_paths_are_asked_in_json_or_as_a_form() {
    let (hub, _) = hub();
    let url = format!("{}/api/models/Owner/Name/paths-info/main", hub.endpoint());
    let bodies = [
        ("application/json", r#"{"paths": ["model.safetensors", "none"]}"#),
        ("application/x-www-form-urlencoded", "paths=model.safetensors&paths=none&expand=false"),
    ];
    let mut client = Client::default();
    for (content_type, body) in bodies {
        let reply = client.post(&url, content_type, body);
        let facts = reply.json();
        assert_eq!(facts.as_array().unwrap().len(), 1, "{content_type}");
        assert_eq!(facts[0]["lfs"]["oid"], WEIGHTS_SHA256, "{content_type}");
    }
    assert_eq!(client.connections, 1);
    assert_eq!(client.get(&url, &[]).status, 405);
}

#[test]
fn what_is_missing_is_told_apart() {
    let (hub, commit) = hub();
    hub.set_token("right");
    let cases = [
        ("/none/none/resolve/main/x", "", 401, Some("RepoNotFound")),
        ("/none/none/resolve/main/x", "right", 404, Some("RepoNotFound")),
        ("/api/datasets/Owner/Name", "", 401, Some("RepoNotFound")),
        ("/Owner/Name/resolve/none/config.json", "", 404, Some("RevisionNotFound")),
        ("/api/models/Owner/Name/revision/none", "", 404, Some("RevisionNotFound")),
        ("/Owner/Name/resolve/main/none", "", 404, Some("EntryNotFound")),
        ("/none", "", 404, None),
    ];
    for (path, token, status, code) in cases {
        let reply = ask(&hub, path, token);
        assert_eq!((reply.status, reply.header("X-Error-Code")), (status, code), "{path} {token}");
        let head = Client::default().head(&format!("{}{path}", hub.endpoint()), &[]);
        assert!(head.body.is_empty());
    }
    let missing = get(&hub, "/Owner/Name/resolve/main/none");
    assert_eq!(missing.header("X-Repo-Commit"), Some(&*commit));
}

fn ask(hub: &LocalHub, path: &str, token: &str) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", &*bearer)];
    let headers = if token.is_empty() { &[][..] } else { &headers[..] };
    Client::default().get(&format!("{}{path}", hub.endpoint()), headers)
}

#[test]
fn who_may_read_what() {
    let (hub, _) = hub();
    hub.set_token("right");
    let info = "/api/models/Owner/Name";
    let cases = [
        (Access::Private, info, "", 401, Some("RepoNotFound")),
        (Access::Private, info, "wrong", 404, Some("RepoNotFound")),
        (Access::Private, info, "right", 200, None),
        (Access::Private, CONFIG_PATH, "right", 200, None),
        (Access::Private, WEIGHTS_PATH, "right", 302, None),
        (Access::Gated, info, "", 200, None),
        (Access::Gated, CONFIG_PATH, "", 401, Some("GatedRepo")),
        (Access::Gated, CONFIG_PATH, "wrong", 403, Some("GatedRepo")),
        (Access::Gated, WEIGHTS_PATH, "right", 302, None),
        (Access::Disabled, CONFIG_PATH, "right", 403, None),
        (Access::Public, CONFIG_PATH, "wrong", 307, None),
    ];
    for (access, path, token, status, code) in cases {
        hub.set_access(Kind::Model, "Owner/Name", access);
        let reply = ask(&hub, path, token);
        let what = format!("{access:?} {path} {token}");
        assert_eq!((reply.status, reply.header("X-Error-Code")), (status, code), "{what}");
    }
    assert_eq!(hub.requests().iter().filter(|request| request.authorized).count(), 8);
}

#[test]
fn ids_in_another_letter_case_are_redirected() {
    let (hub, _) = hub();
    for (path, right) in [
        ("/owner/NAME/resolve/main/config.json?x=1", "/Owner/Name/resolve/main/config.json?x=1"),
        ("/api/models/owner/name/tree/main", "/api/models/Owner/Name/tree/main"),
    ] {
        let reply = get(&hub, path);
        assert_eq!((reply.status, reply.header("Location")), (307, Some(right)));
    }
}

#[test]
fn requests_are_written_down() {
    let (hub, _) = hub();
    download(&hub);
    let seen = |requests: &[sweep_testkit::hub::Request]| -> Vec<(String, Origin, Option<u16>)> {
        requests.iter().map(|request| (request.method.clone(), request.origin, request.status)).collect()
    };
    let expected = [("HEAD".to_owned(), Origin::Hub, Some(302)), ("GET".to_owned(), Origin::Cdn, Some(200))];
    assert_eq!(seen(&hub.requests()), expected);
    assert!(hub.requests()[1].path.contains("/Owner/Name/"));
    hub.forget_requests();
    assert_eq!(hub.requests(), []);
}

#[test]
fn a_status_on_demand_counts_its_times() {
    let (hub, _) = hub();
    let busy = FaultKind::Status { code: 429, retry_after: Some(7) };
    hub.fault(Fault { at: Step::Get, path: Some("config".into()), kind: busy, times: Some(2) });
    hub.fault(Fault {
        at: Step::Get,
        path: None,
        kind: FaultKind::Status { code: 503, retry_after: None },
        times: Some(1),
    });
    let statuses = [(); 4].map(|()| get(&hub, CONFIG_PATH).status);
    assert_eq!(statuses, [429, 429, 503, 307]);

    hub.fault(always(Step::Api, FaultKind::Status { code: 429, retry_after: Some(7) }));
    hub.fault(always(
        Step::Api,
        FaultKind::Header { name: "x-error-code".into(), value: Some("Odd".into()) },
    ));
    let reply = get(&hub, "/api/models/Owner/Name");
    assert_eq!((reply.status, reply.header("Retry-After")), (429, Some("7")));
    assert_eq!(reply.header("X-Error-Code"), Some("Odd"));
    hub.clear_faults();
    assert_eq!(get(&hub, "/api/models/Owner/Name").status, 200);
}

#[test]
fn a_closed_connection_has_no_answer() {
    let (hub, _) = hub();
    hub.fault(always(Step::Head, FaultKind::Close));
    let reply = Client::default().head(&format!("{}{CONFIG_PATH}", hub.endpoint()), &[]);
    assert_eq!((reply.status, reply.end), (0, End::Early));
    assert_eq!(hub.requests()[0].status, None);
    assert_eq!(get(&hub, CONFIG_PATH).status, 307, "GET is another step");
}

#[test]
fn a_truncated_body_is_shorter_than_announced() {
    let (hub, _) = hub();
    hub.fault(always(Step::Cdn, FaultKind::Truncate { after: 150_000 }));
    let reply = download(&hub);
    assert_eq!((reply.end, reply.header("Content-Length")), (End::Early, Some("200000")));
    assert!(reply.body == weights()[..150_000], "the bytes are others");
}

#[test]
fn a_reset_is_an_error_of_the_socket() {
    let (hub, commit) = hub();
    for after in [0, 3] {
        hub.fault(Fault { at: Step::Get, path: None, kind: FaultKind::Reset { after }, times: Some(1) });
        let reply = get(&hub, &format!("/api/resolve-cache/models/Owner/Name/{commit}/config.json"));
        assert_eq!((reply.status, reply.end), (200, End::Reset));
        assert_eq!(reply.body, CONFIG.as_bytes()[..after as usize]);
    }
    hub.fault(always(Step::Head, FaultKind::Reset { after: 0 }));
    let reply = Client::default().head(&format!("{}{CONFIG_PATH}", hub.endpoint()), &[]);
    assert_eq!((reply.status, reply.end), (0, End::Reset));
    hub.fault(always(Step::Api, FaultKind::Reset { after: 1 }));
    let url = format!("{}/api/models/Owner/Name/paths-info/main", hub.endpoint());
    let reply = Client::default().post(&url, "application/json", r#"{"paths": ["config.json"]}"#);
    assert_eq!((reply.status, reply.end, &*reply.body), (200, End::Reset, &b"["[..]));
}

#[test]
fn a_shrunk_body_looks_flawless() {
    let (hub, _) = hub();
    hub.fault(always(Step::Cdn, FaultKind::Shrink { to: 70_000 }));
    let reply = download(&hub);
    assert_eq!((reply.status, reply.end, reply.header("Content-Length")), (200, End::Whole, Some("70000")));
    assert!(reply.body == weights()[..70_000], "the bytes are others");
}

#[test]
fn a_corrupt_byte_is_the_only_difference() {
    let (hub, _) = hub();
    hub.fault(always(Step::Cdn, FaultKind::Corrupt { at: 123_456 }));
    let mut expected = weights();
    expected[123_456] = !expected[123_456];
    let reply = download(&hub);
    assert_eq!(reply.end, End::Whole);
    assert!(reply.body == expected, "the bytes are others");
    let url = Client::default().head(&format!("{}{WEIGHTS_PATH}", hub.endpoint()), &[]);
    let url = url.header("Location").unwrap();
    for (range, span) in [("bytes=123450-123460", 123_450..123_461), ("bytes=0-9", 0..10)] {
        let part = Client::default().get(url, &[("Range", range)]);
        assert_eq!(part.body, expected[span]);
    }
}

#[test]
fn a_stalled_answer_waits_to_be_resumed() {
    let (hub, commit) = hub();
    hub.fault(Fault { at: Step::Get, path: None, kind: FaultKind::Stall { after: 2 }, times: Some(1) });
    let url = format!("{}/api/resolve-cache/models/Owner/Name/{commit}/config.json", hub.endpoint());
    let reply = std::thread::scope(|scope| {
        let reply = scope.spawn(|| Client::default().get(&url, &[]));
        wait_until("the answer to stall", || (hub.stalled() == 1).then_some(()));
        assert!(!reply.is_finished());
        hub.resume_stalled();
        reply.join().unwrap()
    });
    assert_eq!((reply.end, &*reply.body), (End::Whole, CONFIG.as_bytes()));
    assert_eq!(hub.stalled(), 0);
}

#[test]
fn the_end_of_the_server_ends_what_stalls() {
    let (hub, _) = hub();
    hub.fault(always(Step::Cdn, FaultKind::Stall { after: 100_000 }));
    hub.fault(always(Step::Head, FaultKind::Stall { after: 0 }));
    let endpoint = hub.endpoint();
    let cdn = get(&hub, WEIGHTS_PATH).header("Location").unwrap().to_owned();
    let mut idle = TcpStream::connect(endpoint.strip_prefix("http://").unwrap()).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut first, mut second) = (Client::default(), Client::default());
    std::thread::scope(|scope| {
        let body = scope.spawn(|| first.get(&cdn, &[]));
        let head = scope.spawn(|| second.head(&format!("{endpoint}{CONFIG_PATH}"), &[]));
        wait_until("the answers to stall", || (hub.stalled() == 2).then_some(()));
        drop(hub);
        let (body, head) = (body.join().unwrap(), head.join().unwrap());
        assert_ne!((body.status, body.end), (200, End::Whole));
        assert_eq!(body.body.len(), 100_000);
        assert_eq!((head.status, head.body.len()), (0, 0));
    });
    // An end in good order or, if the server never took this connection, a reset; but no time-out.
    let end = idle.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
}

#[test]
fn a_slow_body_is_whole() {
    let (hub, commit) = hub();
    hub.fault(always(Step::Get, FaultKind::Slow { chunk: 1 }));
    let reply = get(&hub, &format!("/api/resolve-cache/models/Owner/Name/{commit}/config.json"));
    assert_eq!((reply.end, &*reply.body), (End::Whole, CONFIG.as_bytes()));
}

#[test]
fn an_ignored_range_gives_everything() {
    let (hub, _) = hub();
    hub.fault(Fault { at: Step::Cdn, path: None, kind: FaultKind::IgnoreRange, times: Some(1) });
    let url = get(&hub, WEIGHTS_PATH).header("Location").unwrap().to_owned();
    let mut client = Client::default();
    for (status, length) in [(200, WEIGHTS), (206, 10)] {
        let reply = client.get(&url, &[("Range", "bytes=10-19")]);
        assert_eq!((reply.status, reply.body.len()), (status, length));
    }
}

#[test]
fn an_expired_address_is_refused_with_xml() {
    let (hub, _) = hub();
    hub.fault(always(Step::Cdn, FaultKind::ExpiredUrl));
    let reply = download(&hub);
    assert_eq!((reply.status, reply.header("Content-Type")), (403, Some("application/xml")));
    assert!(reply.body.starts_with(b"<?xml"));
}

#[test]
fn headers_are_replaced_or_left_away() {
    let (hub, _) = hub();
    let change = |name: &str, value: Option<&str>| {
        hub.fault(always(
            Step::Head,
            FaultKind::Header { name: name.into(), value: value.map(str::to_owned) },
        ));
    };
    change("x-linked-etag", Some("\"../../x\""));
    change("X-Repo-Commit", None);
    let reply = Client::default().head(&format!("{}{WEIGHTS_PATH}", hub.endpoint()), &[]);
    assert_eq!(reply.header("X-Linked-Etag"), Some("\"../../x\""));
    assert_eq!((reply.header("X-Repo-Commit"), reply.header("X-Linked-Size")), (None, Some("200000")));
}

#[test]
fn faults_of_different_kinds_combine() {
    let (hub, _) = hub();
    for kind in [
        FaultKind::Shrink { to: 1000 },
        FaultKind::Corrupt { at: 1 },
        FaultKind::Truncate { after: 10 },
        FaultKind::Slow { chunk: 4 },
    ] {
        hub.fault(always(Step::Cdn, kind));
    }
    let mut expected = weights()[..10].to_vec();
    expected[1] = !expected[1];
    let reply = download(&hub);
    assert_eq!((reply.end, reply.header("Content-Length")), (End::Early, Some("1000")));
    assert_eq!(reply.body, expected);
}

#[test]
fn repositories_come_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &str, bytes: &[u8]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put("models/o/m/config.json", b"{}");
    put("models/o/m/model.safetensors", b"tiny");
    put("datasets/o/d/README.md", b"#");
    put("datasets/o/d@refs%2Fconvert%2Fparquet/default/train/0000.parquet", b"PAR1");
    put("datasets/o/d/big.csv", &[b'x'; 10_000]);
    let hub = LocalHub::start();
    assert_eq!(hub.add_folder(folder.path()).unwrap(), 3);
    let statuses = [
        ("/o/m/resolve/main/config.json", 307),
        ("/o/m/resolve/main/model.safetensors", 302),
        ("/datasets/o/d/resolve/main/README.md", 307),
        ("/datasets/o/d/resolve/main/big.csv", 302),
        ("/datasets/o/d/resolve/refs%2Fconvert%2Fparquet/default/train/0000.parquet", 302),
    ];
    for (path, status) in statuses {
        assert_eq!(get(&hub, path).status, status, "{path}");
    }
}

#[test]
fn a_client_may_close_and_may_talk_nonsense() {
    let (hub, _) = hub();
    let mut client = Client::default();
    let url = format!("{}/api/models/Owner/Name", hub.endpoint());
    let reply = client.get(&url, &[("Connection", "close")]);
    assert_eq!((reply.status, reply.header("Connection")), (200, Some("close")));
    assert_eq!(client.get(&url, &[]).header("Connection"), None);
    assert_eq!(client.connections, 2);

    let mut stream = TcpStream::connect(hub.endpoint().strip_prefix("http://").unwrap()).unwrap();
    stream.write_all(b"nonsense\r\n\r\n").unwrap();
    // Whether the end looks like one or like a reset does not matter, as long as it comes.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    assert_eq!(client.get(&url, &[]).status, 200);
}

#[test]
fn the_program_serves_a_folder_until_its_input_ends() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("models/o/m");
    fs::create_dir_all(&repository).unwrap();
    fs::write(repository.join("model.safetensors"), weights()).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_local-hub"));
    program.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = program.spawn().unwrap();
    let mut endpoint = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut endpoint).unwrap();
    let mut client = Client::default();
    let redirect = client.get(&format!("{}/o/m/resolve/main/model.safetensors", endpoint.trim_end()), &[]);
    assert!(client.get(redirect.header("Location").unwrap(), &[]).body == weights(), "the bytes are others");
    drop(program.stdin.take());
    assert!(program.wait().unwrap().success());
}
