//! `sweep serve` as its users run it: beside a grid of scripted workers.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sweep_testkit::{Action, PATIENCE, Script, Workspace, fake_worker};

const SWEEP: &str = "
name: two
run: {backbone: b, dataset: shapes, epochs: 1, learning_rate_schedule: {kind: constant}, evaluation: {attack: {kind: apgd, steps: 2}, max_epsilon: 2/255}}
backbones: {b: {architecture: {kind: vit, image_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}, weights: {kind: random}}}
matrix: {target_epsilon: [1/255, 2/255], epsilon_schedule: [{kind: fixed}]}
";

/// A server that ends with this value.
struct Serving {
    child: Child,
    url: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already where a test has ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.join("huggingface")).env("SWEEP_HOME", home);
    command.env_remove("SWEEP_WORKER").env_remove("SWEEP_LOG").env_remove("SWEEP_TOKEN");
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A home with a sweep of two runs, done.
fn workspace() -> Workspace {
    let workspace = Workspace::new();
    workspace.script(&Script::always([
        Action::Start,
        Action::Epoch { clean: 60, robust: 30 },
        Action::Evaluate { correct: vec![80, 70, 60] },
        Action::Succeed,
    ]));
    let file = workspace.home().join("sweep.yaml");
    fs::write(&file, SWEEP).unwrap();
    let worker = fake_worker().to_str().unwrap();
    let run = ["run", file.to_str().unwrap(), "--devices", "cpu:2", "--worker", worker];
    let output = command(workspace.home(), &run).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    workspace
}

fn serve(home: &Path, arguments: &[&str]) -> Serving {
    let arguments = [&["serve", "--address", "127.0.0.1:0"], arguments].concat();
    let mut child = command(home, &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
    Serving { child, url: url.trim_end().to_owned() }
}

fn refused(home: &Path, arguments: &[&str]) -> String {
    let Output { status, stderr, stdout } =
        command(home, &[&["serve"], arguments].concat()).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.as_slice()), (Some(2), &b""[..]), "{text}");
    text
}

/// Returns status and body of a page.
fn get(host: &str, path: &str, called: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {called}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_grid_is_shown_to_its_own_machine_until_a_signal() {
    let workspace = workspace();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut serving = serve(workspace.home(), &["--sweep", "two"]);
        let host = serving.url.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
        assert!(host.starts_with("127.0.0.1:"), "{}", serving.url);
        assert_eq!(get(&host, "/", &host).0, 303);
        let (status, page) = get(&host, "/sweep/1", &host);
        assert!(status == 200 && page.contains("70.00") && page.contains("60.00"), "{page}");
        assert_eq!(get(&host, "/sweep/1", "evil.org").0, 421);
        // Somebody who follows a page does not keep the server from ending.
        let mut following = TcpStream::connect(&host).unwrap();
        write!(following, "GET /sweep/1/events HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        following.read_exact(&mut [0; 15]).unwrap();
        kill(Pid::from_raw(serving.child.id() as i32), signal).unwrap();
        assert_eq!(serving.child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn what_cannot_be_served_is_said() {
    let workspace = Workspace::new();
    assert!(refused(workspace.home(), &[]).contains("there are no results yet"));
    let workspace = self::workspace();
    let home = workspace.home();
    let open = refused(home, &["--address", "0.0.0.0:0"]);
    assert!(open.contains("readers must show a token") && open.contains("openssl rand -hex 16"), "{open}");
    assert!(refused(home, &["--token", "short"]).contains("16 to 256"));
    assert!(refused(home, &["--sweep", "three"]).contains("there is no sweep `three`; there is `two`"));
    let serving = serve(home, &[]);
    let address = serving.url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let busy = refused(home, &["--address", address]);
    assert!(busy.contains("another program has it") && busy.contains("--address 127.0.0.1:0"), "{busy}");
    let guarded = serve(home, &["--token", "a-token-of-enough-letters"]);
    let (address, token) = guarded.url.strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
    assert_eq!(token, "a-token-of-enough-letters");
    assert_eq!(get(address, "/sweep/1", address).0, 401);
}
