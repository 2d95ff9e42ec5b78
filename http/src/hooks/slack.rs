//! The body that Slack and Mattermost take, as the text of a message.
//!
//! Senders fill it in many ways, and can't react to an error, so what is unknown or of the wrong type is left out.

use serde_json::Value;
use uproar_model::text;

/// The longest `username` that is shown, in bytes.
const USERNAME_LIMIT_BYTES: usize = 128;

/// The longest name of an emoji between colons, in bytes.
const SHORTCODE_LIMIT_BYTES: usize = 48;

/// The text that a room shows for this body; empty if there is nothing to show.
pub(super) fn message(body: &Value) -> String {
    let blocks = blocks(&body["blocks"]);
    // Slack shows the text only where it can't show blocks.
    let first = if blocks.is_empty() { marked_up(&body["text"]) } else { blocks };
    let attachments = join(list(&body["attachments"]).iter().map(attachment), "\n\n");
    // Some senders repeat the text in an attachment, for notifications.
    let is_repeated = format!("\n{attachments}\n").contains(&format!("\n{first}\n"));
    if is_repeated { attachments } else { join([first, attachments], "\n\n") }
}

/// The name that the sender gives itself in this body, in one line.
pub(super) fn username(body: &Value) -> String {
    let name = string(&body["username"]).split_whitespace().collect::<Vec<_>>().join(" ");
    let name = text::cut(&name, USERNAME_LIMIT_BYTES);
    if text::is_visible(name) { name.to_owned() } else { String::new() }
}

/// Whether the body has any of the fields that make a message.
pub(super) fn is_message(body: &Value) -> bool {
    ["text", "attachments", "blocks"].into_iter().any(|field| !body[field].is_null())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A text with Slack's markup as a room shows it.
fn marked_up(value: &Value) -> String {
    unmarked(string(value)).trim().to_owned()
}

/// Those of the parts that are not empty.
fn join(parts: impl IntoIterator<Item = String>, between: &str) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(between)
}

/// A text with the address that it leads to.
fn linked(label: String, url: &str) -> String {
    let url = unescaped(url.trim());
    match (label.is_empty(), url.is_empty()) {
        (_, true) => label,
        (true, false) => url,
        (false, false) if label == url => url,
        (false, false) => format!("{label} ({url})"),
    }
}

/// <https://docs.slack.dev/legacy/legacy-messaging/legacy-secondary-message-attachments>. Colours, icons and footers
/// are left out.
fn attachment(attachment: &Value) -> String {
    let blocks = blocks(&attachment["blocks"]);
    let pretext = marked_up(&attachment["pretext"]);
    if !blocks.is_empty() {
        return join([pretext, blocks], "\n");
    }
    let author = linked(marked_up(&attachment["author_name"]), string(&attachment["author_link"]));
    let title = linked(marked_up(&attachment["title"]), string(&attachment["title_link"]));
    let fields = list(&attachment["fields"]).iter().map(|field| {
        let (title, value) = (marked_up(&field["title"]), marked_up(&field["value"]));
        if title.is_empty() || value.is_empty() { title + &value } else { format!("{title}: {value}") }
    });
    let image = linked(String::new(), string(&attachment["image_url"]));
    let lines = [pretext, author, title, marked_up(&attachment["text"])].into_iter().chain(fields).chain([image]);
    let shown = join(lines.chain(list(&attachment["actions"]).iter().map(button)), "\n");
    if shown.is_empty() { marked_up(&attachment["fallback"]) } else { shown }
}

/// A button is shown if it is a link. Nobody here could take what others send when they are pressed.
fn button(element: &Value) -> String {
    let url = string(&element["url"]);
    if url.is_empty() { String::new() } else { linked(text_object(&element["text"]), url) }
}

/// A text, or an object around one.
fn text_object(value: &Value) -> String {
    if value.is_string() { marked_up(value) } else { marked_up(&value["text"]) }
}

/// <https://docs.slack.dev/reference/block-kit/blocks>
fn blocks(blocks: &Value) -> String {
    join(list(blocks).iter().map(block), "\n")
}

fn block(block: &Value) -> String {
    match string(&block["type"]) {
        "section" => {
            let fields = list(&block["fields"]).iter().map(text_object);
            let lines = [text_object(&block["text"])].into_iter().chain(fields);
            join(lines.chain([element(&block["accessory"])]), "\n")
        }
        "context" => join(list(&block["elements"]).iter().map(element), " "),
        "actions" => join(list(&block["elements"]).iter().map(element), "\n"),
        "image" => image(block),
        "video" => linked(text_object(&block["title"]), string(&block["title_url"])),
        "rich_text" => rich_text(block),
        // Markdown, which is no markup of Slack's.
        "markdown" => string(&block["text"]).trim().to_owned(),
        _ => text_object(&block["text"]),
    }
}

fn element(element: &Value) -> String {
    match string(&element["type"]) {
        "image" => image(element),
        "button" | "workflow_button" => button(element),
        "mrkdwn" | "plain_text" => text_object(element),
        _ => String::new(),
    }
}

fn image(image: &Value) -> String {
    let title = text_object(&image["title"]);
    let label = if title.is_empty() { marked_up(&image["alt_text"]) } else { title };
    linked(label, string(&image["image_url"]))
}

/// <https://docs.slack.dev/reference/block-kit/blocks/rich-text-block>
fn rich_text(part: &Value) -> String {
    let parts = || list(&part["elements"]).iter().map(rich_text);
    match string(&part["type"]) {
        "rich_text" => join(parts(), "\n"),
        "rich_text_list" => join(parts().map(|item| if item.is_empty() { item } else { format!("- {item}") }), "\n"),
        "rich_text_preformatted" => format!("```\n{}\n```", parts().collect::<String>().trim_matches('\n')),
        "rich_text_quote" => {
            let quoted: String = parts().collect();
            quoted.lines().map(|line| format!("> {line}")).collect::<Vec<_>>().join("\n")
        }
        "rich_text_section" => parts().collect(),
        "text" => string(&part["text"]).to_owned(),
        "link" => linked(string(&part["text"]).to_owned(), string(&part["url"])),
        "emoji" => {
            let name = string(&part["name"]);
            emoji(name).map_or_else(|| format!(":{name}:"), str::to_owned)
        }
        "user" => format!("@{}", string(&part["user_id"])),
        "usergroup" => format!("@{}", string(&part["usergroup_id"])),
        "channel" => format!("#{}", string(&part["channel_id"])),
        "broadcast" => format!("@{}", string(&part["range"])),
        _ => String::new(),
    }
}

/// Replaces Slack's markup of links, mentions, dates and emoji. Bold and other emphasis stays as it is.
/// <https://docs.slack.dev/messaging/formatting-message-text>
fn unmarked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&', ':']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let replaced = match from.as_bytes()[0] {
            b'<' => reference(from),
            b'&' => entity(from),
            _ => shortcode(&out, from),
        };
        match replaced {
            Some((replacement, length)) => {
                out.push_str(&replacement);
                rest = &from[length..];
            }
            None => {
                out.push_str(&from[..1]);
                rest = &from[1..];
            }
        }
    }
    out + rest
}

/// What `<…>` at the beginning of a text stands for, and its length.
fn reference(text: &str) -> Option<(String, usize)> {
    let inner = &text[1..];
    // Up to the next `<`, so that many of them cost no more than one.
    let end = inner.find(['<', '>', '\n']).filter(|end| inner.as_bytes()[*end] == b'>')?;
    let (target, label) = inner[..end].split_once('|').unwrap_or((&inner[..end], ""));
    let label = unescaped(label.trim());
    let shown = match target.as_bytes().first()? {
        b'@' | b'#' if label.is_empty() => target.to_owned(),
        mark @ (b'@' | b'#') => format!("{}{}", char::from(*mark), label.trim_start_matches(char::from(*mark))),
        b'!' => special(&target[1..], &label),
        _ => link(target, label)?,
    };
    Some((shown, end + 2))
}

fn link(target: &str, label: String) -> Option<String> {
    let (scheme, rest) = target.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme || rest.is_empty() || target.contains(char::is_whitespace) {
        return None;
    }
    // An address of a person is shown without the scheme, as it is written.
    let shown = if scheme.eq_ignore_ascii_case("mailto") { rest } else { target };
    Some(linked(label, shown))
}

/// `here`, `channel`, `everyone`, `subteam^ID`, or `date^TIME^FORMAT` with a text for those who don't know it.
fn special(command: &str, label: &str) -> String {
    let (name, argument) = command.split_once('^').unwrap_or((command, ""));
    match name {
        "date" => label.to_owned(),
        "subteam" if label.is_empty() => format!("@{}", argument.split('|').next().unwrap_or_default()),
        "subteam" => format!("@{}", label.trim_start_matches('@')),
        _ => format!("@{name}"),
    }
}

fn entity(text: &str) -> Option<(String, usize)> {
    let entities = [("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")];
    entities.into_iter().find(|(escaped, _)| text.starts_with(escaped)).map(|(escaped, c)| (c.into(), escaped.len()))
}

/// The three characters that senders escape, as they are.
fn unescaped(text: &str) -> String {
    // Ampersands last, because what stands behind one may look like another escape.
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

/// The emoji that `:name:` at the beginning of a text stands for. `before`: what comes before it. A colon in the middle
/// of a word is one of a time, or of code.
fn shortcode(before: &str, text: &str) -> Option<(String, usize)> {
    let inner = &text[1..];
    let end = inner.bytes().take(SHORTCODE_LIMIT_BYTES).position(|byte| byte == b':')?;
    let follows = inner[end + 1..].chars().next();
    let is_inside = |c: char| c == ':' || c.is_alphanumeric();
    if before.ends_with(is_inside) || follows.is_some_and(char::is_alphanumeric) {
        return None;
    }
    Some((emoji(&inner[..end])?.to_owned(), end + 2))
}

fn emoji(name: &str) -> Option<&'static str> {
    text::emoji_named(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(text: &str) -> String {
        message(&json!({"text": text}))
    }

    #[test]
    fn links_mentions_and_entities_are_shown_as_people_write_them() {
        for (text, expected) in [
            ("plain", "plain"),
            ("see <https://a.example/x?a=1&amp;b=2|the page>.", "see the page (https://a.example/x?a=1&b=2)."),
            ("<https://a.example>", "https://a.example"),
            ("<https://a.example|https://a.example>", "https://a.example"),
            ("<https://a.example|>", "https://a.example"),
            ("<mailto:ann@a.example|ann@a.example>", "ann@a.example"),
            ("<mailto:ann@a.example|Ann>", "Ann (ann@a.example)"),
            ("<tel:+32123|call>", "call (tel:+32123)"),
            ("<!channel> <!here|here> <!everyone>", "@channel @here @everyone"),
            ("<!subteam^S1|@ops> <!subteam^S2>", "@ops @S2"),
            ("<!date^1392734382^Posted {date_num}^https://a.example|Posted 2014-02-18>", "Posted 2014-02-18"),
            ("<@U1> <@U1|ann> <#C1|general> <#C1>", "@U1 @ann #general #C1"),
            ("1 < 2 > 0, a<b>c, <b>bold</b>", "1 < 2 > 0, a<b>c, <b>bold</b>"),
            ("a &lt;b&gt; &amp;amp; &nbsp;", "a <b> &amp; &nbsp;"),
            ("&amp;lt;", "&lt;"),
            ("<https://a.example|a\nb>", "<https://a.example|a\nb>"),
            ("<https://a.example|unfinished", "<https://a.example|unfinished"),
            ("<<https://a.example|x>>", "<x (https://a.example)>"),
            ("<>", "<>"),
            ("*bold* _it_ ~no~ `code`", "*bold* _it_ ~no~ `code`"),
            ("  around \n", "around"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn names_of_emoji_are_replaced_where_slack_would() {
        for (text, expected) in [
            (":warning: disk", "⚠\u{fe0f} disk"),
            ("ok :+1:", "ok 👍"),
            (":rocket::tada:", "🚀🎉"),
            ("at 12:30:45", "at 12:30:45"),
            ("std::a::b", "std::a::b"),
            ("a:b:c", "a:b:c"),
            (":no_such_emoji:", ":no_such_emoji:"),
            ("::", "::"),
            (":", ":"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn an_attachment_is_shown_line_by_line() {
        let body = json!({
            "text": "first",
            "attachments": [
                {
                    "fallback": "not shown", "color": "danger", "pretext": "before", "author_name": "Ann",
                    "author_link": "https://a.example/ann", "title": "Title ", "title_link": "https://a.example/t",
                    "text": "body", "fields": [
                        {"title": "Branch", "value": "main", "short": true}, {"value": "alone"}, {"title": "empty"}, 7
                    ],
                    "image_url": "https://a.example/i.png", "footer": "not shown", "ts": "1",
                    "actions": [
                        {"type": "button", "text": "Open", "url": "https://a.example/o"},
                        {"type": "button", "text": "not shown", "value": "x"}
                    ]
                },
                {"fallback": "only <https://a.example|this>"},
                {}, null, "x"
            ]
        });
        let expected = "first\n\nbefore\nAnn (https://a.example/ann)\nTitle (https://a.example/t)\nbody\n\
            Branch: main\nalone\nempty\nhttps://a.example/i.png\nOpen (https://a.example/o)\n\n\
            only this (https://a.example)";
        assert_eq!(message(&body), expected);
    }

    #[test]
    fn blocks_are_shown_in_place_of_the_text() {
        let body = json!({
            "text": "for notifications only",
            "blocks": [
                {"type": "header", "text": {"type": "plain_text", "text": "Deployed :rocket:"}},
                {"type": "divider"},
                {"type": "section", "text": {"type": "mrkdwn", "text": "*app*"},
                    "fields": [{"type": "mrkdwn", "text": "*By*\nAnn"}],
                    "accessory": {"type": "button", "text": {"text": "Log"}, "url": "https://a.example/l"}},
                {"type": "context", "elements": [
                    {"type": "image", "image_url": "https://a.example/i.png", "alt_text": "logo"},
                    {"type": "plain_text", "text": "footnote"}
                ]},
                {"type": "image", "title": {"text": "Graph"}, "image_url": "https://a.example/g.png"},
                {"type": "rich_text", "elements": [
                    {"type": "rich_text_section", "elements": [
                        {"type": "text", "text": "see "}, {"type": "link", "url": "https://a.example", "text": "here"},
                        {"type": "emoji", "name": "tada"}, {"type": "user", "user_id": "U1"},
                        {"type": "broadcast", "range": "here"}
                    ]},
                    {"type": "rich_text_list", "style": "bullet", "elements": [
                        {"type": "rich_text_section", "elements": [{"type": "text", "text": "one"}]}
                    ]},
                    {"type": "rich_text_quote", "elements": [{"type": "text", "text": "a\nb"}]},
                    {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": "code"}]}
                ]},
                {"type": "markdown", "text": "**bold** [x](https://a.example)"},
                {"type": "from the future", "text": "kept"},
                {"type": "actions", "elements": [{"type": "button", "text": "Go", "url": "https://a.example/go"}]},
                7
            ]
        });
        let expected = "Deployed 🚀\n*app*\n*By*\nAnn\nLog (https://a.example/l)\n\
            logo (https://a.example/i.png) footnote\nGraph (https://a.example/g.png)\n\
            see here (https://a.example)🎉@U1@here\n- one\n> a\n> b\n```\ncode\n```\n\
            **bold** [x](https://a.example)\nkept\nGo (https://a.example/go)";
        assert_eq!(message(&body), expected);
    }

    #[test]
    fn a_text_that_an_attachment_repeats_is_shown_once() {
        for (text, shown_text) in [("b\nc", "a\nb\nc\nd"), ("a\nb\nc\nd", "a\nb\nc\nd"), ("b c", "b c\n\na\nb\nc\nd")] {
            let body = json!({"text": text, "attachments": [{"text": "a\nb\nc\nd"}]});
            assert_eq!(message(&body), shown_text);
        }
        assert_eq!(message(&json!({"text": "a", "attachments": []})), "a");
        assert_eq!(message(&json!({"text": "", "attachments": [{"text": "a"}]})), "a");
    }

    #[test]
    fn what_has_the_wrong_type_is_left_out() {
        for body in [
            json!({}),
            json!([]),
            json!("text"),
            json!({"text": 7, "attachments": {"text": "x"}, "blocks": "x"}),
            json!({"text": " ", "attachments": [{"fields": {}, "actions": 1}], "blocks": [{"type": 1}]}),
        ] {
            assert_eq!(message(&body), "", "{body}");
        }
        assert_eq!(username(&json!({"username": " Ann\n Lee "})), "Ann Lee");
        for body in [json!({"username": 7}), json!({"username": "\u{200b}"}), json!({})] {
            assert_eq!(username(&body), "");
        }
        assert_eq!(username(&json!({"username": "x".repeat(1000)})).len(), USERNAME_LIMIT_BYTES);
    }

    /// Quadratic time would be noticed.
    #[test]
    fn long_texts_of_markup_are_read_in_one_go() {
        for text in ["<", ":", "&", "<a:", "<!", ":-", "<@"] {
            let long = text.repeat(100_000);
            assert_eq!(shown(&long).len(), long.len(), "{text}");
        }
    }
}
