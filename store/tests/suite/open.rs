//! Mistakes that an administrator can make with the database URL and the data folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use uproar_store::{DataFolder, DatabaseUrl};

#[test]
fn database_urls_are_parsed_and_shown_without_passwords() {
    for (text, path) in [
        ("sqlite:a/b.db", "a/b.db"),
        ("sqlite://a b.db", "a b.db"),
        ("sqlite:///abs/c", "/abs/c"),
        ("SQLITE:A", "A"),
        ("Sqlite://A", "A"),
    ] {
        assert_eq!(text.parse::<DatabaseUrl>().unwrap(), DatabaseUrl::Sqlite(path.into()));
    }
    for (text, url) in [
        ("postgres://u:p@h/d", "postgres://u:p@h/d"),
        ("postgresql://h:5433/d?sslmode=disable", "postgres://h:5433/d?sslmode=disable"),
        ("postgres:///d?host=/run/postgresql", "postgres:///d?host=/run/postgresql"),
        ("POSTGRES://u:P@h/D", "postgres://u:P@h/D"),
    ] {
        assert_eq!(text.parse::<DatabaseUrl>().unwrap(), DatabaseUrl::Postgres(url.into()));
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
        "sqlite:a\0b",
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
fn a_data_folder_is_created_and_locked() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/data");
    let folder = DataFolder::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(path.join("uproar.lock")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(folder.path().is_absolute());

    let error = DataFolder::open(&path).unwrap_err().to_string();
    assert!(error.contains("another uproar") && error.contains(path.to_str().unwrap()), "{error}");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert!(!error.contains('\n'));
    drop(folder);
    // The file remains, but the lock is released.
    DataFolder::open(&path).unwrap();
}

#[test]
fn an_empty_folder_becomes_a_data_folder_and_a_foreign_one_does_not() {
    let directory = TempDir::new().unwrap();
    let empty = directory.path().join("empty");
    fs::create_dir_all(empty.join("lost+found")).unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).unwrap();
    drop(DataFolder::open(&empty).unwrap());
    assert_eq!(fs::metadata(&empty).unwrap().permissions().mode() & 0o777, 0o700);
    // It remains a data folder when other files are added.
    fs::write(empty.join("notes.txt"), "x").unwrap();
    DataFolder::open(&empty).unwrap();

    // The key of another node was copied into it.
    let keyed = directory.path().join("keyed");
    fs::create_dir(&keyed).unwrap();
    fs::write(keyed.join(DataFolder::KEY_FILE), [7; 32]).unwrap();
    DataFolder::open(&keyed).unwrap();
    assert_eq!(fs::read(keyed.join(DataFolder::KEY_FILE)).unwrap(), [7; 32]);

    let foreign = directory.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "x").unwrap();
    let error = DataFolder::open(&foreign).unwrap_err().to_string();
    assert!(error.contains("not a data folder") && error.contains("--data") && !error.contains('\n'), "{error}");
    let left: Vec<_> = fs::read_dir(&foreign).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["thesis.txt"], "nothing is created in a foreign folder");
}

#[test]
fn paths_that_cannot_be_folders_are_refused() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("data"), "/proc/uproar".into()] {
        let error = DataFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("--data") && !error.contains('\n'), "{error}");
    }
}
