//! Finds the process that has a port, for an error that names it.

use std::fs;

/// The process that listens on a port, such as "process 123 (nginx)". `None`: it can't be seen, because it belongs to
/// another user, or runs in another container.
pub(super) fn of_port(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: Vec<String> = tables.iter().flat_map(|table| listening(table, port)).collect();
    if sockets.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let process = processes.filter(|path| path.join("fd").exists()).find(|path| {
        let files = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
    })?;
    let id = process.file_name()?.to_str()?.parse::<u32>().ok()?;
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
        let own = format!("process {} (", std::process::id());
        let holder_of = |listener: &TcpListener| of_port(listener.local_addr().unwrap().port());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = holder_of(&listener);
        assert!(holder.as_ref().is_some_and(|holder| holder.starts_with(&own)), "{holder:?}");
        // Some sandboxes do not list sockets of IPv6.
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let holder = holder_of(&listener);
        assert!(holder.as_ref().is_none_or(|holder| holder.starts_with(&own)), "{holder:?}");
        assert_eq!(of_port(0), None);
    }
}
