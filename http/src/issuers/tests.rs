//! Tokens of other systems, made here with real keys.

use super::*;
use crate::tokens::{Term, Tokens};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::{self, PublicKeyComponents};
use ring::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::Duration;
use uproar_model::Clock;
use uproar_model::TokenError::{Expired, Invalid, KeyMissing};

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://id.example/tenant";
const AUDIENCE: &str = "chat";
const SECRET: &[u8] = b"a secret of more than 32 bytes, as it must be";

/// An RSA key of 2048 bits for these tests, in PKCS #1. Ring makes none.
const RSA_KEY: &str = "\
    MIIEowIBAAKCAQEAxewflsFw16SsY9M8K0rUqrpVegIHpyuBuwwMuGaWk55L+qGrtSUVhD+YbP/2e1xsGJPaLz4amCpXCrvJwsgAB9bJ7AoVJaYD\
    JA1sHLrXBLi1s6opljsMn6Lar1tZ+uMCQMnLpVh45LLZkecDgRTrXMQQwBwRHtb7T4gXUE7Kao61u+zXoMzwJ7evr4MuwG9ajZrYt5UD/BQDo64M\
    ZJfQ/+VPNdXSdtNc8CZQtWIYLjhEmxdafTuT8cJq3V4PbH3gQoW5tOuZAXk7Bh4aaqdBZzThcv8q9HqJ2Y2HTt1uL0/RiL66N11BBLqmmfpNLo6C\
    lnieKPNd0VwZSR5yZgPV5QIDAQABAoIBABndyx8TtuCn59PABowN4o9RfNxOKZviZrkAUSVEWwd916YwvNUWvKIlAZG1PgxPPt1TbV9hOW6LkgaY\
    Fj07kC12F7uecbcS5DQxAOEcVf+K+Ew7v+WfX/349aWXRcIxKtk2xkOctWgGK8MSsvWKu1vLT/kbce1a4Us6mPlo4rFcLFfMUfX8qNrWl50yOzY7\
    F1yEU0vPvcxCKijhdEwD4njq5/k2cbbL2aki5iVZi92BLyysAlMhEj5kRLI40S572tqHwxZ2jUAUyQi78RXU/WuxuIJ563qom/cWC7ZmEReKeaF3\
    FsttG9sl+i/gGRxUAnazk7oOmIlwBjrdXlwZv0ECgYEA706rJE7Ge74PmTnIjK9cmqlgok8c4t7N7PQTWPsIk65r2Vcuel79lFZRSMMSPIT0OrKH\
    OBcO06TQEBuJtLfB9XdKKNKTZjY0J1vwqV3pFijvvzbbkSTPfaVveO+tDESDDh25zPEJ+jScxuQ/A/NZ0yImrOMfzWQYDI4FtsobBFECgYEA07pw\
    uSO9BaD/cKQ9tuK0yl1JnGpZ5K26lXG3LgiBFmDyGJUVjB9woBJbrETvQAb3cUyRAFJJZ1Y6FfAVHKWy4W1VKZSsbzX5CRkvsE1FaNL+cKDK69bm\
    D1nd8zghbFw2REWL9T1ciKaiuIearW/G8FoqeeB2gG9mq9Vw3nm+N1UCgYACrTGS1WK47ZZFE3VfxXJWtIBFMHdVPkK1XMF+pEgjRrckFiqJ6dgS\
    OajtFGl2zdHhei+y++cJjPVayMQQhmGf+jaVIE3Pvdl1ezzE2C0MN2b/D4EDLZM4h4ooox2fXoDMvp5eYW/IIaCDRPhDdgxSJTajhmLLrEvskAYW\
    VkpZEQKBgQCR1RTXMHp9agsHNtkbIsOLrv2Isuf/znl5fb3CAzGGjHez3tvci7szRfHGkiSIYUQF0cr+Aa91cbrIaXjhJnAzPO8vmKu8XdyOG77x\
    HAf2z31ZbibWkkobwLZTVBIRZOIr3Asue3lE1iG2IBC17QuFeVVQZP66MADz0ivP0OLnkQKBgF6iqU8tupBEqWX/qiJZ6VCkB3KvVznGo8vGOXDd\
    WImI+4Wb/2MMxymo9Fo8vnCI9UK+i/NckzrbTYOKq4xihpHj/PDfOCvW9lG0hn6cnU1WueEV2bMDpohdRlhwnziJsau/QyWy+qRqWMBMcmkcfzPf\
    UQB96IIzQ3LomErtuxeu";

enum Signer {
    Rsa(Box<rsa::KeyPair>),
    Curve(Box<EcdsaKeyPair>, &'static str, usize),
    Ed(Box<Ed25519KeyPair>),
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa() -> Signer {
    Signer::Rsa(Box::new(rsa::KeyPair::from_der(&STANDARD.decode(RSA_KEY).unwrap()).unwrap()))
}

fn curve(algorithm: &'static EcdsaSigningAlgorithm, name: &'static str, length: usize) -> Signer {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
    Signer::Curve(Box::new(pair), name, length)
}

fn p256() -> Signer {
    curve(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32)
}

fn p384() -> Signer {
    curve(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", 48)
}

fn ed25519() -> Signer {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Signer::Ed(Box::new(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()))
}

impl Signer {
    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Rsa(pair) => {
                let padding: &'static dyn RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    other => panic!("{other}"),
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Signer::Curve(pair, ..) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key in a set, with this id, without `alg`.
    fn public(&self, id: &str) -> Value {
        match self {
            Signer::Rsa(pair) => {
                let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
                json!({"kty": "RSA", "kid": id, "n": encode(n), "e": encode(e)})
            }
            Signer::Curve(pair, curve, length) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(*length);
                json!({"kty": "EC", "kid": id, "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Signer::Ed(pair) => {
                json!({"kty": "OKP", "kid": id, "crv": "Ed25519", "x": encode(pair.public_key())})
            }
        }
    }

    fn token(&self, header: Value, claims: &Value) -> String {
        let algorithm = header["alg"].as_str().unwrap().to_owned();
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        format!("{message}.{}", encode(self.sign(&algorithm, message.as_bytes())))
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "auth0|7", "aud": AUDIENCE, "exp": NOW + 600, "iat": NOW - 5, "nbf": NOW - 5,
        "preferred_username": "Ann",
    })
}

/// The claims with some replaced, or removed if null.
fn with(mut claims: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn add(mut key: Value, name: &str, value: impl Into<Value>) -> Value {
    key[name] = value.into();
    key
}

/// A provider with these keys, fetched now.
fn provider(keys: &[Value]) -> Arc<Provider> {
    let provider = Provider::new(ISSUER.to_owned());
    provider.set_keys(json!({"keys": keys}).to_string().as_bytes(), NOW).unwrap();
    Arc::new(provider)
}

fn trusting(keys: &[Value]) -> Issuers {
    Issuers::new().with_provider(provider(keys), AUDIENCE.to_owned())
}

fn hmac_token(algorithm: &str, secret: &[u8], header: Value, claims: &Value) -> String {
    let key = match algorithm {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        other => panic!("{other}"),
    };
    let header = with(json!({"alg": algorithm, "typ": "JWT"}), &header);
    let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let signature = hmac::sign(&hmac::Key::new(key, secret), message.as_bytes());
    format!("{message}.{}", encode(signature))
}

fn backend() -> Issuers {
    Issuers::new().with_hmac_key(SECRET).unwrap()
}

/// What a backend makes with a library for Centrifugo.
fn backend_token(claims: Value) -> String {
    hmac_token("HS256", SECRET, json!({}), &claims)
}

#[test]
fn a_token_of_each_algorithm_is_accepted_as_its_key_says() {
    for (signer, algorithms) in [
        (rsa(), &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        (p256(), &["ES256"]),
        (p384(), &["ES384"]),
        (ed25519(), &["EdDSA"]),
    ] {
        let open = trusting(&[signer.public("k")]);
        for algorithm in algorithms {
            let token = signer.token(json!({"alg": algorithm, "kid": "k", "typ": "JWT"}), &claims());
            let verified = open.verify(&token, NOW).unwrap();
            let identity = verified.identity.unwrap();
            assert_eq!((&*identity.issuer, &*identity.subject, &*verified.username), (ISSUER, "auth0|7", "Ann"));
            assert_eq!((verified.user, verified.generation), (None, None));
            assert_eq!((verified.issued_at, verified.expires_at), (NOW - 5, NOW + 600));
            for named in algorithms {
                let pinned = trusting(&[add(signer.public("k"), "alg", *named)]);
                let expected = if named == algorithm { Ok(()) } else { Err(Invalid) };
                // A token whose key is there but may not be used so is not one whose key is missing.
                let result = pinned.verify(&token, NOW).map(|_| ());
                assert_eq!(result, expected, "{algorithm} by a key for {named}");
            }
            let (message, _) = token.rsplit_once('.').unwrap();
            let mut signature = signer.sign(algorithm, message.as_bytes());
            signature[9] ^= 1;
            assert_eq!(open.verify(&format!("{message}.{}", encode(&signature)), NOW), Err(Invalid));
            assert_eq!(open.verify(&format!("{message}."), NOW), Err(Invalid));
        }
    }
    let signer = ed25519();
    let named = trusting(&[add(signer.public("k"), "alg", "Ed25519")]);
    assert!(named.verify(&signer.token(json!({"alg": "EdDSA", "kid": "k"}), &claims()), NOW).is_ok());
}

#[test]
fn no_other_algorithm_is_accepted() {
    let signer = p256();
    let public = signer.public("k");
    let text = public.to_string();
    let oct = json!({"kty": "oct", "kid": "secret", "k": encode(SECRET), "alg": "HS256"});
    let alone = trusting(&[public.clone(), oct.clone()]);
    let both = trusting(&[public.clone(), oct]).with_hmac_key(SECRET).unwrap();
    let Signer::Curve(pair, ..) = &signer else { unreachable!() };
    let encoded_point = encode(pair.public_key());
    for issuers in [&alone, &both] {
        // The public key, in any form, is no secret for HMAC.
        for secret in [pair.public_key().as_ref(), text.as_bytes(), encoded_point.as_bytes()] {
            for algorithm in ["HS256", "HS384", "HS512"] {
                let token = hmac_token(algorithm, secret, json!({"kid": "k"}), &claims());
                assert_eq!(issuers.verify(&token, NOW), Err(Invalid), "{algorithm}");
            }
        }
        for algorithm in ["none", "None", "NONE", "", "ES512", "ES256K", "RS1"] {
            let header = encode(json!({"alg": algorithm, "kid": "k"}).to_string());
            let message = format!("{header}.{}", encode(claims().to_string()));
            for signature in ["".to_owned(), encode(signer.sign("ES256", message.as_bytes()))] {
                assert_eq!(issuers.verify(&format!("{message}.{signature}"), NOW), Err(Invalid), "{algorithm}");
            }
        }
        for algorithm in ["HS384", "HS512"] {
            let token = hmac_token(algorithm, SECRET, json!({}), &claims());
            assert_eq!(issuers.verify(&token, NOW), Err(Invalid), "{algorithm}");
        }
    }
    // A secret that is in a set is none.
    let token = hmac_token("HS256", SECRET, json!({"kid": "secret"}), &claims());
    assert_eq!(alone.verify(&token, NOW), Err(Invalid));
    assert!(both.verify(&token, NOW).is_ok(), "it is the key of the backend");
}

#[test]
fn each_claim_of_a_provider_must_be_right() {
    let signer = p256();
    let issuers = trusting(&[signer.public("k")]);
    let verify = |changes: &Value| {
        issuers.verify(&signer.token(json!({"alg": "ES256", "kid": "k"}), &with(claims(), changes)), NOW)
    };
    for changes in [
        json!({"iss": null}),
        json!({"iss": "https://id.example"}),
        json!({"iss": format!("{ISSUER}/")}),
        json!({"iss": [ISSUER]}),
        json!({"iss": "uproar"}),
        json!({"aud": null}),
        json!({"aud": "other"}),
        json!({"aud": ""}),
        json!({"aud": []}),
        json!({"aud": ["other", "Chat"]}),
        json!({"aud": {"chat": true}}),
        json!({"aud": [["chat"]]}),
        json!({"exp": null}),
        json!({"exp": "1800000600"}),
        json!({"exp": -1}),
        json!({"exp": 1e300}),
        json!({"exp": true}),
        json!({"nbf": NOW + 61}),
        json!({"nbf": "now"}),
        json!({"iat": NOW + 61}),
        json!({"iat": "now"}),
        json!({"iat": {}}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": 7}),
        json!({"sub": ["7"]}),
        json!({"sub": "a\nb"}),
        json!({"sub": "a\u{0}b"}),
        json!({"sub": "a\u{85}b"}),
        json!({"sub": "x".repeat(256)}),
        // Expired, but wrong in another way too.
        json!({"exp": 1, "aud": "other"}),
        json!({"exp": 1, "sub": ""}),
    ] {
        assert_eq!(verify(&changes), Err(Invalid), "{changes}");
    }
    for changes in [
        json!({}),
        json!({"aud": ["other", AUDIENCE]}),
        json!({"nbf": NOW + 60, "iat": NOW + 60}),
        json!({"nbf": null}),
        json!({"exp": (NOW + 600) as f64 + 0.5, "iat": NOW as f64 - 0.5}),
        json!({"sub": "x".repeat(255)}),
        json!({"exp": NOW - 59}),
    ] {
        assert!(verify(&changes).is_ok(), "{changes}");
    }
    assert_eq!(verify(&json!({"exp": NOW - 60})), Err(Expired));
    assert_eq!(verify(&json!({"iat": NOW + 30})).unwrap().issued_at, NOW, "a clock that is ahead outlives nothing");
    assert_eq!(verify(&json!({"iat": null})).unwrap().issued_at, 0, "older than every revocation");
}

#[test]
fn a_header_that_asks_for_more_is_refused() {
    let signer = p256();
    let issuers = trusting(&[signer.public("k")]);
    let verify = |more: Value| {
        let header = with(json!({"alg": "ES256", "kid": "k"}), &more);
        issuers.verify(&signer.token(header, &claims()), NOW).is_ok()
    };
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        assert!(verify(json!({"typ": typ})), "{typ}");
    }
    // The key that a header brings along is not the provider's.
    assert!(verify(json!({"jku": "https://evil.example", "x5c": []})));
    for more in [
        json!({"typ": "logout+jwt"}),
        json!({"typ": "dpop+jwt"}),
        json!({"typ": 5}),
        json!({"crit": ["exp"]}),
        json!({"crit": []}),
        json!({"zip": "DEF"}),
        json!({"kid": 5}),
    ] {
        assert!(!verify(more.clone()), "{more}");
    }
    let stranger = p256();
    let header = json!({"alg": "ES256", "kid": "k", "jwk": stranger.public("k")});
    assert_eq!(issuers.verify(&stranger.token(header, &claims()), NOW), Err(Invalid));
    let long = with(claims(), &json!({"more": "x".repeat(8 * 1024)}));
    assert_eq!(issuers.verify(&signer.token(json!({"alg": "ES256", "kid": "k"}), &long), NOW), Err(Invalid));
    for nonsense in ["", ".", "..", "...", "a.b.c", "ä", &"x".repeat(1 << 20), "e30.e30.e30"] {
        assert_eq!(issuers.verify(nonsense, NOW), Err(Invalid));
    }
}

#[test]
fn the_key_is_found_by_its_id() {
    let (first, second, stranger) = (p256(), p256(), p256());
    let token = |signer: &Signer, id: Option<&str>| {
        signer.token(with(json!({"alg": "ES256"}), &json!({"kid": id})), &with(claims(), &json!({"iat": NOW - 500})))
    };
    // Two keys with one id are both tried.
    let same = trusting(&[first.public("k"), second.public("k")]);
    assert!(same.verify(&token(&first, Some("k")), NOW).is_ok());
    assert!(same.verify(&token(&second, Some("k")), NOW).is_ok());
    assert_eq!(same.verify(&token(&stranger, Some("k")), NOW), Err(Invalid));
    assert_eq!(same.verify(&token(&first, None), NOW), Err(Invalid), "it is not clear which key is meant");
    // An RSA key with the same id can't be the one.
    let mixed = trusting(&[rsa().public("k"), first.public("k")]);
    assert!(mixed.verify(&token(&first, Some("k")), NOW).is_ok());
    assert!(mixed.verify(&token(&first, None), NOW).is_ok(), "it is the only one for the algorithm");

    let one = trusting(&[first.public("k")]);
    assert!(one.verify(&token(&first, None), NOW).is_ok());
    assert_eq!(one.verify(&token(&stranger, None), NOW), Err(Invalid));
    assert_eq!(one.verify(&token(&first, Some("other")), NOW), Err(Invalid));
    let mut nameless = first.public("k");
    nameless.as_object_mut().unwrap().remove("kid");
    assert!(trusting(&[nameless.clone()]).verify(&token(&first, Some("any")), NOW).is_ok());
    let unclear = trusting(&[nameless, second.public("2")]);
    assert_eq!(unclear.verify(&token(&first, Some("any")), NOW), Err(Invalid));
}

#[test]
fn keys_that_do_not_verify_tokens_are_left_out() {
    let signer = p256();
    let token = signer.token(json!({"alg": "ES256", "kid": "k"}), &with(claims(), &json!({"iat": NOW - 500})));
    let public = || signer.public("k");
    for (key, is_usable) in [
        (public(), true),
        (add(public(), "use", "sig"), true),
        (add(public(), "key_ops", json!(["sign", "verify"])), true),
        (add(public(), "use", "enc"), false),
        (add(public(), "key_ops", json!(["deriveKey"])), false),
        (add(public(), "alg", "ECDH-ES"), false),
        (add(public(), "alg", "HS256"), false),
        (add(public(), "alg", "RS256"), false),
        (add(public(), "crv", "P-384"), false),
        (add(public(), "crv", "P-521"), false),
        (add(public(), "x", encode([1; 31])), false),
        (add(public(), "x", "!"), false),
        (add(public(), "y", Value::Null), false),
        (add(public(), "kty", "RSA"), false),
    ] {
        let issuers = trusting(&[json!(5), json!({}), key.clone(), json!({"kty": "oct", "k": "AAAA"})]);
        assert_eq!(issuers.verify(&token, NOW).is_ok(), is_usable, "{key}");
    }
    // An RSA key that is too short, and one with a zero before its modulus.
    let short = json!({"kty": "RSA", "kid": "k", "n": encode([0xff; 128]), "e": "AQAB"});
    assert_eq!(keys::KeySet::parse(json!({"keys": [short]}).to_string().as_bytes(), NOW).unwrap().0.len(), 0);
    let rsa = rsa();
    let modulus = URL_SAFE_NO_PAD.decode(rsa.public("k")["n"].as_str().unwrap()).unwrap();
    let padded = add(rsa.public("k"), "n", encode([&[0], &modulus[..]].concat()));
    assert!(trusting(&[padded]).verify(&rsa.token(json!({"alg": "RS256", "kid": "k"}), &claims()), NOW).is_ok());
    for text in ["", "{}", "[]", "<html>", r#"{"keys":5}"#, r#"{"keys":{}}"#] {
        assert!(keys::KeySet::parse(text.as_bytes(), NOW).is_err(), "{text}");
    }
    let many: Vec<Value> = (0..1000).map(|n| signer.public(&n.to_string())).collect();
    let (kept, unused) = keys::KeySet::parse(json!({"keys": many}).to_string().as_bytes(), NOW).unwrap();
    assert_eq!((kept.len(), unused), (64, 936));
}

/// A client that is told to try again comes back when the key is there. One whose token can't become valid stops.
#[test]
fn a_token_with_a_new_key_is_not_refused_for_good() {
    let (old, new) = (p256(), p256());
    let provider = Arc::new(Provider::new(ISSUER.to_owned()));
    let issuers = Issuers::new().with_provider(Arc::clone(&provider), AUDIENCE.to_owned());
    let token = |signer: &Signer, id: &str, changes: Value| {
        signer.token(json!({"alg": "ES256", "kid": id}), &with(claims(), &changes))
    };
    let set = |keys: Value, now| provider.set_keys(json!({"keys": keys}).to_string().as_bytes(), now).unwrap();
    let usual = token(&old, "old", json!({}));
    assert_eq!(issuers.verify(&usual, NOW), Err(KeyMissing), "nothing has been fetched");
    set(json!([old.public("old")]), NOW);
    assert!(issuers.verify(&usual, NOW).is_ok());
    let later = token(&old, "old", json!({"exp": NOW + 999_999}));
    assert!(issuers.verify(&later, NOW + 24 * 3600).is_ok(), "the keys are kept for a day");
    assert_eq!(issuers.verify(&later, NOW + 24 * 3600 + 1), Err(KeyMissing));

    assert_eq!(issuers.verify(&token(&new, "new", json!({})), NOW), Err(KeyMissing));
    assert_eq!(issuers.verify(&token(&new, "new", json!({"iat": null})), NOW), Err(KeyMissing));
    assert_eq!(issuers.verify(&token(&new, "new", json!({"iat": NOW - 61})), NOW), Err(Invalid));
    assert_eq!(issuers.verify(&token(&new, "new", json!({"iss": "https://other.example"})), NOW), Err(Invalid));
    assert_eq!(issuers.verify(&token(&new, "old", json!({})), NOW), Err(Invalid));
    set(json!([new.public("new")]), NOW + 1);
    assert!(issuers.verify(&token(&new, "new", json!({})), NOW).is_ok());
    let old = token(&old, "old", json!({"iat": NOW - 100}));
    assert_eq!(issuers.verify(&old, NOW), Err(Invalid), "the key was withdrawn");
}

#[test]
fn names_come_from_the_claims_or_the_subject() {
    let signer = p256();
    let name = |issuers: &Issuers, changes: Value| {
        let token = signer.token(json!({"alg": "ES256", "kid": "k"}), &with(claims(), &changes));
        issuers.verify(&token, NOW).unwrap().username.to_string()
    };
    let usual = trusting(&[signer.public("k")]);
    assert_eq!(name(&usual, json!({"name": "Ann Lee"})), "Ann");
    assert_eq!(name(&usual, json!({"preferred_username": null, "name": " Ann \n Lee "})), "Ann Lee");
    assert_eq!(name(&usual, json!({"preferred_username": "@", "name": "Ann Lee"})), "Ann Lee");
    let nameless = json!({"preferred_username": null});
    let hashed = name(&usual, nameless.clone());
    assert!(hashed.starts_with("user-") && hashed.len() == 17, "{hashed}");
    assert_eq!(name(&usual, with(nameless.clone(), &json!({"iat": NOW}))), hashed);
    for (subject, expected) in [("7", "user-7"), ("a-b_c.D", "user-a-b_c.D")] {
        let changes = json!({"preferred_username": 5, "name": "\u{200b}", "sub": subject});
        assert_eq!(name(&usual, changes), expected);
    }
    for subject in ["ann@example.org", "Пётр", &"x".repeat(33)] {
        let changes = json!({"preferred_username": null, "sub": subject});
        assert!(name(&usual, changes).len() == 17, "{subject}");
    }
    let nick = trusting(&[signer.public("k")]).with_username_claim("nick".to_owned());
    assert_eq!(name(&nick, json!({"nick": "Annie"})), "Annie");
    assert!(name(&nick, json!({"nick": null})).starts_with("user-"), "the usual claims don't count then");
}

#[test]
fn a_backend_signs_tokens_as_for_centrifugo() {
    let issuers = backend();
    let token = backend_token(json!({"sub": "42", "exp": NOW + 60, "info": {"name": "Ann Lee"}}));
    let verified = issuers.verify(&token, NOW).unwrap();
    let identity = verified.identity.unwrap();
    assert_eq!((&*identity.issuer, &*identity.subject, &*verified.username), ("hmac", "42", "Ann Lee"));
    assert_eq!((verified.user, verified.issued_at, verified.expires_at), (None, 0, NOW + 60));
    let other = json!({"sub": "42", "exp": NOW + 60, "iss": "https://backend.example", "aud": "any", "iat": NOW});
    let identity = issuers.verify(&backend_token(other), NOW).unwrap().identity.unwrap();
    assert_eq!(&*identity.issuer, "hmac", "another claim makes no other user");
    for (claims, error) in [
        (json!({"sub": "42"}), Invalid),
        (json!({"sub": "", "exp": NOW + 60}), Invalid),
        (json!({"exp": NOW + 60}), Invalid),
        (json!({"sub": 42, "exp": NOW + 60}), Invalid),
        (json!({"sub": "42", "exp": NOW - 60}), Expired),
        (json!({"sub": "42", "exp": NOW + 60, "iss": "uproar"}), Invalid),
        (json!([]), Invalid),
    ] {
        assert_eq!(issuers.verify(&backend_token(claims.clone()), NOW), Err(error), "{claims}");
    }
    let claims = json!({"sub": "42", "exp": NOW + 60});
    let wrong = [&SECRET[1..], b"x"].concat();
    assert_eq!(issuers.verify(&hmac_token("HS256", &wrong, json!({}), &claims), NOW), Err(Invalid));
    assert_eq!(Issuers::new().verify(&backend_token(claims), NOW), Err(Invalid), "there is no key");
    let error = Issuers::new().with_hmac_key(&[7; 31]).err().unwrap().to_string();
    assert!(error.contains("at least 32 bytes, not 31"), "{error}");
    let strange = json!({"sub": "7", "exp": NOW + 60, "info": ["Ann"], "name": "Ben"});
    assert_eq!(&*issuers.verify(&backend_token(strange), NOW).unwrap().username, "Ben");
}

/// Nobody gets more from Uproar's own tokens because others are accepted too, even if one key signs both.
#[test]
fn own_tokens_stay_what_they_are() {
    let tokens = Tokens::from_key(SECRET).unwrap().with_issuers(backend());
    let account = uproar_store::Account {
        id: uproar_model::UserId(42),
        username: "Ann".into(),
        email: None,
        has_password: true,
        token_generation: 3,
        revoked_at: None,
        is_blocked: false,
    };
    let term = Term::new(NOW, NOW, 100, 1_000);
    assert_eq!(tokens.verify(&tokens.issue(&account, term), NOW).unwrap().user, Some(account.id));
    assert_eq!(tokens.verify(&tokens.issue(&account, term), NOW + 100), Err(Expired));
    for other in [tokens.issue_session(&account, term), tokens.issue_browser(&account, term)] {
        assert_eq!(tokens.verify(&other, NOW), Err(Invalid));
    }
    let minted = tokens.verify(&tokens.mint("bot", NOW, 10), NOW).unwrap();
    assert_eq!((minted.user, minted.identity), (None, None));
    let foreign = backend_token(json!({"sub": "42", "exp": NOW + 60}));
    assert!(tokens.verify(&foreign, NOW).unwrap().identity.is_some());
    assert_eq!(tokens.verify_session(&foreign, NOW), Err(Invalid));
    assert_eq!(tokens.verify_browser(&foreign, NOW), None);
}

/// The answers to requests for these URLs.
type Answers = Vec<(String, Result<String, String>)>;

/// A provider that answers as the test wants, and keeps what it was asked.
#[derive(Default)]
struct FakeProvider(Mutex<(Answers, Vec<String>)>);

impl FakeProvider {
    fn serve(&self, url: &str, document: Result<String, String>) {
        let mut state = self.0.lock().unwrap();
        state.0.retain(|(known, _)| known != url);
        state.0.push((url.to_owned(), document));
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().1)
    }
}

#[async_trait::async_trait]
impl Fetch for FakeProvider {
    async fn send(&self, request: FetchRequest<'_>) -> Result<Fetched, String> {
        let mut state = self.0.lock().unwrap();
        state.1.push(request.url.to_owned());
        let document = state.0.iter().find(|(known, _)| known == request.url).map(|(_, document)| document.clone());
        let Some(document) = document else { return Ok(Fetched { status: 404, body: Vec::new() }) };
        let body = document?.into_bytes();
        if body.len() > request.limit_bytes { Err("too long".to_owned()) } else { Ok(Fetched { status: 200, body }) }
    }
}

#[tokio::test]
async fn keys_are_fetched_until_they_are_there_and_again_when_one_is_missing() {
    const DESCRIPTION: &str = "https://id.example/tenant/.well-known/openid-configuration";
    const KEYS: &str = "https://keys.example/set";
    let (first, second) = (p256(), p256());
    let server = Arc::new(FakeProvider::default());
    let describe = |issuer: &str| Ok(json!({"issuer": issuer, "jwks_uri": KEYS}).to_string());
    let set = |key: Value| Ok(json!({"keys": [key]}).to_string());
    let clock = Clock::of_machine();
    let now = || clock.unix_s();
    let provider = Arc::new(Provider::new(ISSUER.to_owned()));
    let issuers = Issuers::new().with_provider(Arc::clone(&provider), AUDIENCE.to_owned());
    let token = |signer: &Signer, id: &str| {
        let fresh = json!({"iat": now(), "nbf": now(), "exp": now() + 600});
        signer.token(json!({"alg": "ES256", "kid": id}), &with(claims(), &fresh))
    };
    let until = async |expected: Result<(), TokenError>, token: &str| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while issuers.verify(token, now()).map(|_| ()) != expected {
            assert!(tokio::time::Instant::now() < deadline, "not {expected:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // The provider describes another one, which must not count.
    server.serve(DESCRIPTION, describe("https://id.example"));
    server.serve(KEYS, set(first.public("1")));
    let client: SharedFetch = Arc::clone(&server) as SharedFetch;
    let interval = Duration::from_millis(300);
    let keeping =
        tokio::spawn(keep_keys(Arc::clone(&provider), KeyLocation::Discovered, client, clock.clone(), interval));
    while server.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(issuers.verify(&token(&first, "1"), now()), Err(KeyMissing));
    server.serve(DESCRIPTION, describe(ISSUER));
    until(Ok(()), &token(&first, "1")).await;
    // The key set is far too long, then the provider is down: the keys stay.
    for broken in [Ok(" ".repeat(300 * 1024)), Err("no route to host".to_owned())] {
        server.serve(KEYS, broken);
        server.asked();
        assert_eq!(issuers.verify(&token(&second, "2"), now()), Err(KeyMissing));
        while !server.asked().contains(&KEYS.to_owned()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(issuers.verify(&token(&first, "1"), now()).is_ok());
    }
    server.serve(KEYS, set(second.public("2")));
    until(Ok(()), &token(&second, "2")).await;
    assert!(issuers.verify(&token(&first, "1"), now()).is_err());
    // However many tokens name unknown keys, there is at most one fetch per interval.
    let begun = tokio::time::Instant::now();
    server.asked();
    while begun.elapsed() < 4 * interval {
        let _ = issuers.verify(&token(&first, "1"), now());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let fetches = server.asked().iter().filter(|url| *url == KEYS).count() as u128;
    let most = begun.elapsed().as_millis() / interval.as_millis() + 1;
    assert!((1..=most).contains(&fetches), "{fetches} fetches");
    keeping.abort();
}
