//! Embeds the built page of the web client: the files of `web/dist`, and each of them compressed, where that makes it
//! smaller. That is done here, once, and never when somebody asks for a file. Where nothing is built, nothing is
//! embedded, and the service says how to build it.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

fn main() {
    if let Err(error) = embed() {
        eprintln!("the page in web/dist can't be embedded: {error}");
        std::process::exit(1);
    }
}

fn embed() -> io::Result<()> {
    let variable = |name: &str| std::env::var_os(name).ok_or_else(|| io::Error::other(format!("no {name}")));
    let dist = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../web/dist");
    let out = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    // A path that does not exist would make Cargo build this crate anew each time. In this folder there is a link to
    // web/dist, which Cargo follows when there is something behind it.
    println!("cargo::rerun-if-changed=page");

    let mut names = Vec::new();
    if dist.join("index.html").is_file() {
        println!("cargo::rerun-if-changed=../web/dist");
        find(&dist, "", &mut names)?;
        names.sort();
    }
    let copies = out.join("page");
    if copies.exists() {
        fs::remove_dir_all(&copies)?;
    }
    fs::create_dir(&copies)?;
    let mut table = "&[\n".to_owned();
    for (number, name) in names.iter().enumerate() {
        let bytes = fs::read(dist.join(&name[1..])).map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        // Of copies: what is built here does not change when somebody builds the page meanwhile.
        let plain = include(&copies, format!("{number}"), &bytes)?;
        let gzip = include_smaller(&copies, format!("{number}.gz"), &gzip(&bytes)?, &bytes)?;
        let brotli = include_smaller(&copies, format!("{number}.br"), &brotli(&bytes)?, &bytes)?;
        let _ = writeln!(table, "    File {{ path: {name:?}, plain: {plain}, gzip: {gzip}, brotli: {brotli} }},");
    }
    table.push_str("]\n");
    fs::write(out.join("page.rs"), table)
}

/// The paths of the files in a folder of the page, each as it is in an address.
fn find(folder: &Path, path: &str, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(unfit)?;
        // What Vite keeps for itself.
        if name.starts_with('.') {
            continue;
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
            return Err(unfit(name.into()));
        }
        let path = format!("{path}/{name}");
        if entry.path().is_dir() { find(&entry.path(), &path, names)? } else { names.push(path) }
    }
    Ok(())
}

fn unfit(name: OsString) -> io::Error {
    io::Error::other(format!("the name {name:?} has more in it than letters of ASCII, digits and -._~"))
}

/// The expression that stands for these bytes.
fn include(copies: &Path, name: String, bytes: &[u8]) -> io::Result<String> {
    fs::write(copies.join(&name), bytes)?;
    Ok(format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/page/{name}\"))"))
}

/// The same for what is only worth its place if it is smaller by a tenth.
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
