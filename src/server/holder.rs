//! Finds the process that has a port, for an error that names it.

use std::fs;

/// The process that listens on a port, such as "process 123 (nginx)". `None`: it can't be seen, because it belongs to
/// another user, or runs in another container.
pub(crate) fn of_port(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: Vec<String> = tables.iter().flat_map(|table| listening(table, port)).collect();
    if sockets.is_empty() {
        return None;
    }
    let entries = fs::read_dir("/proc").ok()?.flatten();
    // Not `self`, which is a link.
    let mut processes =
        entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    let (id, process) = processes.find(|(_, path)| {
        let files = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
    })?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(format!("process {id} ({})", name.trim().escape_debug()))
}

/// The sockets that listen on this port, as `/proc/PROCESS/fd` names them.
/// <https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html>
fn listening(table: &str, port: u16) -> impl Iterator<Item = String> {
    table.lines().skip(1).filter_map(move |line| {
        let mut columns = line.split_ascii_whitespace();
        let (_, local_port) = columns.nth(1)?.rsplit_once(':')?;
        let state = columns.nth(1)?;
        let inode = columns.nth(5)?;
        (state == "0A" && u16::from_str_radix(local_port, 16) == Ok(port)).then(|| format!("socket:[{inode}]"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_process_that_listens_is_named() {
        for any_port in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any_port).unwrap();
            let holder = of_port(listener.local_addr().unwrap().port());
            let expected = format!("process {} (", std::process::id());
            assert!(holder.as_ref().is_some_and(|holder| holder.starts_with(&expected)), "{holder:?}");
        }
        assert_eq!(of_port(0), None);
    }
}
