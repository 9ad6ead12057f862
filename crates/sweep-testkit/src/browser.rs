//! A browser for tests: Chromium without a window, spoken to through pipes. It is asked in JSON with a zero byte behind every
//! message (its DevTools protocol), on descriptors 3 and 4, which a shell opens from two named pipes.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::wait::{INTERVAL, PATIENCE};

/// Programs that are Chromium under one of its names.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// What the browser is started with: as root, in a container, without a window and without calling home.
const ARGUMENTS: &str = "--headless=new --no-sandbox --disable-gpu --disable-extensions --disable-background-networking \
    --no-first-run --remote-debugging-pipe about:blank";

/// One tab of a browser that ends with this value.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    questions: File,
    answers: Receiver<Value>,
    session: Option<String>,
    asked: u64,
    complaints: Vec<String>,
}

/// Returns Chromium, if this machine has it.
pub fn chromium() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let paths = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    paths.into_iter().find(|path| path.is_file())
}

impl Browser {
    /// Starts `program` with its profile and pipes in `folder`.
    ///
    /// # Panics
    /// Panics if it does not start or does not answer.
    pub fn start(program: &Path, folder: &Path) -> Self {
        let (inward, outward) = (folder.join("browser-in"), folder.join("browser-out"));
        for pipe in [&inward, &outward] {
            nix::unistd::mkfifo(pipe, Mode::S_IRWXU).expect("the folder takes named pipes");
        }
        // Opened for both directions, so that opening waits for nobody.
        let open =
            |pipe: &Path| OpenOptions::new().read(true).write(true).open(pipe).expect("the pipe is there");
        let (questions, answers) = (open(&inward), open(&outward));
        let child = Command::new("sh")
            .args(["-c", &format!("exec \"$1\" {ARGUMENTS} --user-data-dir=\"$2\" 3<\"$3\" 4>\"$4\""), "sh"])
            .arg(program)
            .arg(folder.join("profile"))
            .args([&inward, &outward])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell starts");
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { break };
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut browser =
            Self { child, questions, answers: receiver, session: None, asked: 0, complaints: Vec::new() };
        let tab = browser.ask("Target.createTarget", &json!({"url": "about:blank"}));
        let attached =
            browser.ask("Target.attachToTarget", &json!({"targetId": tab["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.ask(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Opens an address and waits until its page is loaded.
    pub fn open(&mut self, address: &str) {
        self.ask("Page.navigate", &json!({ "url": address }));
        self.wait_for(
            "the page",
            &format!("location.href === {} && document.readyState === 'complete'", json!(address)),
        );
    }

    /// Makes the window as wide, in CSS pixels, and the page light or dark.
    pub fn look(&mut self, width: u32, is_dark: bool) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
        self.ask("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.ask("Emulation.setEmulatedMedia", &features);
    }

    /// Returns the value of an expression in the page; a promise is waited for.
    ///
    /// # Panics
    /// Panics if it throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.ask("Runtime.evaluate", &asked);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// Panics with `what`, and what the page shows instead, if it does not become so.
    pub fn wait_for(&mut self, what: &str, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.evaluate(expression) != Value::Bool(true) {
            if Instant::now() > deadline {
                let shown = self.evaluate("location.href + '\\n' + document.body.innerText");
                panic!("waited in vain for {what}: {expression}\n{shown:#}\n{:#?}", self.complaints);
            }
            std::thread::sleep(INTERVAL);
        }
    }

    /// Clicks in the middle of the first element that fits a selector, as a person does.
    ///
    /// # Panics
    /// Panics if there is none.
    pub fn click(&mut self, selector: &str) {
        let place = format!(
            "(() => {{ const element = document.querySelector({}); if (!element) return null;
                element.scrollIntoView({{block: 'center'}}); const box = element.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2]; }})()",
            json!(selector)
        );
        let place = self.evaluate(&place);
        assert!(place.is_array(), "there is no {selector}");
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", &event);
        }
    }

    /// Returns what pages complained about since the last call: errors, what a policy kept out, and exceptions.
    pub fn complaints(&mut self) -> Vec<String> {
        self.evaluate("0");
        std::mem::take(&mut self.complaints)
    }

    /// Asks and waits for the answer; what comes in between is looked at for complaints.
    fn ask(&mut self, method: &str, parameters: &Value) -> Value {
        self.asked += 1;
        let mut question = json!({"id": self.asked, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            question["sessionId"] = json!(session);
        }
        let question = format!("{question}\0");
        self.questions.write_all(question.as_bytes()).expect("the pipe is open");
        loop {
            let answer = self.answers.recv_timeout(PATIENCE);
            let mut answer =
                answer.unwrap_or_else(|error| panic!("the browser says nothing to {method}: {error}"));
            if answer["id"] == self.asked {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.listen(&answer);
        }
    }

    fn listen(&mut self, event: &Value) {
        let parameters = &event["params"];
        let is_bad = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => parameters["type"] != "log",
            Some("Log.entryAdded") => parameters["entry"]["level"] != "verbose",
            _ => false,
        };
        if is_bad {
            self.complaints.push(parameters.to_string());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
