//! The events that GitHub itself sends to a webhook of a repository, as the text of a message.
//! <https://docs.github.com/en/webhooks/webhook-events-and-payloads>

use serde_json::Value;
use uproar_model::text;

/// How many commits of a push are listed.
const COMMITS_LIMIT: usize = 10;

/// The most of a comment that is shown, in bytes.
const COMMENT_LIMIT_BYTES: usize = 1024;

/// What a room shows for an event. `event`: the header `X-GitHub-Event`.
pub(super) fn message(event: &str, body: &Value) -> String {
    let repository = string(body, "/repository/full_name");
    let of_repository = if repository.is_empty() { String::new() } else { format!(" of {repository}") };
    let who = string(body, "/sender/login");
    let action = string(body, "/action");
    match event {
        "ping" => format!("GitHub will post events{of_repository} here"),
        "push" => push(body, who, &of_repository),
        "issues" => format!("{who} {action} issue {}", subject(&body["issue"], &of_repository)),
        "issue_comment" => comment(body, who, &subject(&body["issue"], &of_repository)),
        "pull_request" => {
            let is_merged = body.pointer("/pull_request/merged").and_then(Value::as_bool) == Some(true);
            let action = if action == "closed" && is_merged { "merged" } else { action };
            let action = action.replace('_', " ");
            format!("{who} {action} pull request {}", subject(&body["pull_request"], &of_repository))
        }
        "pull_request_review" => {
            let action = match (action, string(body, "/review/state")) {
                ("submitted", "approved") => "approved",
                ("submitted", "changes_requested") => "requested changes in",
                ("submitted", _) => "reviewed",
                (action, _) => &format!("{action} a review of"),
            };
            let subject = subject(&body["pull_request"], &of_repository);
            with_quote(format!("{who} {action} pull request {subject}"), string(body, "/review/body"))
        }
        "pull_request_review_comment" => comment(body, who, &subject(&body["pull_request"], &of_repository)),
        "release" => {
            let name = first_of([string(body, "/release/name"), string(body, "/release/tag_name")]);
            let url = string(body, "/release/html_url");
            format!("{who} {action} release {}{of_repository}", linked(name, url))
        }
        "workflow_run" => {
            let run = &body["workflow_run"];
            let state = first_of([string(run, "/conclusion"), string(run, "/status"), action]).replace('_', " ");
            let (name, url) = (string(run, "/name"), string(run, "/html_url"));
            let branch = string(run, "/head_branch");
            linked(&format!("Workflow {name}{of_repository} on {branch}: {state}"), url)
        }
        _ => {
            let what = [event, action].map(|word| word.replace('_', " "));
            let what = what.join(" ");
            let url = first_of([
                string(body, &format!("/{event}/html_url")),
                string(body, "/issue/html_url"),
                string(body, "/pull_request/html_url"),
                string(body, "/repository/html_url"),
                string(body, "/organization/url"),
            ]);
            linked(format!("{who}: {}{of_repository}", what.trim()).trim_start_matches(": "), url)
        }
    }
}

fn string<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn first_of<const N: usize>(texts: [&str; N]) -> &str {
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

fn linked(label: &str, url: &str) -> String {
    if url.is_empty() { label.to_owned() } else { format!("{label} ({url})") }
}

/// An issue or a pull request.
fn subject(item: &Value, of_repository: &str) -> String {
    let number = item["number"].as_u64().unwrap_or_default();
    linked(&format!("#{number}{of_repository}: {}", string(item, "/title")), string(item, "/html_url"))
}

fn comment(body: &Value, who: &str, subject: &str) -> String {
    match string(body, "/action") {
        "created" => with_quote(format!("{who} commented on {subject}"), string(body, "/comment/body")),
        action => format!("{who} {action} a comment on {subject}"),
    }
}

fn with_quote(line: String, quoted: &str) -> String {
    let shown = text::cut(quoted.trim(), COMMENT_LIMIT_BYTES);
    let more = if shown.len() < quoted.trim().len() { " …" } else { "" };
    let quoted = format!("{shown}{more}");
    let quoted = quoted.lines().map(|line| format!("\n> {line}"));
    quoted.fold(line, |lines, line| lines + &line)
}

fn push(body: &Value, who: &str, of_repository: &str) -> String {
    let name = string(body, "/ref");
    let (kind, name) = match name.strip_prefix("refs/tags/") {
        Some(tag) => ("tag", tag),
        None => ("branch", name.strip_prefix("refs/heads/").unwrap_or(name)),
    };
    let is = |field: &str| body[field].as_bool() == Some(true);
    if is("deleted") {
        return format!("{who} deleted the {kind} {name}{of_repository}");
    }
    let commits = body["commits"].as_array().map_or(&[][..], Vec::as_slice);
    let url = string(body, "/compare");
    if is("created") && (commits.is_empty() || kind == "tag") {
        return linked(&format!("{who} created the {kind} {name}{of_repository}"), url);
    }
    let verb = if is("forced") { "force-pushed" } else { "pushed" };
    let count = match commits.len() {
        1 => "1 commit".to_owned(),
        count => format!("{count} commits"),
    };
    let mut lines = vec![linked(&format!("{who} {verb} {count} to {name}{of_repository}"), url)];
    lines.extend(commits.iter().take(COMMITS_LIMIT).map(|commit| {
        let (id, message) = (string(commit, "/id"), string(commit, "/message"));
        let (id, title) = (text::cut(id, 7), message.lines().next().unwrap_or_default());
        format!("- {id} {title} ({})", string(commit, "/author/name"))
    }));
    if let Some(left_out) = commits.len().checked_sub(COMMITS_LIMIT).filter(|count| *count > 0) {
        lines.push(format!("- and {left_out} more"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// An event of the repository octo/hello that Ann has caused.
    fn shown(event: &str, mut body: Value) -> String {
        body["repository"] = json!({"full_name": "octo/hello", "html_url": "https://github.example/octo/hello"});
        body["sender"] = json!({"login": "ann"});
        message(event, &body)
    }

    #[test]
    fn a_push_lists_its_commits() {
        let commit = |n: usize| {
            let (id, message) = (format!("{n:040}"), format!("Fix {n}\n\nbecause"));
            json!({"id": id, "message": message, "author": {"name": "Ann Lee"}})
        };
        let body = json!({
            "ref": "refs/heads/main", "compare": "https://github.example/c", "created": false, "deleted": false,
            "forced": false, "commits": [commit(1), commit(2)]
        });
        let expected = "ann pushed 2 commits to main of octo/hello (https://github.example/c)\n\
            - 0000000 Fix 1 (Ann Lee)\n- 0000000 Fix 2 (Ann Lee)";
        assert_eq!(shown("push", body.clone()), expected);
        let many =
            json!({"ref": "refs/heads/main", "forced": true, "commits": (0..12).map(commit).collect::<Vec<_>>()});
        let text = shown("push", many);
        assert!(text.starts_with("ann force-pushed 12 commits to main of octo/hello\n- "), "{text}");
        assert!(text.ends_with("Fix 9 (Ann Lee)\n- and 2 more"), "{text}");
        for (body, expected) in [
            (json!({"ref": "refs/tags/v1", "created": true, "commits": []}), "ann created the tag v1 of octo/hello"),
            (json!({"ref": "refs/heads/x", "deleted": true, "commits": []}), "ann deleted the branch x of octo/hello"),
        ] {
            assert_eq!(shown("push", body), expected);
        }
    }

    #[test]
    fn other_events_are_one_line_and_perhaps_a_quote() {
        let issue = json!({"number": 7, "title": "It fails", "html_url": "https://github.example/7"});
        let subject = "#7 of octo/hello: It fails (https://github.example/7)";
        for (event, body, expected) in [
            ("ping", json!({"zen": "x"}), "GitHub will post events of octo/hello here".to_owned()),
            ("issues", json!({"action": "opened", "issue": issue}), format!("ann opened issue {subject}")),
            (
                "issue_comment",
                json!({"action": "created", "issue": issue, "comment": {"body": "a\nb"}}),
                format!("ann commented on {subject}\n> a\n> b"),
            ),
            (
                "pull_request",
                json!({"action": "closed", "pull_request": {"number": 7, "title": "It fails", "merged": true,
                    "html_url": "https://github.example/7"}}),
                format!("ann merged pull request {subject}"),
            ),
            (
                "pull_request_review",
                json!({"action": "submitted", "review": {"state": "changes_requested", "body": null},
                    "pull_request": issue}),
                format!("ann requested changes in pull request {subject}"),
            ),
            (
                "release",
                json!({"action": "published", "release": {"tag_name": "v1", "html_url": "https://x.example"}}),
                "ann published release v1 (https://x.example) of octo/hello".to_owned(),
            ),
            (
                "workflow_run",
                json!({"action": "completed", "workflow_run": {"name": "CI", "conclusion": "failure",
                    "head_branch": "main", "html_url": "https://x.example"}}),
                "Workflow CI of octo/hello on main: failure (https://x.example)".to_owned(),
            ),
            (
                "deployment_status",
                json!({"action": "created"}),
                "ann: deployment status created of octo/hello (https://github.example/octo/hello)".to_owned(),
            ),
        ] {
            assert_eq!(shown(event, body), expected, "{event}");
        }
    }

    #[test]
    fn a_body_without_the_expected_fields_makes_some_text() {
        for event in ["push", "issues", "pull_request", "pull_request_review", "release", "workflow_run", "x"] {
            for body in [json!({}), json!({"action": 7, "commits": {}, "issue": []})] {
                message(event, &body);
            }
        }
    }
}
