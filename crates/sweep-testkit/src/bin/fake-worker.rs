//! A worker that does what a script says, for tests of everything around workers.

use std::process::ExitCode;

fn main() -> ExitCode {
    sweep_testkit::worker::main()
}
