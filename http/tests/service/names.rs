//! What people type: names, addresses and passwords in other cases, forms and scripts.

use crate::support::{server, server_with, settings};
use serde_json::json;
use uproar_core::limits::Limits;
use uproar_http::Settings;
use uproar_http::passwords::hash_new;
use uproar_store::{Login, NewUser};

const PASSWORD: &str = "correct horse";

#[tokio::test]
async fn names_that_fold_to_one_belong_to_one_user() {
    let server = server().await;
    for (name, same) in [
        ("ζευς", "ΖΕΥΣ"),
        ("Weiß", "WEISS"),
        ("Jürgen", "JU\u{308}RGEN"),
        ("日本", "日本"),
        ("ann lee", "ann  lee"),
        ("x ❤", "x ❤\u{fe0f}"),
        ("ni", "ni\u{307}"),
        ("a-b-c", "a‐b–c"),
        ("o’neill", "o'neill"),
    ] {
        let mut client = server.client().await;
        let email = |n: u32| format!("{name}{n}@example.org").replace([' ', '❤'], "");
        let body = |name: &str, n| json!({"username": name, "email": email(n), "password": PASSWORD});
        client.post("/user/signup", body(name, 1)).await.expect(201);
        client.post("/user/signup", body(same, 2)).await.assert_error(409, "username_taken", Some("username"));
        let signed_in = client.post("/user/signin", json!({"username": same, "password": PASSWORD})).await;
        assert_eq!(signed_in.expect(200)["user"]["username"], name);
    }
}

#[tokio::test]
async fn a_new_name_can_be_seen_and_told_from_others() {
    let server = server().await;
    server.sign_up("coco").await;
    let mut client = server.client().await;
    let mut number = 0;
    let mut body = |name: &str| {
        number += 1;
        json!({"username": name, "email": format!("e{number}@example.org"), "password": PASSWORD})
    };
    for name in
        ["\u{3164}", "coco\u{3164}", "coco\u{34f}", "\u{2800}", "\u{301}\u{301}", "c\u{43e}co", "Admin", "systern"]
            .into_iter()
            .chain(["\u{13441}", "coco\u{13442}", "\u{fffc}", "coco\u{16fe4}"])
    {
        let response = client.post("/user/signup", body(name)).await;
        response.assert_error(422, "invalid_field", Some("username"));
    }
    // Cyrillic throughout.
    let lookalike = body("\u{441}\u{43e}\u{441}\u{43e}");
    client.post("/user/signup", lookalike).await.assert_error(409, "username_taken", Some("username"));
    for name in ["👍\u{fe0f} Ann", "O'Neil", "नमस्ते", &"日".repeat(32)] {
        client.post("/user/signup", body(name)).await.expect(201);
    }
}

#[tokio::test]
async fn room_names_follow_the_same_rules_and_searches_ignore_forms() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    for name in ["caf\u{e9}", "coco", &"日".repeat(64)] {
        ann.post("/user/createroom", json!({"name": name, "title": "Ein Ru\u{308}ckblick: ΖΕΥΣ"})).await.expect(201);
    }
    for name in ["cafe\u{301}", "\u{441}\u{43e}\u{441}\u{43e}"] {
        let response = ann.post("/user/createroom", json!({"name": name})).await;
        response.assert_error(409, "room_name_taken", Some("name"));
    }
    for name in ["\u{2800}", "c\u{43e}co", &"日".repeat(65)] {
        let response = ann.post("/user/createroom", json!({"name": name})).await;
        response.assert_error(422, "invalid_field", Some("name"));
    }
    for query in ["CAFE%CC%81", "caf%C3%A9"] {
        let found = ann.get(&format!("/rooms?query={query}")).await.expect(200);
        assert_eq!(found["rooms"][0]["name"], "caf\u{e9}");
    }
    for query in ["r%C3%BCckblick", "RU%CC%88CK", "%CE%B6%CE%B5%CF%85%CF%82"] {
        let found = ann.get(&format!("/rooms?query={query}")).await.expect(200);
        assert_eq!(found["rooms"].as_array().unwrap().len(), 3, "{query}");
    }
}

#[tokio::test]
async fn an_address_at_an_internationalised_domain_is_one() {
    let server = server().await;
    let mut client = server.client().await;
    let body = |name: &str, email: &str| json!({"username": name, "email": email, "password": PASSWORD});
    client.post("/user/signup", body("ann", "Ann@B\u{fc}cher.example ")).await.expect(201);
    let same = body("bob", "ann@xn--bcher-kva.example");
    client.post("/user/signup", same).await.assert_error(409, "email_taken", Some("email"));
    for email in ["ann@bu\u{308}cher.example", " ann@xn--bcher-kva.example "] {
        client.post("/user/signin", json!({"email": email, "password": PASSWORD})).await.expect(200);
    }
    client.post("/user/signin", json!({"username": "ann ", "password": PASSWORD})).await.expect(200);
}

#[tokio::test]
async fn a_password_is_the_same_in_every_form() {
    let server = server().await;
    let mut client = server.client().await;
    let forms = ["pa\u{308}sswo\u{308}rter", "p\u{e4}ssw\u{f6}rter"];
    for (n, form) in forms.into_iter().enumerate() {
        let body = json!({"username": format!("u{n}"), "email": format!("u{n}@example.org"), "password": form});
        client.post("/user/signup", body).await.expect(201);
        for typed in forms {
            let body = json!({"username": format!("u{n}"), "password": typed});
            client.post("/user/signin", body).await.expect(200);
        }
    }
}

/// Earlier versions hashed a password as it was typed.
#[tokio::test]
async fn a_password_that_was_hashed_in_another_form_still_works() {
    let server = server().await;
    let (decomposed, composed) = ("pa\u{308}sswo\u{308}rter", "p\u{e4}ssw\u{f6}rter");
    let old_hash = hash_new(decomposed).unwrap();
    let user = NewUser {
        username: "ann".into(),
        username_key: "ann".into(),
        email_key: "ann@example.org".into(),
        password_hash: old_hash.clone(),
        address: [127, 0, 0, 1].into(),
    };
    server.store.create_user(user).await.unwrap();
    let mut client = server.client().await;
    let wrong = json!({"username": "ann", "password": "pa\u{300}sswo\u{308}rter"});
    client.post("/user/signin", wrong).await.assert_error(401, "wrong_credentials", None);
    let hash = async || {
        server.store.login(Login::UsernameKey("ann"), [127, 0, 0, 1].into()).await.unwrap().unwrap().1.unwrap()
    };
    assert_eq!(hash().await, old_hash);
    client.post("/user/signin", json!({"username": "ann", "password": composed})).await.expect(200);
    assert_ne!(hash().await, old_hash, "it is hashed anew");
    for form in [composed, decomposed] {
        client.post("/user/signin", json!({"username": "ann", "password": form})).await.expect(200);
    }
    assert_eq!(server.store.account(uproar_model::UserId(1)).await.unwrap().unwrap().token_generation, 0);
}

#[tokio::test]
async fn a_list_is_cut_at_a_number_of_bytes() {
    let limits = Limits { response_limit_bytes: 4096, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    for n in 1..=4 {
        let text = format!("{n}{}", "x".repeat(1500));
        ann.post("/rooms/lobby/messages", json!({"text": text})).await.expect(201);
    }
    let offsets = |page: &serde_json::Value| {
        let messages = page["messages"].as_array().unwrap();
        messages.iter().map(|message| message["offset"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let newest = ann.get("/user/getchats?room=lobby").await.expect(200);
    assert_eq!((offsets(&newest), &newest["more"]), (vec![3, 4], &json!(true)), "the ones next to the cursor");
    let before = ann.get("/user/getchats?room=lobby&before=3").await.expect(200);
    assert_eq!((offsets(&before), &before["more"]), (vec![1, 2], &json!(false)));
    let after = ann.get("/user/getchats?room=lobby&after=0").await.expect(200);
    assert_eq!((offsets(&after), &after["more"]), (vec![1, 2], &json!(true)));
}

/// Phones put a space behind a word.
#[tokio::test]
async fn spaces_around_a_name_do_not_count() {
    let server = server().await;
    let mut client = server.client().await;
    let body = json!({"username": " bob ", "email": "bob@example.org", "password": PASSWORD});
    assert_eq!(client.post("/user/signup", body).await.expect(201)["user"]["username"], "bob");
    client.post("/user/signin", json!({"username": "bob ", "password": PASSWORD})).await.expect(200);
    let mut ann = server.sign_up("ann").await;
    let created = ann.post("/user/createroom", json!({"name": "Lobby "})).await.expect(201);
    assert_eq!((&created["room"]["name"], &created["room"]["title"]), (&json!("lobby"), &json!("Lobby")));
    ann.get("/rooms/lobby%20").await.expect(200);
    for query in ["query=lobby%20", "query=%20lobby", "query=lobby&after=%20k%20"] {
        let found = ann.get(&format!("/rooms?{query}")).await.expect(200);
        assert_eq!(found["rooms"].as_array().unwrap().len(), 1, "{query}");
    }
    ann.post("/rooms/lobby%20/members", json!({"username": "bob "})).await.expect(200);
    ann.delete("/rooms/lobby/members/bob%20").await.expect(200);
    let mut cat = server.client().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    cat.token = Some(server.tokens.mint("cat ", now, 60));
    assert_eq!(cat.get("/me").await.expect(200)["user"]["username"], "cat");
    cat.call("/rooms/%20lobby/join").await.expect(200);
}

#[tokio::test]
async fn an_address_is_of_one_person_and_can_be_seen() {
    let server = server().await;
    let mut client = server.client().await;
    let body = |name: &str, email: &str| json!({"username": name, "email": email, "password": PASSWORD});
    client.post("/user/signup", body("ann", "Stra\u{df}e@example.org")).await.expect(201);
    client.post("/user/signup", body("bob", "strasse@example.org")).await.expect(201);
    for (email, name) in [("STRA\u{df}E@example.org", "ann"), ("Strasse@example.org", "bob")] {
        let signed_in = client.post("/user/signin", json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(signed_in.expect(200)["user"]["username"], name);
    }
    for email in ["ann\u{200b}@example.org", "x\u{ff20}y@example.org"] {
        client.post("/user/signup", body("cat", email)).await.assert_error(422, "invalid_field", Some("email"));
    }
}

/// Earlier versions folded the part before the `@`.
#[tokio::test]
async fn an_address_that_was_stored_in_another_form_still_works() {
    let server = server().await;
    let user = NewUser {
        username: "ann".into(),
        username_key: "ann".into(),
        email_key: "strasse@example.org".into(),
        password_hash: hash_new(PASSWORD).unwrap(),
        address: [127, 0, 0, 1].into(),
    };
    server.store.create_user(user).await.unwrap();
    let mut client = server.client().await;
    client.post("/user/signin", json!({"email": "stra\u{df}e@example.org", "password": PASSWORD})).await.expect(200);
}

#[tokio::test]
async fn the_limit_of_a_password_is_that_of_its_composed_form() {
    let server = server().await;
    let mut client = server.client().await;
    let password = "\u{ac01}".repeat(60);
    let body = json!({"username": "ann", "email": "ann@example.org", "password": password});
    client.post("/user/signup", body).await.expect(201);
    // 540 bytes.
    let decomposed = uproar_model::text::decompose(&password);
    client.post("/user/signin", json!({"username": "ann", "password": decomposed})).await.expect(200);
}
