//! Serves repositories from a folder as the Hub does, for tests by scripts.
//!
//! `local-hub FOLDER` serves `FOLDER/models/OWNER/NAME[@REVISION]/**` and `FOLDER/datasets/OWNER/NAME[@REVISION]/**`,
//! prints its endpoint on the first line of standard output and ends when standard input ends.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use sweep_testkit::hub::LocalHub;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        let _ = writeln!(io::stderr(), "usage: local-hub FOLDER");
        return ExitCode::from(2);
    };
    match serve(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "local-hub: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn serve(folder: &Path) -> io::Result<()> {
    let hub = LocalHub::start();
    if hub.add_folder(folder)? == 0 {
        return Err(io::Error::other("there is neither models/OWNER/NAME nor datasets/OWNER/NAME"));
    }
    writeln!(io::stdout(), "{}", hub.endpoint())?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
