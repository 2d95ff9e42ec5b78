//! Incoming hooks. The bodies are those that senders build, as of the versions named.

use crate::support::{Client, Response, Server, server, server_with, settings};
use serde_json::{Value, json};
use uproar_core::limits::Limits;
use uproar_http::{PublishError, Settings};
use uproar_model::Refusal;

const FORM: &[(&str, &str)] = &[("Content-Type", "application/x-www-form-urlencoded")];
const JSON: &[(&str, &str)] = &[("Content-Type", "application/json; charset=utf-8")];

/// A room with a hook, its owner, and the path of the hook.
async fn hooked(server: &Server, name: &str) -> (Client, String) {
    let mut ann = server.sign_up("ann").await;
    ann.post("/rooms", json!({"name": "lobby"})).await.expect(201);
    let path = create(&mut ann, name).await;
    (ann, path)
}

async fn create(owner: &mut Client, name: &str) -> String {
    let created = owner.post("/rooms/lobby/hooks", json!({"name": name})).await.expect(201);
    let url = created["hook"]["url"].as_str().unwrap();
    url.strip_prefix("http://localhost").unwrap().to_owned()
}

/// A post of a program, which has no token.
async fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    server.client().await.request("POST", path, headers, Some(body.as_bytes())).await
}

async fn post_form(server: &Server, path: &str, payload: &Value) -> Response {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("payload", &payload.to_string());
    post(server, path, FORM, &form.finish()).await
}

#[track_caller]
fn assert_answer(response: &Response, status: u16, word: &str) {
    assert_eq!((response.status, response.text().as_str()), (status, word));
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
}

/// The text of the newest message, and its author.
async fn newest(reader: &mut Client) -> (String, String) {
    let page = reader.get("/rooms/lobby/messages?limit=1").await.expect(200);
    let message = &page["messages"][0];
    (message["text"].as_str().unwrap().to_owned(), message["user"]["username"].as_str().unwrap().to_owned())
}

/// Posts a body to a new hook. The room must show this text of the hook's user.
async fn assert_shows(name: &str, body: Value, expected: &str) {
    let server = server().await;
    let (mut ann, path) = hooked(&server, name).await;
    assert_answer(&post(&server, &path, JSON, &body.to_string()).await, 200, "ok");
    assert_eq!(newest(&mut ann).await, (expected.to_owned(), format!("{name} [bot]")));
    assert_answer(&post_form(&server, &path, &body).await, 200, "ok");
    assert_eq!(newest(&mut ann).await.0, expected, "as a form");
}

/// `receivers/slack/v1` of grafana/alerting at 783ce041 (August 2026) with its default templates, an image and
/// mentions.
#[tokio::test]
async fn grafana_posts_alerts() {
    let view = "https://grafana.example/alerting/grafana/abc/view?orgId=1";
    let text = format!(
        "**Firing**\n\nValue: A=93.1, C=1\nLabels:\n - alertname = HighCPU\n - instance = web-1\nAnnotations:\n \
         - summary = CPU above 90 %\nSource: {view}\nSilence: https://grafana.example/alerting/silence/new?orgId=1\n"
    );
    let body = json!({
        "channel": "#ops", "username": "Grafana", "attachments": [{
            "title": "[FIRING:1] HighCPU infra (web-1)", "title_link": view, "text": text,
            "image_url": "https://grafana.example/i.png", "fallback": "[FIRING:1] HighCPU infra (web-1)",
            "footer": "Grafana v12.1.0", "footer_icon": "https://grafana.com/static/assets/img/fav32.png",
            "color": "#D63232", "ts": 1_754_000_000, "pretext": "<!here|here> <@U123>", "mrkdwn_in": ["pretext"]
        }]
    });
    let expected = format!(
        "@here @U123\n[FIRING:1] HighCPU infra (web-1) ({view})\n{}\nhttps://grafana.example/i.png",
        text.trim_end()
    );
    assert_shows("Grafana", body, &expected).await;
}

/// `notify/slack` of Alertmanager 0.34.0 with its default templates.
#[tokio::test]
async fn alertmanager_posts_alerts() {
    let title = "[FIRING:1] HighLatency (prod web-1 critical)";
    let url = "http://alertmanager.example:9093/#/alerts?receiver=slack";
    let body = json!({
        "channel": "#alerts", "username": "Alertmanager", "attachments": [{
            "title": format!("{title} "), "title_link": url, "text": "", "fallback": format!("{title} | {url}"),
            "callback_id": "", "footer": "", "color": "danger", "mrkdwn_in": ["fallback", "pretext", "text"]
        }]
    });
    assert_shows("Alertmanager", body, &format!("{title} ({url})")).await;
}

/// The notification provider `slack` of Uptime Kuma 2.5.3, as a rich message and as the test message.
#[tokio::test]
async fn uptime_kuma_posts_changes() {
    let message = "[Shop] [🔴 Down] connect ECONNREFUSED 10.0.0.5:443 <!channel>";
    let button = |text, url| {
        let text = json!({"type": "plain_text", "text": text});
        json!({"type": "button", "text": text, "value": text["text"], "url": url})
    };
    let body = json!({
        "text": message, "channel": "#ops", "username": "Uptime Kuma", "icon_emoji": ":bear:", "attachments": [{
            "color": "#e01e5a", "blocks": [
                {"type": "header", "text": {"type": "plain_text", "text": "Shop"}},
                {"type": "context", "elements": [{"type": "mrkdwn", "text": "_Web / Europe_"}]},
                {"type": "section", "fields": [
                    {"type": "mrkdwn", "text": format!("*Message*\n{message}")},
                    {"type": "mrkdwn", "text": "*Time (Europe/Brussels)*\n2026-12-01 10:00:00"}
                ]},
                {"type": "actions", "elements": [
                    button("Visit Uptime Kuma", "https://status.example/dashboard/7"),
                    button("Visit site", "https://shop.example/")
                ]}
            ]
        }]
    });
    // The text is in the attachment, too, and shown once.
    let expected = "Shop\n_Web / Europe_\n*Message*\n\
        [Shop] [🔴 Down] connect ECONNREFUSED 10.0.0.5:443 @channel\n*Time (Europe/Brussels)*\n2026-12-01 10:00:00\n\
        Visit Uptime Kuma (https://status.example/dashboard/7)\nVisit site (https://shop.example/)";
    assert_shows("Uptime Kuma", body, expected).await;
    let test = json!({"text": "My Slack Alert Testing", "channel": "", "username": "Uptime Kuma", "icon_emoji": ""});
    assert_shows("Uptime Kuma", test, "My Slack Alert Testing").await;
}

/// `app/models/integrations/chat_message` of GitLab at 0ab7ab5b (pushes) and 05f0ebba (pipelines), which sends forms.
#[tokio::test]
async fn gitlab_posts_pushes_and_pipelines() {
    let app = "https://gitlab.example/team/app";
    let push = json!({
        "text": format!("Ann Lee (ann) pushed to branch <{app}/-/commits/main|main> of <{app}|team / app> \
            (<{app}/-/compare/1...2|Compare changes>)"),
        "fallback": "Ann Lee (ann) pushed to branch main", "username": "GitLab", "channel": "general",
        "attachments": [{"text": format!("<{app}/-/commit/1a2b3c4d|1a2b3c4d>: Fix it - Ann Lee"), "color": "#334455"}]
    });
    let expected = format!(
        "Ann Lee (ann) pushed to branch main ({app}/-/commits/main) of team / app ({app}) \
         (Compare changes ({app}/-/compare/1...2))\n\n1a2b3c4d ({app}/-/commit/1a2b3c4d): Fix it - Ann Lee"
    );
    assert_shows("GitLab", push, &expected).await;
    let pipeline = json!({
        "text": "", "username": "GitLab", "attachments": [{
            "fallback": "team / app: Pipeline #7 has failed", "color": "danger", "author_name": "Ann Lee (ann)",
            "author_icon": "https://gitlab.example/a.png", "author_link": "https://gitlab.example/ann",
            "title": "Pipeline #7 has failed in 02:13", "title_link": format!("{app}/-/pipelines/7/failures"),
            "fields": [
                {"title": "Branch", "value": format!("<{app}/-/commits/main|main>"), "short": true},
                {"title": "Commit", "value": format!("<{app}/-/commit/1a2b|Fix it>"), "short": true},
                {"title": "Failed stage", "value": format!("<{app}/-/pipelines/7/failures|check>"), "short": true},
                {"title": "Failed job", "value": format!("<{app}/-/jobs/9|test>"), "short": true}
            ],
            "footer": "app", "footer_icon": null, "ts": 1_754_000_000
        }]
    });
    let expected = format!(
        "Ann Lee (ann) (https://gitlab.example/ann)\nPipeline #7 has failed in 02:13 ({app}/-/pipelines/7/failures)\n\
         Branch: main ({app}/-/commits/main)\nCommit: Fix it ({app}/-/commit/1a2b)\n\
         Failed stage: check ({app}/-/pipelines/7/failures)\nFailed job: test ({app}/-/jobs/9)"
    );
    assert_shows("GitLab", pipeline, &expected).await;
}

/// `StandardSlackService` and `ActiveNotifier` of Jenkins' slack-plugin at 81128a0 (July 2026). Its setting "Override
/// URL" is the URL of the hook up to `/hooks/`, and the secret is the token.
#[tokio::test]
async fn jenkins_posts_builds() {
    let message = "app » main - #12 Failure after 1 min 2 sec (<https://jenkins.example/job/app/12/|Open>)\n\
        Test Status:\n\tPassed: 41, Failed: 1, Skipped: 0";
    let body = json!({
        "channel": "#builds", "link_names": "1", "unfurl_links": "true", "unfurl_media": "true", "as_user": "true",
        "attachments": [{
            "fallback": message, "color": "danger", "fields": [{"short": false, "value": message}],
            "mrkdwn_in": ["pretext", "text", "fields"]
        }]
    });
    let expected = "app » main - #12 Failure after 1 min 2 sec (Open (https://jenkins.example/job/app/12/))\n\
        Test Status:\n\tPassed: 41, Failed: 1, Skipped: 0";
    assert_shows("Jenkins", body, expected).await;
}

/// slackapi/slack-github-action 4.0.0 with `webhook-type: incoming-webhook`, as its documentation shows it.
#[tokio::test]
async fn github_actions_post_results() {
    let url = "https://github.com/octo/hello/pull/7";
    let body = json!({
        "text": format!("*GitHub Action build result*: success\n{url}"), "blocks": [
            {"type": "section", "text": {"type": "mrkdwn",
                "text": format!("GitHub Action build result: success\n{url}")}}
        ]
    });
    assert_shows("GitHub", body, &format!("GitHub Action build result: success\n{url}")).await;
}

/// The webhook of a repository, in both of its content types. The bodies are like those in payload-examples of
/// octokit/webhooks 7.6.1 (issues/opened, ping).
#[tokio::test]
async fn github_itself_posts_events() {
    let server = server().await;
    let (mut ann, path) = hooked(&server, "GitHub").await;
    let repository = json!({"full_name": "octo/hello", "html_url": "https://github.com/octo/hello"});
    let event = json!({
        "action": "opened", "repository": repository, "sender": {"login": "octocat", "type": "User"},
        "issue": {
            "number": 7, "title": "It fails", "state": "open", "body": "Always.", "user": {"login": "octocat"},
            "url": "https://api.github.com/repos/octo/hello/issues/7",
            "html_url": "https://github.com/octo/hello/issues/7"
        }
    });
    let headers = [
        ("Content-Type", "application/json"),
        ("X-GitHub-Event", "issues"),
        ("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
    ];
    for _ in 0..2 {
        assert_answer(&post(&server, &path, &headers, &event.to_string()).await, 200, "ok");
    }
    let expected = "octocat opened issue #7 of octo/hello: It fails (https://github.com/octo/hello/issues/7)";
    assert_eq!(newest(&mut ann).await, (expected.to_owned(), "GitHub [bot]".to_owned()));
    let page = ann.get("/rooms/lobby/messages").await.expect(200);
    assert_eq!(page["messages"].as_array().unwrap().len(), 1, "a delivery that is repeated is shown once");

    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair(
        "payload",
        &json!({"zen": "Keep it simple.", "hook_id": 7, "hook": {"type": "Repository", "active": true},
        "repository": repository, "sender": {"login": "octocat"}})
        .to_string(),
    );
    let headers = [FORM[0], ("X-GitHub-Event", "ping")];
    assert_answer(&post(&server, &path, &headers, &form.finish()).await, 200, "ok");
    assert_eq!(newest(&mut ann).await.0, "GitHub will post events of octo/hello here");
}

#[tokio::test]
async fn another_name_in_the_body_does_not_change_the_author() {
    for (username, expected) in [
        (json!("ann"), "ann: hello"),
        (json!(" Ann \n Lee "), "Ann Lee: hello"),
        (json!("OPS"), "hello"),
        (json!(""), "hello"),
        (json!(7), "hello"),
    ] {
        assert_shows("Ops", json!({"text": "hello", "username": username}), expected).await;
    }
}

#[tokio::test]
async fn a_text_that_is_too_long_is_cut() {
    let limits = Limits { text_limit_bytes: 100, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let (mut ann, path) = hooked(&server, "Ops").await;
    let body = json!({"text": "x".repeat(1000)}).to_string();
    assert_answer(&post(&server, &path, JSON, &body).await, 200, "ok");
    let text = newest(&mut ann).await.0;
    assert!(text.starts_with("xxx") && text.ends_with("\n… (cut; 932 more characters)"), "{text}");
    assert!(text.len() <= 100);
}

#[tokio::test]
async fn a_key_makes_a_post_repeatable() {
    let server = server().await;
    let (mut ann, path) = hooked(&server, "Ops").await;
    let headers = [JSON[0], ("Idempotency-Key", "deploy-7")];
    for _ in 0..2 {
        assert_answer(&post(&server, &path, &headers, r#"{"text":"done"}"#).await, 200, "ok");
    }
    let page = ann.get("/rooms/lobby/messages").await.expect(200);
    let ids: Vec<_> = page["messages"].as_array().unwrap().iter().map(|message| &message["id"]).collect();
    assert_eq!(ids, ["deploy-7"]);
    assert_answer(&post(&server, &path, &headers, r#"{"text":"else"}"#).await, 409, "idempotency_key_reused");
    let headers = [JSON[0], ("Idempotency-Key", "~1")];
    assert_answer(&post(&server, &path, &headers, r#"{"text":"x"}"#).await, 400, "invalid_idempotency_key");
}

#[tokio::test]
async fn errors_are_in_slacks_words() {
    let limits = Limits { hook_body_limit_bytes: 1000, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let (mut ann, path) = hooked(&server, "Ops").await;
    for body in ["", "{", "[]", "nonsense", "payload=%7B", r#"{"text":"\ud800"}"#] {
        assert_answer(&post(&server, &path, JSON, body).await, 400, "invalid_payload");
    }
    for body in ["{}", r#"{"text":""}"#, r#"{"text":" \n"}"#, r#"{"text":"\u200b"}"#, r#"{"attachments":[]}"#] {
        assert_answer(&post(&server, &path, JSON, body).await, 400, "no_text");
    }
    let long = json!({"text": "x".repeat(1000)}).to_string();
    assert_answer(&post(&server, &path, JSON, &long).await, 413, "payload_too_large");
    let headers = [JSON[0], ("Content-Encoding", "gzip")];
    assert_answer(&post(&server, &path, &headers, "{}").await, 415, "unsupported_encoding");
    let unknown = path.replace(|c: char| c.is_ascii_digit(), "a");
    for wrong in [unknown.as_str(), &format!("{path}0"), "/hooks/x", "/hooks/%00", "/hooks/%ff", "/hooks/é"] {
        let wrong = wrong.replace('é', "%C3%A9");
        assert_answer(&post(&server, &wrong, JSON, r#"{"text":"x"}"#).await, 404, "no_service");
    }
    for (error, status, word) in [
        (PublishError::Refused(Refusal::NoRoom), 404, "no_service"),
        (PublishError::Refused(Refusal::NotMember), 403, "action_prohibited"),
        (PublishError::Refused(Refusal::Silenced { until: 5 }), 403, "action_prohibited"),
        (PublishError::Refused(Refusal::NobodyPosts), 403, "action_prohibited"),
        (PublishError::Refused(Refusal::SlowMode { wait_ms: 1_500 }), 429, "rate_limited"),
        (PublishError::Refused(Refusal::BadData), 400, "invalid_payload"),
        (PublishError::OutcomeUnknown, 503, "outcome_unknown"),
        (PublishError::Overloaded, 503, "service_unavailable"),
    ] {
        server.chat.publish_results.lock().unwrap().push(Err(error));
        let response = post(&server, &path, JSON, r#"{"text":"x"}"#).await;
        assert_answer(&response, status, word);
        assert_eq!(response.header("retry-after").is_some(), matches!(status, 429 | 503));
    }
    // A token is neither needed nor looked at, and U+0000, which can't be stored, is no error.
    let headers = [JSON[0], ("Authorization", "Bearer nonsense")];
    assert_answer(&post(&server, &path, &headers, r#"{"text":"a\u0000b"}"#).await, 200, "ok");
    assert_eq!(newest(&mut ann).await.0, "a\u{fffd}b");
}

#[tokio::test]
async fn each_hook_has_a_rate() {
    let limits = Limits { hook_posts_per_minute: 1, hook_posts_burst_limit: 2, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let (mut ann, path) = hooked(&server, "Ops").await;
    let other = create(&mut ann, "Other").await;
    let body = r#"{"text":"x"}"#;
    // One more is possible each minute.
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(post(&server, &path, JSON, body).await);
    }
    let refused = answers.last().unwrap();
    assert_answer(refused, 429, "rate_limited");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_answer(&post(&server, &other, JSON, body).await, 200, "ok");
}

#[tokio::test]
async fn a_hook_is_created_listed_and_deleted() {
    let server = server().await;
    let (mut ann, path) = hooked(&server, "Grafana").await;
    let listed = ann.get("/rooms/lobby/hooks").await.expect(200);
    let hook = &listed["hooks"][0];
    let creator = json!({"id": ann.user_id, "username": "ann"});
    assert_eq!((&hook["name"], &hook["created_by"]), (&json!("Grafana"), &creator));
    assert_eq!((&hook["user"]["username"], &hook["url"]), (&json!("Grafana [bot]"), &Value::Null));
    let secret = path.strip_prefix("/hooks/").unwrap();
    assert!(!listed.to_string().contains(secret));

    // The room was told of its new member.
    assert_eq!(server.chat.learned.lock().unwrap().len(), 1);
    let members = ann.get("/rooms/lobby/members").await.expect(200);
    assert_eq!(members["members"][1]["user"], hook["user"]);

    let by_id = format!("/rooms/lobby/hooks/{}", hook["id"].as_str().unwrap());
    ann.delete(&by_id).await.expect(200);
    assert_answer(&post(&server, &path, JSON, r#"{"text":"x"}"#).await, 404, "no_service");
    ann.delete(&by_id).await.assert_error(404, "no_such_hook", Some("id"));
    assert_eq!(ann.get("/rooms/lobby/hooks").await.expect(200), json!({"hooks": []}));
    assert_eq!(ann.get("/rooms/lobby/members").await.expect(200)["count"], 1);
    assert_eq!(server.chat.learned.lock().unwrap().len(), 2);
    // The same name can be used again.
    assert_ne!(create(&mut ann, "Grafana").await, path);
}

#[tokio::test]
async fn the_url_of_a_hook_is_where_users_find_the_server() {
    let body = json!({"name": "Ops"}).to_string();
    let created = async |settings: Settings, host: &str| {
        let server = server_with(settings).await;
        let mut ann = server.sign_up("ann").await;
        ann.post("/rooms", json!({"name": "lobby"})).await.expect(201);
        let request = format!(
            "POST /rooms/lobby/hooks HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            ann.token.as_deref().unwrap(),
            body.len()
        );
        let mut client = server.client().await;
        client.send(request.as_bytes()).await;
        let url = client.response().await.expect(201)["hook"]["url"].as_str().unwrap().to_owned();
        url.split_once("/hooks/").unwrap().0.to_owned()
    };
    // Some proxies put an inner name into `Host`, and anyone can send another one.
    let public = Settings { public_url: Some("https://chat.example.org:8443".into()), ..settings() };
    assert_eq!(created(public, "10.0.0.7:8080").await, "https://chat.example.org:8443");
    assert_eq!(created(settings(), "chat.example:8080").await, "http://chat.example:8080");
    assert_eq!(created(settings(), "").await, "http://localhost");
}

#[tokio::test]
async fn a_hook_whose_user_was_removed_posts_nothing() {
    let server = server().await;
    let (mut ann, path) = hooked(&server, "Ops").await;
    ann.delete("/rooms/lobby/members/Ops%20%5Bbot%5D").await.expect(200);
    assert_answer(&post(&server, &path, JSON, r#"{"text":"x"}"#).await, 403, "action_prohibited");
    let hooks = ann.get("/rooms/lobby/hooks").await.expect(200);
    let id = hooks["hooks"][0]["id"].as_str().unwrap().to_owned();
    ann.delete(&format!("/rooms/lobby/hooks/{id}")).await.expect(200);
}

#[tokio::test]
async fn hooks_are_managed_by_owners_and_moderators() {
    let server = server().await;
    let (mut ann, _) = hooked(&server, "Ops").await;
    let mut bob = server.sign_up("bob").await;
    bob.call("/rooms/lobby/join").await.expect(200);
    bob.post("/rooms/lobby/hooks", json!({"name": "Mine"})).await.assert_error(403, "not_allowed", None);
    bob.get("/rooms/lobby/hooks").await.assert_error(403, "not_allowed", None);
    bob.delete("/rooms/lobby/hooks/1").await.assert_error(403, "not_allowed", None);
    ann.get("/rooms/nowhere/hooks").await.assert_error(404, "no_such_room", None);
    ann.delete("/rooms/lobby/hooks/x").await.assert_error(422, "invalid_field", Some("id"));
    ann.post("/rooms/lobby/hooks", json!({"name": "ops"})).await.assert_error(409, "hook_name_taken", Some("name"));
    for (body, code) in [
        (json!({}), "missing_field"),
        (json!({"name": ""}), "invalid_field"),
        (json!({"name": "@x"}), "invalid_field"),
        (json!({"name": "x\u{202e}"}), "invalid_field"),
        (json!({"name": "x [bot]"}), "invalid_field"),
        (json!({"name": "x".repeat(33)}), "invalid_field"),
        (json!({"name": 7}), "invalid_field"),
    ] {
        ann.post("/rooms/lobby/hooks", body).await.assert_error(422, code, Some("name"));
    }
}

#[tokio::test]
async fn a_room_has_so_many_hooks() {
    let limits = Limits { hooks_per_room_limit: 2, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let (mut ann, _) = hooked(&server, "One").await;
    create(&mut ann, "Two").await;
    ann.post("/rooms/lobby/hooks", json!({"name": "Three"})).await.assert_error(409, "too_many_hooks", None);
}

#[tokio::test]
async fn a_full_room_gets_no_hook() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/rooms", json!({"name": "lobby", "size": 1})).await.expect(201);
    ann.post("/rooms/lobby/hooks", json!({"name": "Ops"})).await.assert_error(409, "room_full", None);
    assert_eq!(ann.get("/rooms/lobby/hooks").await.expect(200), json!({"hooks": []}));
}

#[tokio::test]
async fn nobody_signs_up_as_a_program() {
    let server = server().await;
    let mut client = server.client().await;
    for name in ["Grafana [bot]", "ann [BOT]", "ann[bot]", "ann ［bot］"] {
        let body = json!({"username": name, "email": "ann@example.org", "password": "correct horse"});
        client.post("/user/signup", body).await.assert_error(422, "invalid_field", Some("username"));
    }
}
