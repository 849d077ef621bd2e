//! A second name for a model: hard links to the same files, and a manifest of its own. Each name can be removed
//! without the other.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::lock::Lock;
use crate::manifest::Model;
use crate::name::{Name, folder_name, is_copy_name};
use crate::store::Store;

impl Store {
    /// Makes `copy` a name of the model `name`. An earlier copy of that name is replaced; a name that stands for
    /// something already, such as an entry of the catalogue, is refused.
    pub fn copy(&self, name: &str, copy: &str) -> Result<Model> {
        let bad = |why: &str| Error::BadName { name: copy.into(), why: why.into() };
        if !is_copy_name(copy) {
            return Err(bad("a copy's name has letters, digits, '.', '_' and '-', and may have a ':TAG'"));
        }
        match self.parse(copy) {
            Ok(Name::Copy(_)) | Err(_) => {}
            Ok(Name::Path(_)) => return Err(bad("it stands for a file")),
            Ok(_) => return Err(bad("it stands for another model")),
        }
        let model = self.show(name)?;
        if model.name == copy {
            return Ok(model);
        }
        let folder = self.models().join(folder_name(copy));
        let _lock = Lock::try_take(&folder)?.ok_or_else(|| Error::Busy { name: copy.into() })?;
        clear(&folder)?;
        model.files.iter().try_for_each(|file| link(&model.folder.join(&file.path), &folder.join(&file.path)))?;
        let model = Model { name: copy.into(), folder, ..model };
        model.write()?;
        Ok(model)
    }

    /// Whether `name` was given by [`Self::copy`].
    pub(crate) fn is_copy(&self, name: &str) -> bool {
        is_copy_name(name) && Model::read(&self.models().join(folder_name(name))).is_some()
    }
}

/// An empty folder, whatever was there.
fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        Model::forget(folder)?;
        fs::remove_dir_all(folder).map_err(|err| Error::io(folder, err))?;
    }
    fs::create_dir_all(folder).map_err(|err| Error::io(folder, err))
}

fn link(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().expect("a file of a model stands in its folder");
    let linked = fs::create_dir_all(parent).and_then(|()| fs::hard_link(from, to));
    linked.map_err(|err| Error::io(to, err))
}
