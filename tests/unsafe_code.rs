//! Proves that only the io_uring driver has unsafe code.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn unsafe_code_is_only_in_the_uring_driver() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "core", "model", "store", "http"] {
        collect(&root.join(folder), &mut files);
    }
    assert!(files.len() > 50, "only {} source files were found", files.len());
    let word = concat!("unsa", "fe");
    let marks = [format!("{word} {{"), format!("{word} fn"), format!("{word} impl"), format!("allow({word}_code")];
    for file in files.iter().filter(|file| !file.starts_with(root.join("src/driver/uring"))) {
        let text = fs::read_to_string(file).unwrap();
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{} contains `{mark}`", file.display());
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
