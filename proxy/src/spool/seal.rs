//! Encryption at rest: held mail is clear text that was to be encrypted.
//!
//! One [`Key`] (the key-encryption key, 32 octets in a file of mode 0600 or a systemd
//! credential) protects the whole spool. Every segment has a random salt and from it its own
//! data key (HKDF-SHA256), used with AES-256-GCM; so has every run of a marks file.
//!
//! Invariants
//! - A data key seals with each nonce once: the nonce is a counter that only rises, and a
//!   segment or marks run that was closed, failed or reopened is never continued.
//! - A key is never made where it could shadow the one that held mail was sealed with: the
//!   caller asks [`super::segments_exist`] first.
//!
//! Not here: which octets are authenticated along with a frame (`format`, `marks`).

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use disk::{Disk, RealDisk};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Octets of a key file.
pub const KEY_BYTES: usize = 32;

/// Octets of the salt of a segment or a run of marks.
pub const SALT_BYTES: usize = 32;

/// Octets that sealing adds.
pub const TAG_BYTES: usize = 16;

/// Name of the credential looked for in `$CREDENTIALS_DIRECTORY`.
pub const CREDENTIAL: &str = "spool-key";

/// HKDF info of the data key of a segment.
const SEGMENT: &[u8] = b"lockgate spool v1";
/// HKDF info of the data key of a run of marks.
const MARKS: &[u8] = b"lockgate marks v1";
/// HKDF info of the fingerprint.
const KEY_ID: &[u8] = b"lockgate spool key id v1";

/// The key-encryption key of a spool.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; KEY_BYTES]);

/// A fingerprint of a [`Key`], safe to show: it tells keys apart and reveals nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No file there.
    #[error("no spool key at {}: restore it from its backup, or, if nothing is held, make one with `lockgate init`", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others than its owner may read the file.
    #[error("spool key {} has mode {mode:04o}: others may read it; chmod 0600 it", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold exactly a key.
    #[error("spool key {} has {found} octets, not {KEY_BYTES}: restore it from its backup", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Octets found.
        found: usize,
    },
    /// A key is there already and is never overwritten.
    #[error("spool key {} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("spool key {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The system has no random numbers for us.
    #[error("no random numbers to make a key of")]
    Random,
}

/// Where the key of a spool comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file of ours.
    File(PathBuf),
    /// A systemd credential, readable by this service alone.
    Credential(PathBuf),
}

impl KeySource {
    /// The credential [`CREDENTIAL`] if it is in `credentials_directory` (the value of
    /// `$CREDENTIALS_DIRECTORY`), else `file`.
    #[must_use]
    pub fn find(file: &Path, credentials_directory: Option<&Path>) -> Self {
        match credentials_directory.map(|folder| folder.join(CREDENTIAL)) {
            Some(credential) if credential.exists() => Self::Credential(credential),
            _ => Self::File(file.to_owned()),
        }
    }

    /// The file that is read.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Credential(path) => path,
        }
    }

    /// Reads the key. Blocking.
    pub fn load(&self) -> Result<Key, KeyError> {
        match self {
            Self::File(path) => read_key(path, 0o600),
            // systemd lets the service's user in by an ACL, whose mask shows as group bits; the
            // folder itself is closed to others.
            Self::Credential(path) => read_key(path, 0o660),
        }
    }
}

/// Reads a key file of mode 0600 or narrower. Blocking.
pub fn load_key(path: &Path) -> Result<Key, KeyError> {
    KeySource::File(path.to_owned()).load()
}

fn read_key(path: &Path, mode_max: u32) -> Result<Key, KeyError> {
    let file_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
        _ => KeyError::File { path: path.to_owned(), source },
    };
    let mode = fs::metadata(path).map_err(file_error)?.permissions().mode() & 0o777;
    if mode & !mode_max & 0o677 != 0 {
        return Err(KeyError::TooOpen { path: path.to_owned(), mode });
    }
    let bytes = Zeroizing::new(fs::read(path).map_err(file_error)?);
    let found = bytes.len();
    let key = bytes.as_slice().try_into();
    key.map(Key).map_err(|_| KeyError::Length { path: path.to_owned(), found })
}

/// Makes a new random key in a new file of mode 0600, durable when it returns. Blocking.
pub fn generate(path: &Path) -> Result<Key, KeyError> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| KeyError::Random)?;
    let store = || -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let disk = RealDisk::new(folder.unwrap_or_else(|| Path::new(".")));
        let mut file = disk.create_new(Path::new(name))?;
        file.write_at(0, bytes.as_slice())?;
        file.sync()?;
        disk.sync_dir(Path::new(""))
    };
    match store() {
        Ok(()) => Ok(Key(*bytes)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(KeyError::Exists { path: path.to_owned() })
        }
        Err(source) => Err(KeyError::File { path: path.to_owned(), source }),
    }
}

impl Key {
    /// The key of these octets.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its fingerprint, kept in every segment, so that a wrong key is told from damage.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        let mut id = [0; 8];
        self.derive(&[], KEY_ID, &mut id);
        KeyId(id)
    }

    /// The data key of the segment with this salt.
    pub(super) fn segment_key(&self, salt: &[u8; SALT_BYTES]) -> SealKey {
        self.seal_key(salt, SEGMENT)
    }

    /// The data key of the run of marks with this salt.
    pub(super) fn marks_key(&self, salt: &[u8; SALT_BYTES]) -> SealKey {
        self.seal_key(salt, MARKS)
    }

    fn seal_key(&self, salt: &[u8; SALT_BYTES], info: &[u8]) -> SealKey {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        self.derive(salt, info, bytes.as_mut_slice());
        let key = UnboundKey::new(&AES_256_GCM, bytes.as_slice());
        SealKey(LessSafeKey::new(key.expect("AES-256 keys have 32 octets")))
    }

    fn derive(&self, salt: &[u8], info: &[u8], out: &mut [u8]) {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let length = out.len();
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(&self.0)
            .expand(&[info], Length(length))
            .and_then(|material| material.fill(out))
            .expect("HKDF-SHA256 gives up to 8160 octets");
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.key_id())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// A random salt.
pub(super) fn salt() -> io::Result<[u8; SALT_BYTES]> {
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(salt)
}

/// A data key: of one segment, or of one run of marks.
pub(super) struct SealKey(LessSafeKey);

/// The octets are not what was sealed with this key, nonce and associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsealed;

impl SealKey {
    /// Encrypts `text` where it lies and returns the tag. The caller never uses a counter twice.
    pub(super) fn seal(&self, counter: u64, associated: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(associated), text)
            .expect("a frame is far below the limit of AES-GCM");
        let mut octets = [0; TAG_BYTES];
        octets.copy_from_slice(tag.as_ref());
        octets
    }

    /// Decrypts `sealed` (text and tag) where it lies and returns the text.
    pub(super) fn open<'a>(
        &self,
        counter: u64,
        associated: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Unsealed> {
        self.0.open_in_place(nonce(counter), Aad::from(associated), sealed).map_err(|_| Unsealed)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut octets = [0; NONCE_LEN];
    octets[..8].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(octets)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_durable_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool-key");
        let key = generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_key(&path).unwrap().key_id(), key.key_id());
        assert!(matches!(generate(&path), Err(KeyError::Exists { .. })));
        assert_eq!(load_key(&path).unwrap().key_id(), key.key_id());
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool-key");
        generate(&path).unwrap();
        for mode in [0o640, 0o604, 0o610, 0o601, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = load_key(&path).unwrap_err();
            assert!(matches!(error, KeyError::TooOpen { .. }), "{mode:o}");
            assert!(error.to_string().contains("chmod 0600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(load_key(&path).is_ok());
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool-key");
        fs::write(&path, [1; 33]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(load_key(&path), Err(KeyError::Length { found: 33, .. })));
        assert!(matches!(load_key(&folder.path().join("none")), Err(KeyError::Missing { .. })));
    }

    #[test]
    fn a_credential_goes_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = Path::new("/nowhere/key");
        assert_eq!(KeySource::find(file, Some(folder.path())), KeySource::File(file.into()));
        let credential = folder.path().join(CREDENTIAL);
        fs::write(&credential, [7; KEY_BYTES]).unwrap();
        fs::set_permissions(&credential, fs::Permissions::from_mode(0o440)).unwrap();
        let found = KeySource::find(file, Some(folder.path()));
        assert_eq!(found, KeySource::Credential(credential));
        assert_eq!(found.load().unwrap().key_id(), Key::from_bytes([7; KEY_BYTES]).key_id());
        assert_eq!(KeySource::find(file, None), KeySource::File(file.into()));
    }

    #[test]
    fn what_is_sealed_opens_only_with_its_key_counter_and_context() {
        let key = Key::from_bytes([1; KEY_BYTES]).segment_key(&[2; SALT_BYTES]);
        let mut text = *b"mail data";
        let tag = key.seal(5, b"context", &mut text);
        assert_ne!(&text, b"mail data");
        let sealed = [text.as_slice(), &tag].concat();
        assert_eq!(key.open(5, b"context", &mut sealed.clone()).unwrap(), b"mail data");
        assert!(key.open(6, b"context", &mut sealed.clone()).is_err());
        assert!(key.open(5, b"contexT", &mut sealed.clone()).is_err());
        let other = Key::from_bytes([1; KEY_BYTES]).marks_key(&[2; SALT_BYTES]);
        assert!(other.open(5, b"context", &mut sealed.clone()).is_err());
    }

    #[test]
    fn a_key_is_not_printed() {
        let text = format!("{:?}", Key::from_bytes([0xab; KEY_BYTES]));
        assert!(!text.contains("abab") && !text.contains("171"), "{text}");
    }
}
