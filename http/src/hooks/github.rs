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
        "create" | "delete" => {
            let verb = if event == "create" { "created" } else { "deleted" };
            format!("{who} {verb} the {} {}{of_repository}", string(body, "/ref_type"), string(body, "/ref"))
        }
        "fork" => linked(&format!("{who} forked {repository}"), string(body, "/forkee/html_url")),
        "star" => {
            let verb = if action == "deleted" { "took back the star of" } else { "starred" };
            format!("{who} {verb} {repository}")
        }
        "issues" => item(body, who, "issue", &body["issue"], &of_repository),
        "pull_request" => item(body, who, "pull request", &body["pull_request"], &of_repository),
        "discussion" => item(body, who, "discussion", &body["discussion"], &of_repository),
        "issue_comment" => comment(body, who, &body["issue"], &of_repository),
        "pull_request_review_comment" => comment(body, who, &body["pull_request"], &of_repository),
        "discussion_comment" => comment(body, who, &body["discussion"], &of_repository),
        "commit_comment" => {
            let commit = text::cut(string(body, "/comment/commit_id"), 7);
            let line = format!("{who} commented on {commit}{of_repository}");
            with_quote(linked(&line, string(body, "/comment/html_url")), string(body, "/comment/body"))
        }
        "pull_request_review" => {
            let action = match (action, string(body, "/review/state")) {
                ("submitted", "approved") => "approved",
                ("submitted", "changes_requested") => "requested changes in",
                ("submitted", _) => "reviewed",
                (action, _) => &format!("{action} a review of"),
            };
            let subject = subject(&body["pull_request"], &of_repository, string(body, "/review/html_url"));
            with_quote(format!("{who} {action} pull request {subject}"), string(body, "/review/body"))
        }
        "release" => {
            let name = first_of([string(body, "/release/name"), string(body, "/release/tag_name")]);
            linked(&format!("{who} {action} release {name}{of_repository}"), string(body, "/release/html_url"))
        }
        "workflow_run" => {
            let run = &body["workflow_run"];
            let name = first_of([string(run, "/name"), string(body, "/workflow/name")]);
            let what = format!("Workflow {name}{of_repository}{}", on_branch(run));
            outcome(&what, run, action, string(run, "/html_url"))
        }
        "check_run" => {
            let (run, name) = (&body["check_run"], string(body, "/check_run/name"));
            let what = format!("Check {name}{of_repository}{}", on_branch(&run["check_suite"]));
            outcome(&what, run, action, string(run, "/html_url"))
        }
        "check_suite" => {
            let suite = &body["check_suite"];
            let name = string(suite, "/app/name");
            let what = format!("Checks by {name}{of_repository}{}", on_branch(suite));
            outcome(&what, suite, action, string(body, "/repository/html_url"))
        }
        "status" => {
            let (context, state) = (string(body, "/context"), string(body, "/state"));
            let commit = text::cut(string(body, "/sha"), 7);
            let url = first_of([string(body, "/target_url"), string(body, "/commit/html_url")]);
            linked(&format!("Status {context}{of_repository} at {commit}: {state}"), url)
        }
        "deployment_status" => {
            let status = &body["deployment_status"];
            let environment = first_of([string(status, "/environment"), string(body, "/deployment/environment")]);
            let state = string(status, "/state").replace('_', " ");
            let url = first_of([
                string(status, "/environment_url"),
                string(status, "/log_url"),
                string(status, "/target_url"),
            ]);
            linked(&format!("Deployment{of_repository} to {environment}: {state}"), url)
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

/// A change of an issue, a pull request or a discussion (`kind`).
fn item(body: &Value, who: &str, kind: &str, item: &Value, of_repository: &str) -> String {
    let url = first_of([string(item, "/html_url"), string(item, "/url")]);
    let it = format!("{kind} {}", subject(item, of_repository, url));
    let label = string(body, "/label/name");
    let assignee = string(body, "/assignee/login");
    let reviewer = first_of([string(body, "/requested_reviewer/login"), string(body, "/requested_team/name")]);
    match string(body, "/action") {
        "closed" if item["merged"].as_bool() == Some(true) => format!("{who} merged {it}"),
        "closed" if string(item, "/state_reason") == "not_planned" => format!("{who} closed {it} as not planned"),
        "opened" if item["draft"].as_bool() == Some(true) => format!("{who} opened the draft of {it}"),
        "labeled" => format!("{who} added the label {label} to {it}"),
        "unlabeled" => format!("{who} removed the label {label} from {it}"),
        "assigned" => format!("{who} assigned {assignee} to {it}"),
        "unassigned" => format!("{who} unassigned {assignee} from {it}"),
        "milestoned" => format!("{who} added {it} to the milestone {}", string(body, "/milestone/title")),
        "demilestoned" => format!("{who} removed {it} from the milestone {}", string(body, "/milestone/title")),
        "review_requested" => format!("{who} asked {reviewer} for a review of {it}"),
        "review_request_removed" => format!("{who} no longer asks {reviewer} for a review of {it}"),
        "synchronize" => format!("{who} pushed to {it}"),
        "ready_for_review" => format!("{who} marked {it} as ready for review"),
        "converted_to_draft" => format!("{who} converted {it} to a draft"),
        "enqueued" => format!("{who} added {it} to the merge queue"),
        "dequeued" => format!("{who} removed {it} from the merge queue"),
        "auto_merge_enabled" => format!("{who} enabled auto-merge of {it}"),
        "auto_merge_disabled" => format!("{who} disabled auto-merge of {it}"),
        "typed" | "untyped" => format!("{who} changed the type of {it}"),
        action => format!("{who} {} {it}", action.replace('_', " ")),
    }
}

/// How a run went, or how far it is.
fn outcome(what: &str, run: &Value, action: &str, url: &str) -> String {
    let state = first_of([string(run, "/conclusion"), string(run, "/status"), action]).replace('_', " ");
    linked(&format!("{what}: {state}"), url)
}

fn on_branch(run: &Value) -> String {
    let branch = string(run, "/head_branch");
    if branch.is_empty() { String::new() } else { format!(" on {branch}") }
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

/// The number and title of an issue or the like, with an address.
fn subject(item: &Value, of_repository: &str, url: &str) -> String {
    let number = item["number"].as_u64().unwrap_or_default();
    linked(&format!("#{number}{of_repository}: {}", string(item, "/title")), url)
}

fn comment(body: &Value, who: &str, item: &Value, of_repository: &str) -> String {
    let url = first_of([string(body, "/comment/html_url"), string(item, "/html_url")]);
    let subject = subject(item, of_repository, url);
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

    /// What the fields hold, and where they are, is as in payload-examples/api.github.com of octokit/webhooks 7.6.1.
    #[test]
    fn other_events_are_one_line_and_perhaps_a_quote() {
        let url = |path: &str| format!("https://github.example/octo/hello/{path}");
        let issue = json!({"number": 1, "title": "It fails", "html_url": url("issues/1"), "state": "open"});
        let pull = json!({"number": 2, "title": "Fix it", "html_url": url("pull/2"), "merged": false, "draft": false});
        let merged = json!({"number": 2, "title": "Fix it", "html_url": url("pull/2"), "merged": true});
        let discussion = json!({"number": 4, "title": "How?", "html_url": url("discussions/4")});
        let of_issue = "#1 of octo/hello: It fails (https://github.example/octo/hello/issues/1";
        let of_pull = "#2 of octo/hello: Fix it (https://github.example/octo/hello/pull/2";
        let comment = |path: &str| json!({"html_url": url(path), "body": "a\nb", "commit_id": "6113728f27ae82c7"});
        let run = json!({"name": "", "status": "completed", "conclusion": "timed_out", "head_branch": "main",
            "html_url": url("actions/runs/9")});
        let check = json!({"name": "linter", "status": "completed", "conclusion": "success", "html_url": url("runs/8"),
            "check_suite": {"head_branch": "changes"}});
        for (event, body, expected) in [
            ("ping", json!({"zen": "x", "hook_id": 1}), "GitHub will post events of octo/hello here".to_owned()),
            ("create", json!({"ref": "v1", "ref_type": "tag"}), "ann created the tag v1 of octo/hello".to_owned()),
            ("delete", json!({"ref": "x", "ref_type": "branch"}), "ann deleted the branch x of octo/hello".to_owned()),
            (
                "fork",
                json!({"forkee": {"full_name": "ann/hello", "html_url": "https://github.example/ann/hello"}}),
                "ann forked octo/hello (https://github.example/ann/hello)".to_owned(),
            ),
            ("star", json!({"action": "created"}), "ann starred octo/hello".to_owned()),
            ("issues", json!({"action": "opened", "issue": issue}), format!("ann opened issue {of_issue})")),
            (
                "issues",
                json!({"action": "labeled", "issue": issue, "label": {"name": "bug"}}),
                format!("ann added the label bug to issue {of_issue})"),
            ),
            (
                "issues",
                json!({"action": "assigned", "issue": issue, "assignee": {"login": "ben"}}),
                format!("ann assigned ben to issue {of_issue})"),
            ),
            (
                "issue_comment",
                json!({"action": "created", "issue": issue, "comment": comment("issues/1#issuecomment-7")}),
                format!("ann commented on {of_issue}#issuecomment-7)\n> a\n> b"),
            ),
            (
                "issue_comment",
                json!({"action": "deleted", "issue": issue, "comment": comment("issues/1#issuecomment-7")}),
                format!("ann deleted a comment on {of_issue}#issuecomment-7)"),
            ),
            (
                "pull_request",
                json!({"action": "opened", "number": 2, "pull_request": pull}),
                format!("ann opened pull request {of_pull})"),
            ),
            (
                "pull_request",
                json!({"action": "closed", "number": 2, "pull_request": merged}),
                format!("ann merged pull request {of_pull})"),
            ),
            (
                "pull_request",
                json!({"action": "closed", "number": 2, "pull_request": pull}),
                format!("ann closed pull request {of_pull})"),
            ),
            (
                "pull_request",
                json!({"action": "synchronize", "number": 2, "pull_request": pull}),
                format!("ann pushed to pull request {of_pull})"),
            ),
            (
                "pull_request",
                json!({"action": "review_requested", "pull_request": pull, "requested_reviewer": {"login": "ben"}}),
                format!("ann asked ben for a review of pull request {of_pull})"),
            ),
            (
                "pull_request_review",
                json!({"action": "submitted", "pull_request": pull,
                    "review": {"state": "changes_requested", "body": null, "html_url": url("pull/2#review-5")}}),
                format!("ann requested changes in pull request {of_pull}#review-5)"),
            ),
            (
                "pull_request_review_comment",
                json!({"action": "created", "pull_request": pull, "comment": comment("pull/2#discussion_r3")}),
                format!("ann commented on {of_pull}#discussion_r3)\n> a\n> b"),
            ),
            (
                "discussion",
                json!({"action": "created", "discussion": discussion}),
                format!("ann created discussion #4 of octo/hello: How? ({})", url("discussions/4")),
            ),
            (
                "commit_comment",
                json!({"action": "created", "comment": comment("commit/6113728#c1")}),
                format!("ann commented on 6113728 of octo/hello ({})\n> a\n> b", url("commit/6113728#c1")),
            ),
            (
                "release",
                json!({"action": "published", "release": {"name": "", "tag_name": "0.0.1",
                    "html_url": url("releases/tag/0.0.1"), "body": ""}}),
                format!("ann published release 0.0.1 of octo/hello ({})", url("releases/tag/0.0.1")),
            ),
            (
                "workflow_run",
                json!({"action": "completed", "workflow_run": run, "workflow": {"name": "test"}}),
                format!("Workflow test of octo/hello on main: timed out ({})", url("actions/runs/9")),
            ),
            (
                "check_run",
                json!({"action": "completed", "check_run": check}),
                format!("Check linter of octo/hello on changes: success ({})", url("runs/8")),
            ),
            (
                "status",
                json!({"sha": "6113728f27ae82c7", "context": "ci", "state": "success", "target_url": null,
                    "commit": {"html_url": url("commit/6113728f27ae82c7")}}),
                format!("Status ci of octo/hello at 6113728: success ({})", url("commit/6113728f27ae82c7")),
            ),
            (
                "deployment_status",
                json!({"action": "created", "deployment_status": {"state": "in_progress", "environment": "production",
                    "target_url": ""}, "deployment": {"environment": "production"}}),
                "Deployment of octo/hello to production: in progress".to_owned(),
            ),
            (
                "gollum",
                json!({"pages": []}),
                "ann: gollum of octo/hello (https://github.example/octo/hello)".to_owned(),
            ),
        ] {
            assert_eq!(shown(event, body), expected, "{event}");
        }
    }

    #[test]
    fn a_body_without_the_expected_fields_makes_some_text() {
        let events = [
            "push",
            "create",
            "fork",
            "star",
            "issues",
            "issue_comment",
            "pull_request",
            "pull_request_review",
            "discussion",
            "commit_comment",
            "release",
            "workflow_run",
            "check_run",
            "check_suite",
            "status",
            "deployment_status",
            "x",
        ];
        for event in events {
            for body in [json!({}), json!({"action": 7, "commits": {}, "issue": []})] {
                assert!(!message(event, &body).trim().is_empty(), "{event}");
            }
        }
    }
}
