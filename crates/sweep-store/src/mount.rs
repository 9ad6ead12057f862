//! Which file system a file lies on: SQLite must not be used on those of a network.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where Linux lists what is mounted for this process. Other systems have no such file; nothing is refused there.
const MOUNTS: &str = "/proc/self/mountinfo";

/// File systems that several machines share, as the kernel calls them. Their locks are slow, optional or missing, and two
/// machines do not see one memory map, which the write-ahead log needs.
const NETWORK: [&str; 36] = [
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "cvfs",
    "fhgfs",
    "fuse.beegfs",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.moosefs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.seaweedfs",
    "fuse.sshfs",
    "gfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "panfs",
    "pvfs2",
    "smb3",
    "smbfs",
    "vboxsf",
    "wekafs",
];

/// Refuses a database on a network's file system.
///
/// # Errors
/// [`Error::NetworkDatabase`].
pub(crate) fn check_local(path: &Path) -> Result<()> {
    // Where the system does not say, or the folder is missing (which is said by whoever opens the file), nothing is refused.
    let (Ok(mounts), Some(real)) = (fs::read(MOUNTS), real(path)) else { return Ok(()) };
    match network_kind(&mounts, &real) {
        Some(kind) => Err(Error::NetworkDatabase { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

/// Returns the kind of the network's file system that an absolute path without links lies on; `None` for a local one.
fn network_kind(mounts: &[u8], path: &Path) -> Option<String> {
    kind_of(mounts, path).filter(|kind| NETWORK.contains(&kind.as_str()))
}

/// Follows links: SQLite makes its other files beside the file that a link leads to.
fn real(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    path.canonicalize().or_else(|_| folder.canonicalize()).ok()
}

/// Returns the type of the file system that an absolute path without links lies on: that of the longest mount point above
/// it, and of several mounted there the last, which hides the others.
fn kind_of(mounts: &[u8], path: &Path) -> Option<String> {
    let lines = mounts.split(|byte| *byte == b'\n').filter_map(mount);
    let above = lines.filter(|(point, _)| path.starts_with(point));
    above.max_by_key(|(point, _)| point.as_os_str().len()).map(|(_, kind)| kind)
}

/// Reads a line of `mountinfo` (see proc(5)): `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS…] - TYPE SOURCE OPTIONS`.
fn mount(line: &[u8]) -> Option<(PathBuf, String)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescaped(fields.nth(4)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some((PathBuf::from(OsString::from_vec(point)), String::from_utf8_lossy(kind).into_owned()))
}

/// Undoes `\040` and its like: spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escape = if *first == b'\\' { octal(after) } else { None };
        bytes.push(escape.unwrap_or(*first));
        rest = if escape.is_some() { &after[3..] } else { after };
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(text, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container's own root, a home folder from a file server, a scratch disk within it, and names with spaces.
    const CLUSTER: &str = "\
22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
23 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:2 - proc proc rw
31 22 8:1 / /scratch rw,noatime shared:3 master:1 - xfs /dev/sda1 rw,attr2
40 22 0:44 / /home rw,relatime shared:4 - nfs4 files:/export/home rw,vers=4.2,rsize=1048576
41 40 8:17 / /home/ada/fast rw,relatime - ext4 /dev/sdb1 rw
42 22 0:45 / /mnt/two\\040words rw - cifs //server/share rw,vers=3.1.1
43 22 0:46 /sub /work rw,relatime shared:5 - lustre 10.0.0.1@o2ib:/fs rw,flock
44 22 0:47 / /mnt/s rw,nosuid,nodev - fuse.sshfs ada@far:/data rw,user_id=0
";

    #[test]
    fn the_longest_mount_point_decides() {
        for (path, kind) in [
            ("/", "overlay"),
            ("/scratch/runs/results.db", "xfs"),
            ("/home/ada/runs/results.db", "nfs4"),
            ("/home/ada/fast/results.db", "ext4"),
            ("/home/ada/faster", "nfs4"),
            ("/homework/results.db", "overlay"),
            ("/mnt/two words/results.db", "cifs"),
            ("/mnt/two", "overlay"),
            ("/work", "lustre"),
            ("/mnt/s/x", "fuse.sshfs"),
        ] {
            assert_eq!(kind_of(CLUSTER.as_bytes(), Path::new(path)).as_deref(), Some(kind), "{path}");
        }
    }

    #[test]
    fn networks_are_told_from_disks() {
        for (path, refused) in [
            ("/results.db", None),
            ("/scratch/results.db", None),
            ("/home/ada/fast/results.db", None),
            ("/home/ada/results.db", Some("nfs4")),
            ("/work/results.db", Some("lustre")),
            ("/mnt/s/results.db", Some("fuse.sshfs")),
        ] {
            assert_eq!(network_kind(CLUSTER.as_bytes(), Path::new(path)).as_deref(), refused, "{path}");
        }
    }

    #[test]
    fn the_error_says_what_to_do() {
        let error = Error::NetworkDatabase { path: "/home/ada/results.db".into(), kind: "nfs4".to_owned() };
        let text = error.to_string();
        for part in ["/home/ada/results.db", "nfs4", "--database", "SWEEP_DATABASE", "sweep rebuild"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn of_two_mounts_at_one_place_the_later_one_counts() {
        let over = format!("{CLUSTER}50 40 0:50 / /home rw - tmpfs tmpfs rw\n");
        assert_eq!(kind_of(over.as_bytes(), Path::new("/home/x")).as_deref(), Some("tmpfs"));
        let again = format!("{over}51 50 0:51 / /home rw - nfs files:/export rw\n");
        assert_eq!(kind_of(again.as_bytes(), Path::new("/home/x")).as_deref(), Some("nfs"));
    }

    #[test]
    fn escapes_are_undone_and_anything_else_is_left() {
        for (escaped, bytes) in [
            ("a\\040b", &b"a b"[..]),
            ("\\011\\012\\134", b"\t\n\\"),
            ("\\0", b"\\0"),
            ("\\999x", b"\\999x"),
            ("\\", b"\\"),
            ("\\777", b"\\777"),
        ] {
            assert_eq!(unescaped(escaped.as_bytes()), bytes, "{escaped}");
        }
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let noise = format!("\n1 2 3\n1 2 3 / /home opts without end\n1 2 3 / /home rw -\n{CLUSTER}");
        assert_eq!(kind_of(noise.as_bytes(), Path::new("/home")).as_deref(), Some("nfs4"));
        assert_eq!(kind_of(b"", Path::new("/home")), None);
    }

    #[test]
    fn kinds_are_listed_once_and_in_order() {
        assert!(NETWORK.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn a_file_that_is_not_there_yet_lies_where_its_folder_does() {
        let folder = tempfile::tempdir().unwrap();
        let real_folder = folder.path().canonicalize().unwrap();
        assert_eq!(real(&folder.path().join("results.db")), Some(real_folder.clone()));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert_eq!(real(&link), Some(PathBuf::from("/")));
        assert_eq!(real(Path::new("results.db")), std::env::current_dir().unwrap().canonicalize().ok());
    }
}
