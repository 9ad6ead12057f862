//! Saving the final model.

use std::fs::{self, File};
use std::path::Path;

use sweep_core::event::Event;
use sweep_models::Model;

use crate::digest::digest_file;
use crate::files::{check_room, clear_away, remove, sync_folder};
use crate::session::Session;
use crate::{Error, Result};

/// Beginning of the names of folders that a killed worker may leave in that of its run.
pub(crate) const UNFINISHED: &str = "model.tmp-";

impl Session<'_> {
    /// Writes the final model into a temporary folder and renames that, so that it appears whole or not at all.
    /// Returns the digest of its weights.
    pub(crate) fn save_model(&mut self) -> Result<String> {
        let folder = self.home.model(self.run);
        let temporary = self.home.run(self.run).join(format!("{UNFINISHED}{}", self.attempt));
        check_room(&self.home.run(self.run), &folder, size(self.measured_model()))?;
        self.write_model(&temporary)
            .and_then(|()| self.publish_model(&temporary, &folder))
            .inspect_err(|_| clear_away(&temporary))?;
        let path = folder.join("model.safetensors");
        let bytes = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        let digest = digest_file(&path)?;
        self.log.write_durably(Event::ModelSaved {
            file: "model/model.safetensors".to_owned(),
            digest: digest.clone(),
            bytes,
        })?;
        Ok(digest)
    }

    fn write_model(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        self.measured_model()
            .save(folder)
            .map_err(|source| Error::SaveModel { path: folder.to_owned(), source })?;
        for name in ["model.safetensors", "config.json"] {
            let path = folder.join(name);
            File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("sync", &path))?;
        }
        sync_folder(folder)
    }

    fn publish_model(&self, temporary: &Path, folder: &Path) -> Result<()> {
        self.log.check_claim()?;
        remove(folder)?;
        fs::rename(temporary, folder).map_err(Error::io("rename into", folder))?;
        sync_folder(&self.home.run(self.run))
    }
}

/// Returns the bytes of a model's tensors, which are nearly those of its file.
fn size(model: &Model) -> u64 {
    let tensors = model.parameters().iter();
    tensors.map(|(.., tensor)| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64).sum()
}
