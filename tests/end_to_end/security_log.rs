//! Proves that the log tells what matters to security, and holds no secret.

use crate::databases::Kind;
use crate::server::{Server, until};
use serde_json::{Value, json};

#[tokio::test]
async fn what_matters_to_security_is_logged_without_secrets() {
    let server = Server::start(Kind::any(), &[]).await;
    let ann = server.sign_up("ann").await;
    let ben = server.sign_up("ben").await;
    let (ann_id, ben_id) = (server.user_id(&ann).await, server.user_id(&ben).await);
    server.create_room(&ann, "r").await;
    server.post("/rooms/r/join", &ben.token, json!({})).await.expect(200);
    server.call("DELETE", "/rooms/r/members/ben", &ann.token, Value::Null).await.expect(200);
    server.call("DELETE", "/rooms/r", &ann.token, Value::Null).await.expect(200);
    let body = json!({"current_password": "correct horse", "new_password": "battery staple"});
    server.post("/me/password", &ann.token, body).await.expect(200);
    until("the old token is invalid", async || server.get("/me", &ann.token).await.status == 401).await;
    server.post("/user/signout", &ben.token, json!({})).await.expect(200);
    until("the token is invalid", async || server.get("/me", &ben.token).await.status == 401).await;

    let lines = [
        (&ann_id, "a user signed up"),
        (&ben_id, "a user signed up"),
        (&ann_id, "a user removed a member from a room"),
        (&ann_id, "a user deleted a room"),
        (&ann_id, "a user changed the password"),
        (&ann_id, "a revoked token was refused"),
        (&ben_id, "a user signed out"),
        (&ben_id, "a revoked token was refused"),
    ];
    for (user, text) in lines {
        let user = format!("user={user} ");
        until(text, async || {
            let log = server.setup.log();
            log.lines().any(|line| [text, &user, "address=127.0.0.1"].iter().all(|word| line.contains(word)))
        })
        .await;
    }
    let log = server.setup.log();
    assert!(log.lines().any(|line| line.contains("removed a member") && line.contains(&format!("member={ben_id}"))));
    for user in [&ann, &ben] {
        let secret = user.token.rsplit('.').next().unwrap();
        assert!(!log.contains(secret), "a token was logged");
    }
    assert!(!log.contains("correct horse") && !log.contains("battery staple"), "a password was logged");
}
