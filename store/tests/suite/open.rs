//! What an administrator can get wrong: the URL and the data folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use uproar_store::{DataFolder, DatabaseUrl};

#[test]
fn urls() {
    for (text, path) in [("sqlite:a/b.db", "a/b.db"), ("sqlite://a b.db", "a b.db"), ("sqlite:///abs/c", "/abs/c")] {
        assert_eq!(text.parse::<DatabaseUrl>().unwrap(), DatabaseUrl::Sqlite(path.into()));
    }
    for text in ["postgres://u:p@h/d", "postgresql://h:5433/d?sslmode=disable", "postgres:///d?host=/run/postgresql"] {
        assert_eq!(text.parse::<DatabaseUrl>().unwrap(), DatabaseUrl::Postgres(text.into()));
    }
    for text in [
        "",
        "x.db",
        "mysql://h/d",
        "sqlite",
        "sqlite:",
        "sqlite://",
        "sqlite::memory:",
        "sqlite:a?mode=ro",
        "postgres:d",
    ] {
        let error = text.parse::<DatabaseUrl>().unwrap_err().to_string();
        assert!(error.contains("sqlite:PATH") && error.contains("postgres://"), "{error}");
        assert!(!error.contains('\n'));
    }
    let error = "postgres://u:sec%ret#@h:port/d".parse::<DatabaseUrl>().unwrap_err().to_string();
    assert!(!error.contains("sec"), "{error}");
    let url: DatabaseUrl = "postgres://joe:secret@db.example:5433/chat".parse().unwrap();
    for shown in [format!("{url}"), format!("{url:?}")] {
        assert!(shown.contains("db.example:5433/chat") && !shown.contains("secret"), "{shown}");
    }
}

#[test]
fn a_data_folder_is_made_and_locked() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("deep/data");
    let folder = DataFolder::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(path.join("uproar.lock")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(folder.path().is_absolute());

    let error = DataFolder::open(&path).unwrap_err().to_string();
    assert!(error.contains("another uproar") && error.contains(path.to_str().unwrap()), "{error}");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert!(!error.contains('\n'));
    drop(folder);
    // The file stays; the lock does not.
    DataFolder::open(&path).unwrap();
}

#[test]
fn an_empty_folder_is_adopted_and_a_foreign_one_is_not() {
    let place = TempDir::new().unwrap();
    let empty = place.path().join("empty");
    fs::create_dir_all(empty.join("lost+found")).unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).unwrap();
    drop(DataFolder::open(&empty).unwrap());
    assert_eq!(fs::metadata(&empty).unwrap().permissions().mode() & 0o777, 0o700);
    // Ours, whatever else came into it since.
    fs::write(empty.join("notes.txt"), "x").unwrap();
    DataFolder::open(&empty).unwrap();

    let foreign = place.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "x").unwrap();
    let error = DataFolder::open(&foreign).unwrap_err().to_string();
    assert!(error.contains("not a data folder") && error.contains("--data") && !error.contains('\n'), "{error}");
    let left: Vec<_> = fs::read_dir(&foreign).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["thesis.txt"], "nothing is put into what is not ours");
}

#[test]
fn what_is_no_folder() {
    let place = TempDir::new().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("data"), "/proc/uproar".into()] {
        let error = DataFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("--data") && !error.contains('\n'), "{error}");
    }
}
