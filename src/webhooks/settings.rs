//! The webhooks of the configuration file.

use super::secret::Secret;
use crate::config::Options;
use crate::outgoing::Url;
use anyhow::{Context, Result, anyhow, bail};
use std::path::Path;
use toml::{Table, Value};
use uproar_model::text::fold;
use uproar_model::{Kind, Publication};

/// The most webhooks.
const HOOKS_LIMIT: usize = 16;
const NAME_LIMIT_BYTES: usize = 64;
const PATTERN_LIMIT_BYTES: usize = 256;
const FIELDS: [&str; 5] = ["name", "url", "secret_file", "rooms", "events"];

/// One webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    pub name: String,
    pub url: Url,
    pub secrets: Vec<Secret>,
    /// Which rooms, as in `matches_pattern`.
    pub rooms: String,
    pub events: Events,
}

/// Which publications a receiver wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events(Option<Vec<Event>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Message,
    Edit,
    Delete,
    React,
    Member,
    Moderation,
}

const EVENTS: [(&str, Event); 6] = [
    ("message", Event::Message),
    ("edit", Event::Edit),
    ("delete", Event::Delete),
    ("react", Event::React),
    ("member", Event::Member),
    ("moderation", Event::Moderation),
];

impl Events {
    pub fn contain(&self, publication: &Publication) -> bool {
        let event = match publication.kind {
            Kind::Message => Event::Message,
            Kind::Edit => Event::Edit,
            Kind::Delete => Event::Delete,
            Kind::React | Kind::Unreact => Event::React,
            Kind::Added | Kind::Removed => Event::Member,
            Kind::Moderated => Event::Moderation,
            // What later releases add is only for those who want everything.
            Kind::RoomChanged | Kind::Unknown => return self.0.is_none(),
        };
        self.0.as_ref().is_none_or(|events| events.contains(&event))
    }

    /// As text: `*`, or their names, separated by commas.
    pub fn encode(&self) -> String {
        if self.0.is_none() { "*".to_owned() } else { self.names().join(",") }
    }

    /// What `encode` has made. `None`: it is another text.
    pub fn parse(text: &str) -> Option<Events> {
        if text == "*" {
            return Some(Events(None));
        }
        let event = |name| EVENTS.iter().find(|(known, _)| *known == name).map(|(_, event)| *event);
        text.split(',').map(event).collect::<Option<Vec<Event>>>().map(|events| Events(Some(events)))
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        let is_wanted = |event: &Event| self.0.as_ref().is_none_or(|events| events.contains(event));
        EVENTS.iter().filter(|(_, event)| is_wanted(event)).map(|(name, _)| *name).collect()
    }
}

/// Reads the webhooks, and the files of their secrets.
///
/// # Errors
/// In one line, with the webhook and the field.
pub fn from_options(options: &Options) -> Result<Vec<Hook>> {
    let file = options.config.as_deref().unwrap_or(Path::new("")).display();
    if options.webhooks.len() > HOOKS_LIMIT {
        bail!("{file}: there are {} webhooks; {HOOKS_LIMIT} are possible", options.webhooks.len());
    }
    let mut hooks: Vec<Hook> = Vec::new();
    for (index, table) in options.webhooks.iter().enumerate() {
        let shown = match table.get("name") {
            Some(Value::String(name)) => format!("webhook '{}'", name.escape_debug()),
            _ => format!("webhook {}", index + 1),
        };
        let hook = parse(table).map_err(|error| anyhow!("{file}: {shown}: {}", crate::output::one_line(&error)))?;
        if hooks.iter().any(|other| other.name == hook.name) {
            bail!("{file}: {shown}: there is another one with this name; choose another");
        }
        hooks.push(hook);
    }
    Ok(hooks)
}

fn parse(table: &Table) -> Result<Hook> {
    if let Some(unknown) = table.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        bail!("there is no field '{}'; a webhook has {}", unknown.escape_debug(), FIELDS.join(", "));
    }
    let name = text(table, "name")?.context("name is missing")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > NAME_LIMIT_BYTES || !name.bytes().all(is_plain) {
        bail!("name must have 1 to {NAME_LIMIT_BYTES} characters: letters of ASCII, digits, - and _");
    }
    let url = text(table, "url")?.context("url is missing")?;
    let url = Url::parse(url).map_err(|error| anyhow!("url {error}"))?;
    let secret_file = text(table, "secret_file")?.context("secret_file is missing")?;
    let secrets = Secret::read_file(Path::new(secret_file)).map_err(|error| error.context("secret_file"))?;
    let rooms = fold(text(table, "rooms")?.unwrap_or("*"));
    if rooms.is_empty() || rooms.len() > PATTERN_LIMIT_BYTES || rooms.contains('\0') {
        bail!("rooms must be a pattern of room names, such as * or team-*, of at most {PATTERN_LIMIT_BYTES} bytes");
    }
    Ok(Hook { name: name.to_owned(), url, secrets, rooms, events: Events(events(table)?) })
}

fn text<'a>(table: &'a Table, field: &str) -> Result<Option<&'a str>> {
    match table.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim())),
        Some(_) => bail!("{field} must be a string"),
    }
}

fn events(table: &Table) -> Result<Option<Vec<Event>>> {
    let names = EVENTS.map(|(name, _)| name).join(", ");
    let Some(value) = table.get("events") else { return Ok(None) };
    let Value::Array(values) = value else { bail!("events must be a list of {names}") };
    let event = |value: &Value| {
        let Value::String(text) = value else { bail!("events must be a list of {names}") };
        let known = EVENTS.iter().find(|(name, _)| text == name);
        let shown = text.escape_debug();
        known.map(|(_, event)| *event).ok_or_else(|| anyhow!("events: there is no event '{shown}'; there are {names}"))
    };
    let events: Vec<Event> = values.iter().map(event).collect::<Result<_>>()?;
    if events.is_empty() {
        bail!("events is empty; leave it out for all events, or name some of {names}");
    }
    Ok(Some(events))
}

/// Whether a pattern matches a whole name: `*` stands for any characters, `?` for one.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last `*`, and how much of the name it stands for so far ends there.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, end)) = star else { return false };
                star = Some((at, end + 1));
                (p, n) = (at + 1, end + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use uproar_model::{User, UserId};

    fn table(toml: &str) -> Table {
        toml.parse().unwrap()
    }

    fn secret_file() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    fn publication(kind: Kind) -> Publication {
        Publication {
            offset: 1,
            number: 1,
            kind,
            user: User { id: UserId(1), username: "ann".into() },
            id: Arc::from("x"),
            time: 0,
            target: None,
            body: None,
            edited: None,
            deleted: None,
            meta: None,
        }
    }

    #[test]
    fn a_webhook_has_a_name_a_url_and_a_secret() {
        let file = secret_file();
        let path = file.path().display();
        let hook =
            parse(&table(&format!("name = 'crm'\nurl = 'https://example.org/x'\nsecret_file = '{path}'"))).unwrap();
        assert_eq!((hook.name.as_str(), hook.url.origin(), hook.rooms.as_str()), ("crm", "https://example.org", "*"));
        assert!(hook.events.contain(&publication(Kind::Unknown)));
        let more = format!(
            "name = 'crm'\nurl = 'https://example.org/x'\nsecret_file = '{path}'\nrooms = 'Team-*'\n\
             events = ['react', 'moderation', 'member']"
        );
        let hook = parse(&table(&more)).unwrap();
        assert_eq!((hook.rooms.as_str(), hook.events.names()), ("team-*", vec!["react", "member", "moderation"]));
        let wanted = [Kind::React, Kind::Unreact, Kind::Added, Kind::Removed, Kind::Moderated];
        assert!(wanted.iter().all(|kind| hook.events.contain(&publication(*kind))));
        let others = [Kind::Message, Kind::Edit, Kind::Delete, Kind::RoomChanged, Kind::Unknown];
        assert!(!others.iter().any(|kind| hook.events.contain(&publication(*kind))));
    }

    #[test]
    fn a_mistake_is_named_with_its_field() {
        let file = secret_file();
        let path = file.path().display().to_string();
        let good = [("name", "'a'"), ("url", "'https://a.example'"), ("secret_file", &format!("'{path}'"))];
        for (field, value, expected) in [
            ("name", "", "name is missing"),
            ("name", "7", "name must be a string"),
            ("name", "'a b'", "name must have 1 to 64 characters"),
            ("url", "", "url is missing"),
            ("url", "'example.org'", "url must be a URL such as"),
            ("url", "'https://a:b@example.org'", "url must not contain a user"),
            ("secret_file", "", "secret_file is missing"),
            ("secret_file", "'/does/not/exist'", "secret_file: can't read /does/not/exist"),
            ("rooms", "''", "rooms must be a pattern"),
            ("rooms", "['a']", "rooms must be a string"),
            ("events", "'message'", "events must be a list of message, edit"),
            ("events", "[]", "events is empty"),
            ("events", "['messages']", "events: there is no event 'messages'; there are message, edit"),
            ("events", "[7]", "events must be a list of message, edit"),
            ("secret", "'x'", "there is no field 'secret'; a webhook has name, url"),
        ] {
            let mut toml: Vec<(&str, &str)> = good.iter().filter(|(name, _)| *name != field).copied().collect();
            toml.push((field, value));
            let lines = toml.iter().filter(|(_, value)| !value.is_empty());
            let toml: String = lines.map(|(name, value)| format!("{name} = {value}\n")).collect();
            let error = crate::output::one_line(&parse(&table(&toml)).unwrap_err());
            assert!(error.starts_with(expected), "{field} = {value}: {error}");
        }
    }

    #[test]
    fn a_pattern_matches_whole_names() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "anything at all", true),
            ("team-*", "team-", true),
            ("team-*", "a team-x", false),
            ("*-team", "a-team-b-team", true),
            ("*-team", "a-teams", false),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("lobby", "lobby", true),
            ("lobby", "lobby2", false),
            ("", "x", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }
}
