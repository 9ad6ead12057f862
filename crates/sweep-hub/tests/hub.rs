//! What the rest of the program relies on: pinning, listing, fetching, finding again, offline, and who sees the token.

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use support::*;
use sweep_hub::{Commit, Digest, Error, Hub, Progress, Repository, RepositoryKind, Settings, Token};
use sweep_testkit::hub::{Access, Content, FaultKind, Kind, LocalHub, Origin, Step};

#[tokio::test]
async fn files_come_to_where_python_keeps_them() {
    let fixture = Fixture::new();
    let paths = fixture.fetch(&[CONFIG, WEIGHTS, "README.md", CONFIG]).await.unwrap();
    assert_eq!(paths, [CONFIG, WEIGHTS, "README.md", CONFIG].map(|path| fixture.link(path)));
    assert_eq!(fs::read(&paths[0]).unwrap(), config());
    assert_eq!(fs::read(&paths[1]).unwrap(), weights());
    assert_eq!(fs::read(&paths[2]).unwrap(), b"");
    let blobs = "../../../blobs/".to_owned() + &digest(&config(), 40);
    assert_eq!(fs::read_link(&paths[0]).unwrap().to_str().unwrap(), blobs);
    let blobs = "../../blobs/".to_owned() + &digest(&weights(), 64);
    assert_eq!(fs::read_link(&paths[1]).unwrap().to_str().unwrap(), blobs);
    fixture.assert_sound();
}

#[tokio::test]
async fn what_is_pinned_and_cached_needs_no_request() {
    let fixture = Fixture::new();
    let paths = fixture.fetch(&[WEIGHTS, CONFIG]).await.unwrap();
    fixture.hub.forget_requests();
    let hub = fixture.client();
    assert_eq!(hub.resolve(&model(), fixture.commit.as_str()).await.unwrap(), fixture.commit);
    assert_eq!(hub.files(&model(), &fixture.commit).await.unwrap().len(), 3);
    assert_eq!(fetch(&hub, &model(), &fixture.commit, &[WEIGHTS, CONFIG]).await.unwrap(), paths);
    assert_eq!(hub.cached(&model(), &fixture.commit, WEIGHTS).unwrap().as_ref(), Some(&paths[0]));
    assert_eq!(fixture.hub.requests(), []);
}

#[tokio::test]
async fn revisions_are_pinned_and_remembered() {
    let fixture = Fixture::new();
    let files = [("test-00000-of-00001.parquet", Content::Lfs(vec![7; 100]))];
    let parquet = fixture.hub.commit(Kind::Dataset, "owner/data", "refs/convert/parquet", &files);
    let dataset = Repository::new(RepositoryKind::Dataset, "owner/data").unwrap();
    let revision = "refs/convert/parquet";
    let offline = fixture.offline();
    let error = offline.resolve(&dataset, revision).await.unwrap_err();
    assert!(matches!(error, Error::Offline { .. }), "{error:?}");
    let commit = fixture.client().resolve(&dataset, revision).await.unwrap();
    assert_eq!(commit.as_str(), parquet);
    let reference = fixture.cache().join("datasets--owner--data/refs/refs/convert/parquet");
    assert_eq!(fs::read_to_string(&reference).unwrap(), parquet);
    assert_eq!(offline.resolve(&dataset, revision).await.unwrap(), commit);
    // The branch moves: online sees it, and offline from then on.
    let moved = fixture.hub.commit(Kind::Dataset, "owner/data", revision, &[("x", Content::Git(vec![1]))]);
    assert_eq!(offline.resolve(&dataset, revision).await.unwrap(), commit);
    assert_eq!(fixture.client().resolve(&dataset, revision).await.unwrap().as_str(), moved);
    assert_eq!(offline.resolve(&dataset, revision).await.unwrap().as_str(), moved);
    // The old commit still has its files.
    let paths = fetch(&fixture.client(), &dataset, &commit, &["test-00000-of-00001.parquet"]).await.unwrap();
    assert_eq!(fs::read(&paths[0]).unwrap(), vec![7; 100]);
}

#[tokio::test]
async fn listings_have_all_pages_sizes_and_digests() {
    let fixture = Fixture::new();
    let many: Vec<(String, Content)> = (0..25)
        .map(|index| (format!("data/{index:02}"), Content::Git(vec![index; usize::from(index)])))
        .collect();
    let many: Vec<(&str, Content)> = many.iter().map(|(path, content)| (&**path, content.clone())).collect();
    let commit = fixture.hub.commit(Kind::Dataset, "owner/many", "main", &many).parse().unwrap();
    let dataset = Repository::new(RepositoryKind::Dataset, "owner/many").unwrap();
    fixture.hub.set_page_size(4);
    let files = fixture.client().files(&dataset, &commit).await.unwrap();
    assert_eq!(files.len(), 25);
    for (file, (path, content)) in files.iter().zip(&many) {
        let Content::Git(content) = content else { unreachable!() };
        assert_eq!((&*file.path, file.size), (*path, content.len() as u64));
        assert_eq!(file.digest, Digest::from_name(&digest(content, 40)));
    }
    let files = fixture.client().files(&model(), &fixture.commit).await.unwrap();
    assert_eq!(files.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["README.md", WEIGHTS, CONFIG]);
    assert_eq!(files[1].digest, Digest::from_name(&digest(&weights(), 64)));
}

#[tokio::test]
async fn offline_takes_what_is_there_and_names_what_is_not() {
    let fixture = Fixture::new();
    fixture.client().resolve(&model(), "main").await.unwrap();
    fixture.fetch(&[CONFIG]).await.unwrap();
    fixture.hub.forget_requests();
    let hub = fixture.offline();
    assert_eq!(hub.resolve(&model(), "main").await.unwrap(), fixture.commit);
    assert_eq!(hub.files(&model(), &fixture.commit).await.unwrap().len(), 3);
    assert!(fetch(&hub, &model(), &fixture.commit, &[CONFIG]).await.is_ok());
    let error = fetch(&hub, &model(), &fixture.commit, &[WEIGHTS, CONFIG, "README.md"]).await.unwrap_err();
    let Error::Offline { missing, .. } = &error else { panic!("{error:?}") };
    assert_eq!(missing, &[WEIGHTS, "README.md"]);
    assert!(error.to_string().contains(WEIGHTS));
    assert_clear(&error);
    assert!(matches!(hub.probe().await, Err(Error::Offline { .. })));
    let unknown: Commit = "0".repeat(40).parse().unwrap();
    assert!(matches!(hub.files(&model(), &unknown).await, Err(Error::Offline { .. })));
    assert_eq!(fixture.hub.requests(), []);
    // Without the memory of the listing there is what the snapshot has.
    fs::remove_dir_all(fixture.cache().join(".locks")).unwrap();
    let files = fixture.offline().files(&model(), &fixture.commit).await.unwrap();
    assert_eq!(files.iter().map(|file| &*file.path).collect::<Vec<_>>(), [CONFIG]);
    assert_eq!(files[0].digest, Digest::from_name(&digest(&config(), 40)));
}

#[tokio::test]
async fn what_is_missing_says_what() {
    let fixture = Fixture::new();
    let hub = fixture.client();
    let nothing = Repository::new(RepositoryKind::Model, "owner/nothing").unwrap();
    let error = hub.resolve(&nothing, "main").await.unwrap_err();
    assert!(matches!(error, Error::RepositoryMissing { with_token: false, .. }), "{error:?}");
    assert!(error.to_string().contains("model owner/nothing"));
    assert_clear(&error);
    let error = hub.resolve(&model(), "release").await.unwrap_err();
    assert!(matches!(&error, Error::RevisionMissing { revision, .. } if revision == "release"), "{error:?}");
    assert_clear(&error);
    let unknown: Commit = "0".repeat(40).parse().unwrap();
    let error = hub.files(&model(), &unknown).await.unwrap_err();
    assert!(matches!(error, Error::RevisionMissing { .. }), "{error:?}");
    let error = fixture.fetch(&[CONFIG, "absent.bin"]).await.unwrap_err();
    assert!(matches!(&error, Error::FileMissing { path, .. } if path == "absent.bin"), "{error:?}");
    assert_clear(&error);
    fixture.assert_sound();
}

#[tokio::test]
async fn access_is_told_apart() {
    let fixture = Fixture::new();
    fixture.hub.set_token(TOKEN);
    let with =
        |token: &str| Hub::new(Settings { token: Token::new(token).unwrap(), ..fixture.settings() }).unwrap();
    let try_all = async |hub: &Hub| {
        let commit = hub.resolve(&model(), "main").await?;
        fetch(hub, &model(), &commit, &[WEIGHTS, CONFIG]).await
    };

    fixture.hub.set_access(Kind::Model, MODEL, Access::Private);
    for (hub, sent) in [(fixture.client(), false), (with("hf_stranger"), true)] {
        let error = try_all(&hub).await.unwrap_err();
        assert!(
            matches!(error, Error::RepositoryMissing { with_token, .. } if with_token == sent),
            "{error:?}"
        );
        assert!(error.to_string().contains("token"), "{error}");
        assert_clear(&error);
    }
    fixture.hub.set_access(Kind::Model, MODEL, Access::Gated);
    for hub in [fixture.client(), with("hf_stranger")] {
        let error = try_all(&hub).await.unwrap_err();
        assert!(matches!(error, Error::Gated { .. }), "{error:?}");
        assert_clear(&error);
    }
    fixture.hub.set_access(Kind::Model, MODEL, Access::Disabled);
    let error = try_all(&with(TOKEN)).await.unwrap_err();
    assert!(matches!(error, Error::Disabled { .. }), "{error:?}");
    assert_clear(&error);
    fixture.fault(Step::Api, None, FaultKind::Status { code: 401, retry_after: None }, Some(1));
    let error = try_all(&with(TOKEN)).await.unwrap_err();
    assert!(matches!(error, Error::TokenRefused { status: 401, .. }), "{error:?}");
    assert_clear(&error);

    for access in [Access::Private, Access::Gated] {
        fixture.hub.set_access(Kind::Model, MODEL, access);
        fs::remove_dir_all(fixture.cache()).unwrap();
        fixture.hub.forget_requests();
        try_all(&with(TOKEN)).await.unwrap();
        for request in fixture.hub.requests() {
            assert_eq!(request.authorized, request.origin == Origin::Hub, "{request:?}");
        }
        fixture.assert_sound();
    }
    assert!(!format!("{:?}", with(TOKEN).settings()).contains(TOKEN));
    for file in files_below(&fixture.cache()) {
        assert!(!String::from_utf8_lossy(&fs::read(&file).unwrap()).contains(TOKEN), "{}", file.display());
    }
}

#[tokio::test]
async fn a_damaged_file_is_removed_and_brought_again() {
    for path in [WEIGHTS, CONFIG] {
        let fixture = Fixture::new();
        fixture.fetch(&[path]).await.unwrap();
        let (link, blob) = (fixture.link(path), fixture.blob(path));
        let mut content = fs::read(&blob).unwrap();
        let modified = fs::metadata(&blob).unwrap().modified().unwrap();
        content[10] ^= 1;
        fs::write(&blob, content).unwrap();
        // Even where the time of the change is set back.
        fs::File::options().write(true).open(&blob).unwrap().set_modified(modified).unwrap();
        assert_eq!(fixture.offline().cached(&model(), &fixture.commit, path).unwrap(), None);
        assert!(fs::symlink_metadata(&link).is_err() && !blob.exists());
        fixture.fetch(&[path]).await.unwrap();
        fixture.assert_sound();
        // A cut one likewise, without reading it.
        fs::File::options().write(true).open(&blob).unwrap().set_len(5).unwrap();
        assert_eq!(fixture.offline().cached(&model(), &fixture.commit, path).unwrap(), None);
        assert!(!blob.exists());
        fixture.fetch(&[path]).await.unwrap();
        fixture.assert_sound();
    }
}

#[tokio::test]
async fn a_file_is_read_once_to_be_verified() {
    let fixture = Fixture::new();
    fixture.fetch(&[WEIGHTS]).await.unwrap();
    let notes = fixture.cache().join(".locks/sweep/models--owner--model/verified.json");
    let note = fs::read_to_string(&notes).unwrap();
    assert!(note.contains(&digest(&weights(), 64)), "{note}");
    // Whoever is noted is believed, so a note of another file shows whether it was looked at.
    fs::write(&notes, "{}").unwrap();
    assert!(fixture.offline().cached(&model(), &fixture.commit, WEIGHTS).unwrap().is_some());
    assert_eq!(fs::read_to_string(&notes).unwrap(), note);
    fs::write(&notes, "no JSON").unwrap();
    assert!(fixture.offline().cached(&model(), &fixture.commit, WEIGHTS).unwrap().is_some());
    assert_eq!(fs::read_to_string(&notes).unwrap(), note);
}

#[tokio::test]
async fn links_that_lead_elsewhere_are_not_followed() {
    let fixture = Fixture::new();
    fixture.fetch(&[CONFIG]).await.unwrap();
    let link = fixture.link(CONFIG);
    let outside = fixture.folder.path().join(digest(&config(), 40));
    fs::write(&outside, config()).unwrap();
    for target in [outside.clone(), fixture.cache().join("absent"), "/etc/passwd".into()] {
        fs::remove_file(&link).ok();
        symlink(&target, &link).unwrap();
        assert_eq!(fixture.offline().cached(&model(), &fixture.commit, CONFIG).unwrap(), None, "{target:?}");
        assert!(fs::symlink_metadata(&link).is_err(), "{target:?}");
    }
    assert!(outside.exists());
    // A dangling link of the right name is nothing, and a copy without a listing cannot be judged.
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(format!("../../../blobs/{}", "0".repeat(40)), &link).unwrap();
    fs::remove_dir_all(fixture.cache().join(".locks")).unwrap();
    assert_eq!(fixture.offline().cached(&model(), &fixture.commit, CONFIG).unwrap(), None);
    fs::remove_file(&link).unwrap();
    fs::write(&link, config()).unwrap();
    assert_eq!(fixture.offline().cached(&model(), &fixture.commit, CONFIG).unwrap(), None);
    assert!(link.exists());
    // With a listing it can.
    fixture.client().files(&model(), &fixture.commit).await.unwrap();
    assert!(fixture.offline().cached(&model(), &fixture.commit, CONFIG).unwrap().is_some());
    fs::write(&link, "another").unwrap();
    assert_eq!(fixture.offline().cached(&model(), &fixture.commit, CONFIG).unwrap(), None);
    assert!(!link.exists());
}

#[tokio::test]
async fn folders_may_lie_on_another_disk() {
    let fixture = Fixture::new();
    let (repository, disk) = (fixture.cache().join("models--owner--model"), tempfile::tempdir().unwrap());
    fs::create_dir_all(fixture.cache()).unwrap();
    symlink(disk.path(), &repository).unwrap();
    let paths = fixture.fetch(&[WEIGHTS]).await.unwrap();
    assert_eq!(
        fixture.offline().cached(&model(), &fixture.commit, WEIGHTS).unwrap().as_ref(),
        Some(&paths[0])
    );
    // As Python keeps files of Xet: the blob is a link to a store of all repositories.
    let blob = fixture.blob(WEIGHTS);
    let store = fixture.cache().join("blobs/ab");
    fs::create_dir_all(&store).unwrap();
    let stored = store.join("ab".repeat(32));
    fs::rename(&blob, &stored).unwrap();
    symlink(&stored, &blob).unwrap();
    assert!(fixture.offline().cached(&model(), &fixture.commit, WEIGHTS).unwrap().is_some());
    fs::write(&stored, "damaged").unwrap();
    assert_eq!(fixture.offline().cached(&model(), &fixture.commit, WEIGHTS).unwrap(), None);
    assert!(!stored.exists() && fs::symlink_metadata(&blob).is_err());
}

#[tokio::test]
async fn a_link_to_the_content_of_another_file_is_wrong() {
    let fixture = Fixture::new();
    fixture.fetch(&[WEIGHTS, CONFIG]).await.unwrap();
    let (link, blob) = (fixture.link(WEIGHTS), fixture.blob(CONFIG));
    fs::remove_file(&link).unwrap();
    symlink(&blob, &link).unwrap();
    assert_eq!(fixture.offline().cached(&model(), &fixture.commit, WEIGHTS).unwrap(), None);
    assert!(fs::symlink_metadata(&link).is_err() && blob.exists());
}

#[tokio::test]
async fn the_content_of_another_commit_is_taken_over() {
    let fixture = Fixture::new();
    fixture.fetch(&[WEIGHTS]).await.unwrap();
    let files = [(WEIGHTS, Content::Lfs(weights())), ("new.json", Content::Git(vec![1]))];
    let commit: Commit = fixture.hub.commit(Kind::Model, MODEL, "main", &files).parse().unwrap();
    fixture.hub.forget_requests();
    let paths = fetch(&fixture.client(), &model(), &commit, &[WEIGHTS]).await.unwrap();
    assert_eq!(fs::read(&paths[0]).unwrap(), weights());
    assert_eq!(fixture.hub.requests().len(), 1, "the listing");
    fixture.assert_sound();
}

#[tokio::test]
async fn a_damaged_listing_does_not_stay() {
    let fixture = Fixture::new();
    fixture.client().files(&model(), &fixture.commit).await.unwrap();
    let listing = fixture.cache().join(format!(".locks/sweep/models--owner--model/{}.json", fixture.commit));
    let text = fs::read_to_string(&listing).unwrap();
    fs::write(&listing, text.replace(&digest(&weights(), 64), &"0".repeat(64))).unwrap();
    let hub = fixture.client();
    let error = fetch(&hub, &model(), &fixture.commit, &[WEIGHTS]).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    fetch(&hub, &model(), &fixture.commit, &[WEIGHTS]).await.unwrap();
    fixture.assert_sound();
}

#[tokio::test]
async fn progress_ends_with_the_whole_file() {
    let fixture = Fixture::new();
    let mut steps = Vec::new();
    let mut note =
        |progress: Progress<'_>| steps.push((progress.file.to_owned(), progress.done, progress.total));
    fixture.client().fetch(&model(), &fixture.commit, &[WEIGHTS], &mut note).await.unwrap();
    assert!(steps.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{steps:?}");
    assert_eq!(steps.last(), Some(&(WEIGHTS.to_owned(), WEIGHTS_SIZE, WEIGHTS_SIZE)));
}

#[tokio::test]
async fn names_in_another_case_and_odd_paths_work() {
    let fixture = Fixture::new();
    let shouted = Repository::new(RepositoryKind::Model, "OWNER/Model").unwrap();
    let commit = fixture.client().resolve(&shouted, "main").await.unwrap();
    let paths = fetch(&fixture.client(), &shouted, &commit, &[WEIGHTS, CONFIG]).await.unwrap();
    assert_eq!(fs::read(&paths[0]).unwrap(), weights());
    let odd = "a b/ä #1?&%41.txt";
    let files = [(odd, Content::Git(vec![1])), ("b c.bin", Content::Lfs(vec![2; 99]))];
    let commit = fixture.hub.commit(Kind::Dataset, "plain", "main", &files).parse().unwrap();
    let dataset = Repository::new(RepositoryKind::Dataset, "plain").unwrap();
    let paths = fetch(&fixture.client(), &dataset, &commit, &[odd, "b c.bin"]).await.unwrap();
    assert_eq!(fs::read(&paths[0]).unwrap(), [1]);
    assert_eq!(fs::read(&paths[1]).unwrap(), [2; 99]);
    fixture.assert_sound();
}

#[tokio::test]
async fn the_probe_asks_once() {
    let fixture = Fixture::new();
    fixture.client().probe().await.unwrap();
    assert_eq!(fixture.hub.requests().len(), 1);
    fixture.fault(Step::Head, None, FaultKind::Status { code: 503, retry_after: None }, None);
    let error = fixture.client().probe().await.unwrap_err();
    assert!(matches!(error, Error::Server { status: 503, .. }), "{error:?}");
    assert_clear(&error);
}

#[test]
fn fetching_can_be_spawned() {
    fn sendable<T: Send>(_: &T) {}
    let hub = LocalHub::start();
    let hub = Hub::new(Settings { endpoint: hub.endpoint(), ..Settings::new("/nowhere") }).unwrap();
    let (repository, commit) = (model(), "0".repeat(40).parse().unwrap());
    sendable(&fetch(&hub, &repository, &commit, &[]));
    sendable(&hub.files(&repository, &commit));
    sendable(&hub.resolve(&repository, "main"));
}
