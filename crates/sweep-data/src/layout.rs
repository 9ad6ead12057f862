//! Which files of a folder or a repository hold which split, told by their names alone.
//!
//! One set of rules serves the reader and whoever fetches the files: what is fetched is what is read. A file
//! `<name>.parquet` belongs to the split `<split>` where it lies as
//!
//! - `<split>.parquet` or `<split>-….parquet`, at the top or in `data/`;
//! - `data/<split>/….parquet`, or `<split>/<number>.parquet` at the top;
//! - `<config>/<split>.parquet`, `<config>/<split>-….parquet` or `<config>/<split>/….parquet`, the last as in the Hub's
//!   branch `refs/convert/parquet`.
//!
//! What has no configuration in its path belongs to the one called `default`, as on the Hub.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sweep_core::dataset::{SplitPolicy, ValidationPolicy};

use crate::error::{Error, Result};

/// The name under which all splits are read together.
pub(crate) const ALL_SPLITS: &str = "*";

/// The configuration of files that lie in none.
const DEFAULT: &str = "default";

/// Returns which of `paths` (relative, with `/`) a dataset with these splits needs, sorted: exactly the files that
/// [`Dataset::load`](crate::Dataset::load) will read when they lie below the `folder` of a
/// [`DatasetSource::Hub`](sweep_core::dataset::DatasetSource::Hub). `place` stands for the list in errors: a folder, or
/// `owner/name@commit`.
///
/// # Errors
/// A split without files; one whose files lie in several configurations while `config` chooses none, or in several
/// forms; one of whose shards (`…-00001-of-00003`) is missing.
pub fn parquet_files(
    paths: &[String],
    config: Option<&str>,
    splits: &SplitPolicy,
    place: &Path,
) -> Result<Vec<String>> {
    let needed: Vec<&str> = match splits {
        SplitPolicy::Pooled { .. } => vec![ALL_SPLITS],
        SplitPolicy::Given { train, validation: ValidationPolicy::Split { name }, test, .. } => {
            vec![train, name, test]
        }
        SplitPolicy::Given { train, test, .. } => vec![train, test],
    };
    let mut files = BTreeSet::new();
    for split in needed {
        files.extend(split_files(paths, config, split, place)?);
    }
    Ok(files.into_iter().collect())
}

/// Returns which of `paths` hold `split`, in the order in which they are read.
pub(crate) fn split_files(
    paths: &[String],
    config: Option<&str>,
    split: &str,
    place: &Path,
) -> Result<Vec<String>> {
    let listed: Vec<Listed<'_>> = paths.iter().filter_map(|path| Listed::new(path)).collect();
    let mut files: Vec<&Listed<'_>> = listed.iter().filter(|file| file.holds(split)).collect();
    choose_config(&mut files, config, split, place)?;
    if files.is_empty() {
        return Err(no_files(place, split, paths.to_vec()));
    }
    files.sort_by_key(|file| file.path);
    let names = || files.iter().map(|file| file.path.to_owned()).collect::<Vec<_>>();
    let forms: BTreeSet<_> = files.iter().map(|file| (file.folder, file.stem == split)).collect();
    if split != ALL_SPLITS && forms.len() > 1 {
        return Err(ambiguous(place, split, names()));
    }
    check_shards(&files, split, place)?;
    Ok(names())
}

pub(crate) fn no_files(folder: &Path, split: &str, found: Vec<String>) -> Error {
    Error::NoFiles { folder: folder.to_owned(), split: split.to_owned(), found }
}

pub(crate) fn ambiguous(folder: &Path, split: &str, found: Vec<String>) -> Error {
    Error::AmbiguousFiles { folder: folder.to_owned(), split: split.to_owned(), found }
}

/// Leaves the files of one configuration.
fn choose_config(
    files: &mut Vec<&Listed<'_>>,
    config: Option<&str>,
    split: &str,
    place: &Path,
) -> Result<()> {
    let configs: BTreeSet<&str> = files.iter().map(|file| file.config).collect();
    let available = configs.iter().map(|config| (*config).to_owned()).collect();
    let (folder, split) = (place.to_owned(), split.to_owned());
    match config {
        Some(name) if !configs.is_empty() && !configs.contains(name) => {
            Err(Error::UnknownConfig { folder, config: name.to_owned(), split, available })
        }
        Some(name) => {
            files.retain(|file| file.config == name);
            Ok(())
        }
        None if configs.len() > 1 => Err(Error::SeveralConfigs { folder, split, available }),
        None => Ok(()),
    }
}

/// A parquet file, its path taken apart.
#[derive(Debug)]
struct Listed<'a> {
    path: &'a str,
    folder: &'a str,
    config: &'a str,
    /// The folder that stands for a split, where there is one; the file's own name says nothing then.
    split_folder: Option<&'a str>,
    /// The file's name without `.parquet`.
    stem: &'a str,
}

impl<'a> Listed<'a> {
    /// Takes a path apart; `None` where it is no parquet file or lies too deep to be a part of a split.
    fn new(path: &'a str) -> Option<Self> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let stem = name.strip_suffix(".parquet")?;
        let parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        let (config, split_folder) = match parts[..] {
            [] | ["data"] => (DEFAULT, None),
            [split] if is_named_after(stem, split) => (DEFAULT, Some(split)),
            [config] => (config, None),
            ["data", split] => (DEFAULT, Some(split)),
            [config, split] => (config, Some(split)),
            _ => return None,
        };
        Some(Self { path, folder, config, split_folder, stem })
    }

    fn holds(&self, split: &str) -> bool {
        match self.split_folder {
            _ if split == ALL_SPLITS => true,
            Some(folder) => folder == split,
            None => self.stem == split || continues(self.stem, split),
        }
    }

    /// Returns the parts of a name such as `train-00001-of-00003`: `train`, `00001`, `00003`.
    fn shard(&self) -> Option<(&'a str, &'a str, &'a str)> {
        let (rest, total) = self.stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-').unwrap_or(("", rest));
        (is_number(number) && is_number(total)).then_some((prefix, number, total))
    }
}

/// Returns whether a file called `stem` in a folder at the top shows that the folder is a split, not a configuration.
fn is_named_after(stem: &str, split: &str) -> bool {
    is_number(stem) || stem == split || continues(stem, split)
}

fn continues(stem: &str, split: &str) -> bool {
    stem.strip_prefix(split).is_some_and(|rest| rest.starts_with('-'))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The shards of one split that are there.
#[derive(Default)]
struct Series<'a> {
    totals: BTreeSet<&'a str>,
    numbers: BTreeSet<u32>,
}

impl Series<'_> {
    /// Returns the first number that is missing of `count`. They begin with 0, or with 1 where the last is `count`.
    fn missing(&self, count: u32) -> Option<u32> {
        let first = u32::from(self.numbers.contains(&count));
        (first..first.saturating_add(count)).find(|number| !self.numbers.contains(number))
    }
}

/// Refuses shards that do not agree on their number, and those of which one is missing.
fn check_shards(files: &[&Listed<'_>], split: &str, place: &Path) -> Result<()> {
    let mut all: BTreeMap<(&str, &str), Series<'_>> = BTreeMap::new();
    for file in files {
        if let Some((prefix, number, total)) = file.shard() {
            let series = all.entry((file.folder, prefix)).or_default();
            series.totals.insert(total);
            series.numbers.extend(number.parse::<u32>());
        }
    }
    for ((folder, prefix), series) in all {
        let (Some(total), 1) = (series.totals.first(), series.totals.len()) else {
            return Err(ambiguous(place, split, files.iter().map(|file| file.path.to_owned()).collect()));
        };
        if let Some(missing) = series.missing(total.parse().unwrap_or(u32::MAX)) {
            let (slash, dash) =
                (if folder.is_empty() { "" } else { "/" }, if prefix.is_empty() { "" } else { "-" });
            let width = total.len();
            let shard = format!("{folder}{slash}{prefix}{dash}{missing:0width$}-of-{total}.parquet");
            return Err(Error::MissingShard { folder: place.to_owned(), split: split.to_owned(), shard });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(validation: ValidationPolicy) -> SplitPolicy {
        let (train, test) = ("train".to_owned(), "test".to_owned());
        SplitPolicy::Given { train, validation, test, test_subset: None }
    }

    fn drawn() -> SplitPolicy {
        given(ValidationPolicy::PerClass { count: 1, seed: 0 })
    }

    const POOLED: SplitPolicy = SplitPolicy::Pooled { train_per_class: 1, validation_per_class: 1, seed: 0 };

    fn files(paths: &[&str], config: Option<&str>, splits: &SplitPolicy) -> Result<String, String> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let files = parquet_files(&paths, config, splits, Path::new("owner/name"));
        files.map(|files| files.join(" ")).map_err(|error| error.to_string())
    }

    #[test]
    fn every_layout_of_the_hub_is_found() {
        let layouts: [&[&str]; 9] = [
            &["test.parquet", "train.parquet"],
            &["test-0.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
            &["data/test-00000-of-00001-0a1b.parquet", "data/train-00000-of-00001-77.parquet"],
            &["data/test.parquet", "data/train.parquet"],
            &["data/test/any.parquet", "data/train/a.parquet", "data/train/b.parquet"],
            &["test/0000.parquet", "train/0000.parquet", "train/0001.parquet"],
            &["test/test-0.parquet", "train/train-0.parquet"],
            &["default/test/0000.parquet", "default/train/0000.parquet", "default/train/0001.parquet"],
            &["birds/test-00000-of-00001.parquet", "birds/train-00000-of-00001.parquet"],
        ];
        for layout in layouts {
            let others =
                ["README.md", "data/validation/x.parquet.md", "a/b/c/train.parquet", "trains.parquet"];
            let all: Vec<&str> = layout.iter().rev().chain(&others).copied().collect();
            assert_eq!(files(&all, None, &drawn()), Ok(layout.join(" ")));
        }
    }

    #[test]
    fn only_what_the_splits_need_is_named() {
        let all = [
            "data/extra-0.parquet",
            "data/test-0.parquet",
            "data/train-0.parquet",
            "data/validation-0.parquet",
        ];
        assert_eq!(files(&all, None, &drawn()), Ok([all[1], all[2]].join(" ")));
        let named = given(ValidationPolicy::Split { name: "validation".to_owned() });
        assert_eq!(files(&all, None, &named), Ok(all[1..].join(" ")));
        assert_eq!(files(&all, None, &POOLED), Ok(all.join(" ")));
        let missing = files(&all[..2], None, &drawn());
        let expected = "owner/name has no parquet file for the split \"train\" (found: data/extra-0.parquet, \
                        data/test-0.parquet)";
        assert_eq!(missing, Err(expected.to_owned()));
    }

    #[test]
    fn a_configuration_is_chosen_by_name() {
        let all = ["a/test/0000.parquet", "a/train/0000.parquet", "b/test-0.parquet", "b/train-0.parquet"];
        assert_eq!(files(&all, Some("a"), &drawn()), Ok(all[..2].join(" ")));
        assert_eq!(files(&all, Some("b"), &POOLED), Ok(all[2..].join(" ")));
        let expected =
            "owner/name has several configurations with the split \"train\": choose one with `config` (a, b)";
        assert_eq!(files(&all, None, &drawn()), Err(expected.to_owned()));
        let expected =
            "owner/name has no configuration \"c\" with the split \"train\" (configurations: a, b)";
        assert_eq!(files(&all, Some("c"), &drawn()), Err(expected.to_owned()));
        let mixed = ["data/test-0.parquet", "data/train-0.parquet", "a/test-0.parquet", "a/train-0.parquet"];
        assert_eq!(files(&mixed, Some("default"), &drawn()), Ok(mixed[..2].join(" ")));
        assert!(files(&mixed, None, &POOLED).unwrap_err().contains("(a, default)"));
    }

    #[test]
    fn a_configuration_called_like_a_split_does_not_lend_it_its_files() {
        let all = ["test/test-0.parquet", "test/train-0.parquet"];
        assert_eq!(files(&all[1..], None, &POOLED), Ok(all[1].to_owned()));
        assert!(files(&all, None, &drawn()).is_ok_and(|files| files == all.join(" ")));
        assert!(files(&all[1..], None, &drawn()).unwrap_err().contains("the split \"test\""));
    }

    #[test]
    fn two_forms_of_one_split_are_ambiguous() {
        let ambiguous = |second: &str| {
            let found = files(&["data/train-1.parquet", second, "test.parquet"], None, &drawn());
            found.is_err_and(|error| error.contains("more than one set of files"))
        };
        for second in ["train.parquet", "train-0.parquet", "data/train/0.parquet", "data/train.parquet"] {
            assert!(ambiguous(second), "{second}");
        }
        assert!(!ambiguous("data/train-2.parquet"));
    }

    #[test]
    fn a_missing_shard_is_named() {
        let cases: [(&[&str], &str); 5] = [
            (
                &["data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"],
                "data/train-00001-of-00003",
            ),
            (&["train-0-of-2.parquet"], "train-1-of-2"),
            (&["train-2-of-2.parquet"], "train-1-of-2"),
            (&["c/train/1-of-3.parquet", "c/train/3-of-3.parquet"], "c/train/2-of-3"),
            (&["train-000-of-999999999.parquet"], "train-000000001-of-999999999"),
        ];
        for (shards, expected) in cases {
            let all: Vec<&str> =
                shards.iter().chain(&["test.parquet", "c/test/0.parquet"]).copied().collect();
            let config = shards[0].starts_with("c/").then_some("c").or(Some("default"));
            let expected = format!("owner/name lacks {expected}.parquet, a part of the split \"train\"");
            assert_eq!(files(&all, config, &drawn()), Err(expected));
        }
        let from_one = ["test.parquet", "train-1-of-2.parquet", "train-2-of-2.parquet"];
        assert_eq!(files(&from_one, None, &drawn()), Ok(from_one.join(" ")));
        let twice = ["test.parquet", "train-0-of-1.parquet", "train-0-of-2.parquet", "train-1-of-2.parquet"];
        assert!(files(&twice, None, &drawn()).unwrap_err().contains("more than one set of files"));
    }
}
