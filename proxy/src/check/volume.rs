//! What is under the spool: a file system that forgets, one disk or several, and how much room.
//!
//! Only what the kernel shows is said: a RAID controller and a virtual disk look like one disk, and
//! what is under a network or pooled file system cannot be seen at all.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use disk::{Disk, RealDisk};

use super::Finding;
use crate::config::Config;

/// Where the kernel shows block devices by number.
const BLOCK_DEVICES: &str = "/sys/dev/block";

/// Deepest stack of devices that is followed.
const DEPTH_MAX: u32 = 8;

/// What a file system is to held mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    /// In memory, or thrown away with a container.
    Forgets,
    /// On another host.
    Remote,
    /// On devices of this host, or of its own pool.
    Keeps,
}

/// Whether one device may die.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Redundancy {
    /// The kernel keeps more than one copy.
    Redundant(String),
    /// One device, as far as the kernel shows.
    Single(String),
    /// Cannot be seen.
    Unknown,
}

/// Looks at the volume of the spool. Blocking.
pub(super) fn look(config: &Config) -> Vec<Finding> {
    let spool = config.data.join(&config.spool.directory);
    let Some(folder) = nearest(&spool) else {
        let mend = "correct `data` and `[spool] directory`";
        return vec![Finding::error(format!("{} has no place", spool.display()), mend)];
    };
    let mut findings = vec![kind(&folder)];
    findings.push(room(&folder, config));
    findings
}

/// The folder itself, or the nearest one above it that exists.
fn nearest(folder: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(folder).ok()?;
    absolute.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned)
}

fn kind(folder: &Path) -> Finding {
    let shown = folder.display();
    let facts = match rustix::fs::statfs(folder) {
        Ok(facts) => facts,
        Err(error) => return unreadable(folder, &error.into()),
    };
    // The kernel's magic numbers have 32 bits; the type of the field depends on the machine.
    let (name, nature) = file_system(facts.f_type as u64 & 0xffff_ffff);
    match nature {
        Nature::Forgets => Finding::warning(
            format!("spool {shown} is on {name}: held mail is lost at the next boot"),
            "put the state directory on a volume that stays",
        ),
        Nature::Remote => Finding::warning(
            format!("spool {shown} is on {name}: what a sync promises depends on another host"),
            "put the state directory on a local volume",
        ),
        Nature::Keeps => {
            let device = fs::metadata(folder).map(|facts| facts.dev());
            let found = device.map_or(Redundancy::Unknown, |device| {
                let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
                redundancy(&Path::new(BLOCK_DEVICES).join(number), DEPTH_MAX)
            });
            redundancy_finding(&shown.to_string(), name, found)
        }
    }
}

fn redundancy_finding(spool: &str, name: &str, found: Redundancy) -> Finding {
    match found {
        Redundancy::Redundant(device) => {
            Finding::ok(format!("spool {spool} is on {name}, on {device}: redundant"))
        }
        Redundancy::Single(device) => Finding::warning(
            format!(
                "spool {spool} is on {name}, on {device}: one disk, as far as the system shows (a \
                 RAID controller or a virtual disk looks the same); if it dies, held mail is lost"
            ),
            "put the state directory on a redundant volume, or make sure that this one is",
        ),
        Redundancy::Unknown => Finding::ok(format!(
            "spool {spool} is on {name}; whether it is redundant cannot be seen from here"
        )),
    }
}

/// A file system by its magic number (statfs(2)).
const fn file_system(magic: u64) -> (&'static str, Nature) {
    match magic {
        0x0102_1994 => ("tmpfs", Nature::Forgets),
        0x8584_58f6 => ("ramfs", Nature::Forgets),
        0x794c_7630 => ("overlay", Nature::Forgets),
        0x6969 => ("NFS", Nature::Remote),
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => ("SMB", Nature::Remote),
        0x0102_1997 => ("9p", Nature::Remote),
        0x00c3_6400 => ("Ceph", Nature::Remote),
        0x6573_5546 => ("FUSE", Nature::Remote),
        0xef53 => ("ext4", Nature::Keeps),
        0x5846_5342 => ("XFS", Nature::Keeps),
        0x9123_683e => ("Btrfs", Nature::Keeps),
        0x2fc1_2fc1 => ("ZFS", Nature::Keeps),
        _ => ("a file system unknown to lockgate", Nature::Keeps),
    }
}

/// Follows a block device, as the kernel shows it at `shown`, down to its disks.
fn redundancy(shown: &Path, depth: u32) -> Redundancy {
    let Some(depth) = depth.checked_sub(1) else {
        return Redundancy::Unknown;
    };
    let Ok(mut device) = fs::canonicalize(shown) else {
        return Redundancy::Unknown;
    };
    if device.join("partition").exists() {
        // A partition lies within its disk.
        device.pop();
    }
    let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Ok(level) = fs::read_to_string(device.join("md/level")) {
        let level = level.trim();
        let device = format!("{name} ({level})");
        return match level {
            "raid1" | "raid4" | "raid5" | "raid6" | "raid10" => Redundancy::Redundant(device),
            _ => Redundancy::Single(device),
        };
    }
    let below: Vec<PathBuf> = match fs::read_dir(device.join("slaves")) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    match below.as_slice() {
        [] => Redundancy::Single(name),
        [one] => redundancy(one, depth),
        // Device mapper over several: a mirror or a stripe, which only its own tools tell.
        _ => Redundancy::Unknown,
    }
}

fn room(folder: &Path, config: &Config) -> Finding {
    let free = match RealDisk::new(folder).free_bytes(Path::new("")) {
        Ok(free) => free,
        Err(error) => return unreadable(folder, &error),
    };
    room_finding(&folder.display().to_string(), free, config)
}

fn room_finding(spool: &str, free: u64, config: &Config) -> Finding {
    let least = config.spool.free_bytes_min;
    let one = config.spool.message_bytes_max;
    let has = format!("spool {spool} has {} free", octets(free));
    if free < least {
        Finding::error(
            format!("{has}, below free_bytes_min ({}): nothing can be held", octets(least)),
            "make room, or lower `free_bytes_min` in [spool]",
        )
    } else if free - least < one {
        Finding::warning(
            format!(
                "{has}: above free_bytes_min ({}) there is no room for one message of {}",
                octets(least),
                octets(one)
            ),
            "make room, or lower `free_bytes_min` in [spool]",
        )
    } else {
        Finding::ok(format!("{has}, {} of it for mail", octets(free - least)))
    }
}

fn unreadable(folder: &Path, error: &io::Error) -> Finding {
    let what = format!("the volume of {} cannot be looked at: {error}", folder.display());
    Finding::error(what, "look at its mount and permissions")
}

/// A number of octets for people.
fn octets(count: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        if count >> shift > 0 {
            let tenths = (u128::from(count) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{count} B")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::Level;
    use super::*;

    /// A tree like the kernel's: devices, and links to them by number.
    struct Tree {
        root: tempfile::TempDir,
    }

    impl Tree {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("block")).unwrap();
            Self { root }
        }

        fn device(&self, path: &str, number: &str) -> PathBuf {
            let device = self.root.path().join("devices").join(path);
            fs::create_dir_all(&device).unwrap();
            symlink(&device, self.root.path().join("block").join(number)).unwrap();
            device
        }

        fn look(&self, number: &str) -> Redundancy {
            redundancy(&self.root.path().join("block").join(number), DEPTH_MAX)
        }
    }

    fn stack(upper: &Path, lower: &Path) {
        fs::create_dir_all(upper.join("slaves")).unwrap();
        symlink(lower, upper.join("slaves").join(lower.file_name().unwrap())).unwrap();
    }

    #[test]
    fn a_partition_is_as_safe_as_its_disk() {
        let tree = Tree::new();
        tree.device("sda", "8:0");
        let partition = tree.device("sda/sda1", "8:1");
        fs::write(partition.join("partition"), "1\n").unwrap();
        assert_eq!(tree.look("8:1"), Redundancy::Single("sda".into()));
    }

    #[test]
    fn a_mirror_is_redundant_and_a_stripe_is_not() {
        let tree = Tree::new();
        for (name, number, level) in [("md1", "9:1", "raid1"), ("md0", "9:0", "raid0")] {
            let device = tree.device(name, number);
            fs::create_dir(device.join("md")).unwrap();
            fs::write(device.join("md/level"), format!("{level}\n")).unwrap();
        }
        assert_eq!(tree.look("9:1"), Redundancy::Redundant("md1 (raid1)".into()));
        assert_eq!(tree.look("9:0"), Redundancy::Single("md0 (raid0)".into()));
    }

    #[test]
    fn an_encrypted_volume_on_a_mirror_is_redundant() {
        let tree = Tree::new();
        let mirror = tree.device("md1", "9:1");
        fs::create_dir(mirror.join("md")).unwrap();
        fs::write(mirror.join("md/level"), "raid10\n").unwrap();
        let encrypted = tree.device("dm-0", "253:0");
        stack(&encrypted, &mirror);
        assert_eq!(tree.look("253:0"), Redundancy::Redundant("md1 (raid10)".into()));
    }

    #[test]
    fn what_cannot_be_seen_is_not_claimed() {
        let tree = Tree::new();
        assert_eq!(tree.look("0:99"), Redundancy::Unknown);
        let (a, b) = (tree.device("sda", "8:0"), tree.device("sdb", "8:16"));
        let over_both = tree.device("dm-0", "253:0");
        stack(&over_both, &a);
        stack(&over_both, &b);
        assert_eq!(tree.look("253:0"), Redundancy::Unknown);
        let circle = tree.device("dm-1", "253:1");
        stack(&circle, &circle);
        assert_eq!(tree.look("253:1"), Redundancy::Unknown);
    }

    #[test]
    fn a_file_system_in_memory_is_warned_of() {
        assert_eq!(file_system(0x0102_1994), ("tmpfs", Nature::Forgets));
        assert_eq!(file_system(0x794c_7630).1, Nature::Forgets);
        assert_eq!(file_system(0xef53).1, Nature::Keeps);
    }

    #[test]
    fn room_is_judged_by_the_limits_of_the_spool() {
        let mut config = Config::default();
        config.spool.free_bytes_min = 1000;
        config.spool.message_bytes_max = 100;
        let level = |free| room_finding("spool", free, &config).level;
        assert_eq!(level(999), Level::Error);
        assert_eq!(level(1000), Level::Warning);
        assert_eq!(level(1099), Level::Warning);
        assert_eq!(level(1100), Level::Ok);
    }

    #[test]
    fn a_folder_that_does_not_exist_yet_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("not/yet");
        assert_eq!(nearest(&below).as_deref(), Some(folder.path()));
    }

    #[test]
    fn octets_are_readable() {
        let shown = [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB")];
        for (count, text) in shown {
            assert_eq!(octets(count), text);
        }
        assert_eq!(octets(u64::MAX), "16777215.9 TiB");
    }
}
