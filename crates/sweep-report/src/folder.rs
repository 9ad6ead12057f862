//! The report on disk: a folder that appears whole or not at all, and that overwrites nothing but a report.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::figures::{Drawn, draw};
use crate::html::{GENERATOR, page};
use crate::material::Material;

/// Name of the page.
const PAGE: &str = "report.html";
/// Name of the folder of figures.
const FIGURES: &str = "figures";
/// How much of a page is read to know it again.
const HEAD: usize = 512;

/// A form of a figure's own file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Vectors, for papers.
    Svg,
    /// Pixels, for slides.
    Png,
}

impl Form {
    const fn extension(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The page.
    pub page: PathBuf,
    /// The figures that are drawn, and those that are not.
    pub drawn: Drawn,
}

/// Writes `report.html` and, in the asked forms, `figures/NAME.svg` and `figures/NAME.png` into `folder`. A report that is there
/// already is replaced; everything is written beside it first, so that a reader finds the old or the new one.
///
/// # Errors
/// [`Error::Foreign`] where the folder holds anything that a report does not write; nothing is touched then.
pub fn write(material: &Material, folder: &Path, forms: &[Form]) -> Result<Written> {
    refuse_foreign(folder)?;
    let drawn = draw(material);
    let html = page(material, &drawn)?;
    let temporary = beside(folder, "tmp");
    remove(&temporary)?;
    let filled = fill(&temporary, &html, &drawn, forms).and_then(|()| replace(folder, &temporary));
    if filled.is_err() {
        // What is half written is of no use; where not even that can be removed, the first failure is what matters.
        let _ = fs::remove_dir_all(&temporary);
    }
    filled?;
    Ok(Written { page: folder.join(PAGE), drawn })
}

/// Returns the path of a neighbour of the folder that only this program uses.
pub(crate) fn beside(folder: &Path, what: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(folder.file_name().unwrap_or_else(|| "report".as_ref()));
    name.push(format!(".{what}-{}", std::process::id()));
    folder.with_file_name(name)
}

fn fill(folder: &Path, html: &str, drawn: &Drawn, forms: &[Form]) -> Result<()> {
    let put =
        |path: PathBuf, bytes: &[u8]| fs::write(&path, bytes).map_err(|source| Error::Write { path, source });
    let figures = folder.join(FIGURES);
    fs::create_dir_all(&figures).map_err(|source| Error::Write { path: figures.clone(), source })?;
    put(folder.join(PAGE), html.as_bytes())?;
    for figure in &drawn.figures {
        for form in forms {
            let bytes = match form {
                Form::Svg => figure.sheet()?.into_bytes(),
                Form::Png => figure.png()?,
            };
            put(figures.join(format!("{}.{}", figure.name, form.extension())), &bytes)?;
        }
    }
    Ok(())
}

/// Moves a new folder to the place of an old one, which is deleted then.
pub(crate) fn replace(folder: &Path, temporary: &Path) -> Result<()> {
    let failed = |source| Error::Write { path: folder.to_owned(), source };
    let old = beside(folder, "old");
    remove(&old)?;
    if folder.exists() {
        fs::rename(folder, &old).map_err(failed)?;
    }
    fs::rename(temporary, folder).map_err(failed)?;
    remove(&old)
}

/// Deletes a folder, if it is there.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Write { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Refuses a folder with entries that are not a report's.
fn refuse_foreign(folder: &Path) -> Result<()> {
    let failed = |source| Error::Write { path: folder.to_owned(), source };
    let foreign = |entry: &str| Error::Foreign { folder: folder.to_owned(), entry: entry.to_owned() };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let is_ours = match name.to_str() {
            Some(PAGE) => is_page(&folder.join(PAGE)).map_err(failed)?,
            Some(FIGURES) => {
                folder.join(PAGE).is_file() && holds_figures(&folder.join(FIGURES)).map_err(failed)?
            }
            _ => false,
        };
        if !is_ours {
            return Err(foreign(&name.to_string_lossy()));
        }
    }
    Ok(())
}

fn is_page(path: &Path) -> io::Result<bool> {
    use io::Read as _;
    let mut head = Vec::new();
    fs::File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(String::from_utf8_lossy(&head).contains(GENERATOR))
}

/// Whether a folder holds pictures and nothing else.
fn holds_figures(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("svg" | "png")) {
            return Ok(false);
        }
    }
    Ok(true)
}
