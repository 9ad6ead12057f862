//! Opening the database of a home folder.

use std::fs;
use std::io;
use std::path::Path;

use sweep_core::home::Home;
use sweep_store::Store;

use crate::error::Error;

/// Opens the database of a home folder for a session, and creates it where nothing was run there yet.
///
/// # Errors
/// [`Error::Forgotten`] where there is no database but attempts, of which a new one would know nothing;
/// [`Error::Scan`]; those of [`Store::open`].
pub async fn open(home: &Home) -> Result<Store, Error> {
    let path = home.database();
    if !path.exists() && has_attempts(home)? {
        return Err(Error::Forgotten { database: path, home: home.root().to_owned() });
    }
    Ok(Store::open(path).await?)
}

/// Returns whether any run was ever begun in a home folder.
fn has_attempts(home: &Home) -> Result<bool, Error> {
    let runs = home.root().join("runs");
    for run in names(&runs)? {
        let attempts = names(&runs.join(run))?;
        if attempts.iter().any(|name| name.starts_with("attempt-")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the names in a folder, in no order; none where there is no folder.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Scan { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use sweep_testkit::{Workspace, id_of};

    use super::*;

    #[tokio::test]
    async fn a_database_is_made_only_where_nothing_was_run_yet() {
        let workspace = Workspace::new();
        let home = workspace.layout();
        fs::create_dir_all(home.run(id_of(0))).unwrap();
        fs::write(home.root().join("runs/notes.txt"), "").unwrap();
        open(&home).await.unwrap().close().await.unwrap();
        fs::create_dir(home.attempt(id_of(0), 1)).unwrap();
        open(&home).await.unwrap().close().await.unwrap();
        fs::remove_file(home.database()).unwrap();
        let error = open(&home).await.unwrap_err();
        assert!(matches!(error, Error::Forgotten { .. }), "{error}");
        assert!(error.to_string().contains("sweep rebuild") && !home.database().exists(), "{error}");
    }
}
