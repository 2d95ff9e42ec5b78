//! Embeds the built web client: the files of `web/dist`, and a compressed copy of each file that compression makes
//! noticeably smaller. If the web client has not been built, nothing is embedded and the index explains how to build
//! it.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

fn main() {
    if let Err(error) = embed() {
        eprintln!("cannot embed the web client in web/dist: {error}");
        std::process::exit(1);
    }
}

fn embed() -> io::Result<()> {
    let variable = |name: &str| std::env::var_os(name).ok_or_else(|| io::Error::other(format!("{name} is not set")));
    let dist = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../web/dist");
    let out = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    // Naming a path that does not exist would make Cargo rebuild this crate every time. This folder contains a link to
    // web/dist, which Cargo follows if it leads somewhere.
    println!("cargo::rerun-if-changed=page");

    let mut names = Vec::new();
    if dist.join("index.html").is_file() {
        println!("cargo::rerun-if-changed=../web/dist");
        find(&dist, "", &mut names)?;
        names.sort();
    }
    let copies = out.join("assets");
    if copies.exists() {
        fs::remove_dir_all(&copies)?;
    }
    fs::create_dir(&copies)?;
    let mut table = "&[\n".to_owned();
    for (number, name) in names.iter().enumerate() {
        let bytes = fs::read(dist.join(&name[1..])).map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        // The binary includes copies, so that building the web client meanwhile does not change it.
        let plain = include(&copies, format!("{number}"), &bytes)?;
        let gzip = include_smaller(&copies, format!("{number}.gz"), &gzip(&bytes)?, &bytes)?;
        let brotli = include_smaller(&copies, format!("{number}.br"), &brotli(&bytes)?, &bytes)?;
        let _ = writeln!(table, "    File {{ path: {name:?}, plain: {plain}, gzip: {gzip}, brotli: {brotli} }},");
    }
    table.push_str("]\n");
    fs::write(out.join("assets.rs"), table)
}

/// Collects the paths of the files in a folder, each as it appears in a URL.
fn find(folder: &Path, path: &str, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(invalid_name)?;
        // Vite's own files.
        if name.starts_with('.') {
            continue;
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
            return Err(invalid_name(name.into()));
        }
        let path = format!("{path}/{name}");
        if entry.path().is_dir() { find(&entry.path(), &path, names)? } else { names.push(path) }
    }
    Ok(())
}

fn invalid_name(name: OsString) -> io::Error {
    io::Error::other(format!("the name {name:?} contains characters other than ASCII letters, digits and -._~"))
}

/// The expression that includes these bytes in the binary.
fn include(copies: &Path, name: String, bytes: &[u8]) -> io::Result<String> {
    fs::write(copies.join(&name), bytes)?;
    Ok(format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/assets/{name}\"))"))
}

/// Like [`include`], but `None` unless the encoded bytes are smaller by at least a tenth.
fn include_smaller(copies: &Path, name: String, encoded: &[u8], plain: &[u8]) -> io::Result<String> {
    if encoded.len() + plain.len() / 10 >= plain.len() {
        return Ok("None".to_owned());
    }
    Ok(format!("Some({})", include(copies, name, encoded)?))
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn brotli(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoded = Vec::new();
    let parameters = brotli::enc::BrotliEncoderParams { size_hint: bytes.len(), ..Default::default() };
    brotli::BrotliCompress(&mut bytes, &mut encoded, &parameters)?;
    Ok(encoded)
}
