//! Reads the parameters of a method, one after the other. Errors name the parameter.
//!
//! The libraries of some languages send a parameter that was not given as null, false, an empty text or an empty list.
//! So these count as absent, also for parameters that a method does not have.

use super::error::{Answered, MethodError};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use uproar_core::protocol::data::{HALF_A_PAIR, NOT_JSON, compact, has_half_a_pair};

/// The parameters that have not been read yet.
pub(crate) struct Params<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Params<'a> {
    /// The parameters in this JSON, which must be an object.
    pub(crate) fn of(json: &'a str) -> Answered<Params<'a>> {
        if !json.trim_ascii_start().starts_with('{') {
            return Err(MethodError::bad_request("the parameters must be a JSON object"));
        }
        serde_json::from_str(json).map(Params).map_err(|error| {
            MethodError::bad_request(format!("the parameters are not valid JSON (column {})", error.column()))
        })
    }

    /// Takes a parameter. `None`: it was not given.
    pub(crate) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let value = self.0.remove(name)?;
        (value.get() != "null").then_some(value)
    }

    /// Takes a text. An empty one was not given.
    pub(crate) fn text(&mut self, name: &str) -> Answered<Option<String>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match serde_json::from_str::<String>(value.get()) {
            Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
            Err(_) if has_half_a_pair(value.get()) => Err(MethodError::bad_request(format!("{name} {HALF_A_PAIR}"))),
            Err(_) => Err(MethodError::bad_request(format!("{name} must be a string"))),
        }
    }

    pub(crate) fn required_text(&mut self, name: &str) -> Answered {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    /// Takes a text that some callers send as a number, such as the id of a user.
    pub(crate) fn id(&mut self, name: &str) -> Answered<Option<String>> {
        let number = self.0.get(name).and_then(|raw| serde_json::from_str::<u64>(raw.get()).ok());
        match number {
            Some(number) => {
                self.take(name);
                Ok(Some(number.to_string()))
            }
            None => self.text(name),
        }
    }

    pub(crate) fn required_id(&mut self, name: &str) -> Answered {
        self.id(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn flag(&mut self, name: &str) -> Answered<bool> {
        Ok(self.parsed(name, "true or false")?.unwrap_or_default())
    }

    /// Takes a value of another type. `what`: what it must be.
    pub(crate) fn parsed<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> Answered<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let parsed = serde_json::from_str(value.get());
        parsed.map(Some).map_err(|_| MethodError::bad_request(format!("{name} must be {what}")))
    }

    /// Takes an object, to read it in the same way.
    pub(crate) fn object(&mut self, name: &str) -> Answered<Option<Params<'a>>> {
        let Some(value) = self.take(name).filter(|value| !is_empty(value)) else { return Ok(None) };
        Params::of(value.get()).map(Some).map_err(|_| MethodError::bad_request(format!("{name} must be an object")))
    }

    /// Takes a list of texts, at most this many.
    pub(crate) fn texts(&mut self, name: &str, limit: usize) -> Answered<Vec<String>> {
        let texts: Vec<String> = self.parsed(name, "a list of strings")?.unwrap_or_default();
        if texts.len() > limit {
            return Err(MethodError::bad_request(format!("{name} must have at most {limit} entries")));
        }
        Ok(texts)
    }

    /// Takes any JSON, without the white space between its parts.
    pub(crate) fn required_json(&mut self, name: &str) -> Answered {
        // Here null is a value like any other.
        let value = self.0.remove(name).ok_or_else(|| missing(name))?;
        compact(value.get().as_bytes()).map_err(|error| {
            let text = if error == NOT_JSON { format!("{name} {NOT_JSON}") } else { format!("{name} {error}") };
            MethodError::bad_request(text)
        })
    }

    /// Takes a parameter that is not supported. It must not have been given.
    pub(crate) fn refuse(&mut self, name: &str, error: impl FnOnce() -> MethodError) -> Answered<()> {
        match self.take(name).filter(|value| !is_empty(value)) {
            None => Ok(()),
            Some(_) => Err(error()),
        }
    }

    /// Refuses whatever has not been read: a misspelt parameter would otherwise be ignored in silence.
    pub(crate) fn finish(&mut self) -> Answered<()> {
        match std::mem::take(&mut self.0).into_iter().find(|(_, value)| !is_empty(value)) {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                Err(MethodError::bad_request(format!("there is no parameter '{name}'")))
            }
        }
    }
}

fn missing(name: &str) -> MethodError {
    MethodError::bad_request(format!("{name} is missing"))
}

/// Whether a value is what libraries send for a parameter that was not given.
fn is_empty(value: &RawValue) -> bool {
    let json = value.get();
    let inside = |open, close| json.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    matches!(json, "null" | "false" | "\"\"" | "0")
        || inside('[', ']').or_else(|| inside('{', '}')).is_some_and(|inside| inside.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(answered: Answered<T>) -> String {
        let error = answered.unwrap_err();
        assert_eq!(error.code, 107);
        error.message
    }

    #[test]
    fn a_parameter_of_another_type_is_named() {
        let mut params = Params::of(r#"{"a":1,"b":"x","c":[1],"d":"\ud800","e":[],"f":null}"#).unwrap();
        assert_eq!(message(params.text("a")), "a must be a string");
        assert_eq!(message(params.flag("b")), "b must be true or false");
        assert_eq!(message(params.texts("c", 9)), "c must be a list of strings");
        assert!(message(params.text("d")).starts_with("d contains half of a surrogate pair"));
        assert_eq!(params.texts("e", 0), Ok(Vec::new()));
        assert_eq!(message(params.required_text("f")), "f is missing");
        assert_eq!(params.finish(), Ok(()));
        assert_eq!(message(Params::of("[]").map(|_| ())), "the parameters must be a JSON object");
        assert_eq!(message(Params::of("{").map(|_| ())), "the parameters are not valid JSON (column 1)");
        assert_eq!(
            message(Params::of(r#"{"list":["a","b"]}"#).unwrap().texts("list", 1)),
            "list must have at most 1 entries"
        );
    }

    #[test]
    fn what_was_not_given_may_be_empty() {
        let params = r#"{"a":null,"b":false,"c":"","d":[],"e":{ },"f":0}"#;
        assert_eq!(Params::of(params).unwrap().finish(), Ok(()));
        assert_eq!(message(Params::of(r#"{"chanel":"room:x"}"#).unwrap().finish()), "there is no parameter 'chanel'");
        let mut refused = Params::of(r#"{"tags":{},"delta":"fossil"}"#).unwrap();
        assert_eq!(refused.refuse("tags", || MethodError::bad_request("no")), Ok(()));
        assert_eq!(refused.refuse("delta", || MethodError::not_available("no")).unwrap_err().code, 108);
    }

    #[test]
    fn an_id_may_be_a_number() {
        let mut params = Params::of(r#"{"a":7,"b":"7","c":-7}"#).unwrap();
        assert_eq!(params.required_id("a").unwrap(), "7");
        assert_eq!(params.required_id("b").unwrap(), "7");
        assert_eq!(message(params.required_id("c")), "c must be a string");
    }

    #[test]
    fn any_json_is_compact() {
        let mut params = Params::of("{\"a\": {\"x\": [1, null]}, \"b\": null}").unwrap();
        assert_eq!(params.required_json("a").unwrap(), r#"{"x":[1,null]}"#);
        assert_eq!(params.required_json("b").unwrap(), "null");
        assert_eq!(message(params.required_json("c")), "c is missing");
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
        assert_eq!(message(Params::of(&deep).unwrap().required_json("a")), format!("a {NOT_JSON}"));
    }
}
