//! Finds the process that has locked a database file, for an error that names it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Another process that holds a lock on the file, or on one of the files that SQLite keeps beside it, such as "process
/// 123 (sqlite3)". `None`: it can't be seen, for example because it runs in another container.
pub(super) fn of_file(path: &Path) -> Option<String> {
    let inodes: Vec<u64> = ["", "-wal", "-shm"]
        .iter()
        .filter_map(|suffix| {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            Some(fs::metadata(file).ok()?.ino())
        })
        .collect();
    let process = find(&fs::read_to_string("/proc/locks").ok()?, &inodes, std::process::id())?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    Some(format!("process {process} ({})", name.trim().escape_debug()))
}

/// A line of `/proc/locks` is such as `7: POSIX  ADVISORY  WRITE 2402 08:01:9567 128 128`.
fn find(locks: &str, inodes: &[u64], own_process: u32) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        // Lines of processes that wait for a lock have `->` here.
        if columns.nth(1)? != "POSIX" {
            return None;
        }
        let process: u32 = columns.nth(2)?.parse().ok()?;
        let inode: u64 = columns.next()?.rsplit(':').next()?.parse().ok()?;
        (inodes.contains(&inode) && process != own_process && process != 0).then_some(process)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 41 08:01:7 0 EOF\n\
                     2: POSIX  ADVISORY  READ 42 08:01:8 128 128\n\
                     2: -> POSIX  ADVISORY  WRITE 43 08:01:9 128 128\n\
                     3: FLOCK  ADVISORY  WRITE 44 08:01:9 0 EOF\n";
        assert_eq!(find(locks, &[7, 8], 41), Some(42));
        assert_eq!(find(locks, &[9], 41), None);
        assert_eq!(find(locks, &[7], 41), None);
    }
}
