//! The operator's authorities in images, beside those that an image trusts.

use std::io;
use std::sync::Arc;

use forge_engine::{EngineError, EngineErrorKind};
use forge_wire::CERTIFICATES_PATH;

use super::accounts::{FOLDER, LINK};
use crate::archive::{Archive, only_file};
use crate::stager::Stager;

/// Where distributions keep the authorities that programs trust, in one file.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// A longer bundle is not one.
const BUNDLE_LIMIT: usize = 4 << 20;
/// Where Debian's tools look for what they add to the bundle whenever they write it anew, and the
/// folder of that, which is made where it is missing.
const LOCAL_FOLDER: &str = "/usr/local/share/ca-certificates";
const LOCAL_PARENT: &str = "/usr/local/share";
const LOCAL_NAME: &str = "swe-forge.crt";

/// What is put into an image that is to trust the operator's authorities.
pub(super) struct Trusted {
    /// The operator's.
    pub(super) own: Arc<[u8]>,
    /// Both, and the file of the image that they take the place of.
    pub(super) bundle: Option<(&'static str, Vec<u8>)>,
    /// Whether there is a place where Debian's tools would look.
    pub(super) local: bool,
}

impl Trusted {
    /// Finds out where the image of a stager has its authorities, and which.
    pub(super) async fn find(stager: &Stager<'_>, own: &Arc<[u8]>) -> Result<Self, EngineError> {
        let own = own.clone();
        Ok(Self {
            bundle: bundle(stager, &own).await?,
            local: has_local(stager).await?,
            own,
        })
    }

    pub(super) fn add_to(&self, archive: &mut Archive) -> io::Result<()> {
        let inside = |path: &'static str| path.trim_start_matches('/');
        // Programs are pointed to this file instead of their own, so it must hold those as well.
        let both = self.bundle.as_ref().map(|(_, both)| &both[..]);
        let all = both.unwrap_or(&self.own);
        archive.file(inside(CERTIFICATES_PATH), 0o644, all)?;
        if let Some((path, both)) = &self.bundle {
            archive.file(inside(path), 0o644, both)?;
        }
        if self.local {
            let path = format!("{}/{LOCAL_NAME}", inside(LOCAL_FOLDER));
            archive.file(&path, 0o644, &self.own)?;
        }
        Ok(())
    }
}

async fn bundle(
    stager: &Stager<'_>,
    own: &[u8],
) -> Result<Option<(&'static str, Vec<u8>)>, EngineError> {
    for path in BUNDLES {
        let archive = match stager.get(path, BUNDLE_LIMIT).await {
            Ok(archive) => archive,
            Err(error)
                if matches!(
                    error.kind,
                    EngineErrorKind::NotFound | EngineErrorKind::Corrupt
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        // A link leads to one of the other paths, or to a file for one program only.
        if let Ok(mut both) = only_file(&archive, BUNDLE_LIMIT as u64) {
            // A snapshot's has them from the image that it was made from.
            if !both.windows(own.len().max(1)).any(|part| part == own) {
                both.push(b'\n');
                both.extend_from_slice(own);
            }
            return Ok(Some((path, both)));
        }
    }
    Ok(None)
}

/// Whether a file can be put where Debian's tools look. An image that has something else there, such
/// as a link to nothing, is not made for them, and no worse without.
async fn has_local(stager: &Stager<'_>) -> Result<bool, EngineError> {
    let parent = is_folder(stager, LOCAL_PARENT).await?;
    Ok(parent == Some(true) && is_folder(stager, LOCAL_FOLDER).await? != Some(false))
}

/// Whether a path, links followed, is a folder; `None` when there is nothing.
async fn is_folder(stager: &Stager<'_>, path: &str) -> Result<Option<bool>, EngineError> {
    let mut found = stager.stat(path).await;
    if let Ok(Some(link)) = &found
        && link.file_mode & LINK != 0
    {
        let target = link.link_target.clone();
        found = match stager.stat(&target).await {
            Ok(None) => return Ok(Some(false)),
            other => other,
        };
    }
    match found {
        Ok(found) => Ok(found.map(|found| found.file_mode & FOLDER != 0)),
        // The answer says nothing but that the path cannot be followed.
        Err(error) if error.kind == EngineErrorKind::Internal => Ok(Some(false)),
        Err(error) => Err(error),
    }
}
