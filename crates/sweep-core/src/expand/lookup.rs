//! Looking a dataset up by its name, outside of any grid.

use super::{Expansion, Resolve};
use crate::dataset::DatasetSpec;
use crate::file::Sweep;
use crate::problem::Problems;
use crate::spec::Named;

impl Sweep {
    /// Returns a sweep with nothing but what the program itself defines.
    pub fn built_in() -> Self {
        Self::parse(b"name: built-in", &[]).expect("a sweep may define nothing")
    }

    /// Returns the dataset called `name`: one of the file's `datasets`, or a built-in one.
    ///
    /// # Errors
    /// An unknown name, with the nearest one; everything wrong with the definition.
    pub fn dataset(&self, name: &str, resolve: &dyn Resolve) -> Result<Named<DatasetSpec>, Problems> {
        let mut expansion = Expansion::new(self, resolve);
        let found = expansion.dataset(name, "");
        expansion.problems.finish()?;
        let definition = found.expect("a dataset that is not found is a problem").spec;
        Ok(Named { name: name.to_owned(), definition })
    }
}

impl DatasetSpec {
    /// Returns whether both describe the same images in the same splits, wherever they lie.
    pub fn is_same(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::dataset::{DatasetSource, Decoding};

    struct Nothing;

    impl Resolve for Nothing {
        fn weights(&self, _: &Path) -> Result<(PathBuf, String), String> {
            Err("there are no files".to_owned())
        }

        fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
            if path.ends_with("here") {
                Ok((path.into(), "d".repeat(64)))
            } else {
                Err("there is nothing".to_owned())
            }
        }

        fn pictures(&self, path: &Path) -> Result<(PathBuf, String), String> {
            Ok((path.join("found"), "e".repeat(64)))
        }
    }

    #[test]
    fn folders_of_pictures_are_resolved_too() {
        let sweep = Sweep::parse(b"name: s\ndatasets: {a: {source: {kind: folder, path: p}}}", &[]).unwrap();
        let found = sweep.dataset("a", &Nothing).unwrap().definition.source;
        let decoding = Decoding::default();
        let expected =
            DatasetSource::Folder { path: "p/found".into(), digest: Some("e".repeat(64)), decoding };
        assert_eq!(found, expected);
    }

    #[test]
    fn datasets_are_found_by_name_or_the_nearest_is_named() {
        let sweep = Sweep::parse(
            b"name: s\ndatasets: {a: {source: {kind: parquet, path: one/here}}, b: {source: {kind: parquet, path: two/here}},
              c: {source: {kind: parquet, path: gone}}}",
            &[],
        );
        let sweep = sweep.unwrap();
        let find = |name: &str| sweep.dataset(name, &Nothing);
        let (a, b) = (find("a").unwrap(), find("b").unwrap());
        assert!(a.definition.is_same(&b.definition), "paths are no part of what a dataset is");
        assert_eq!(find("shapes").unwrap(), Sweep::built_in().dataset("shapes", &Nothing).unwrap());
        assert!(!a.definition.is_same(&find("shapes").unwrap().definition));
        assert!(find("c").unwrap_err().to_string().contains("there is nothing"));
        let unknown = Sweep::built_in().dataset("shaped", &Nothing).unwrap_err().to_string();
        assert!(unknown.contains("did you mean `shapes`?"), "{unknown}");
    }
}
