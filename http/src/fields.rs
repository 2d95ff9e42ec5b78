//! The fields of a request, from a JSON object or a query string. Everything that is wrong with them is found at once,
//! and said in words of this service.
//!
//! A handler's struct says which fields there are and of which types. Its deserializer is given a stand-in for each
//! field that is missing or wrong, so that the others are checked too.

use crate::errors::{ApiError, Code};
use serde::de::value::{Error, SeqDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use uproar_core::protocol::data;
use uproar_model::text;

/// The most bytes of an unknown field's name that an error repeats.
const NAME_LIMIT_BYTES: usize = 128;

/// The field whose value is not interpreted: digits of numbers and the order of names are kept.
const RAW: &str = "meta";

/// The value of the field [`RAW`], as it was sent.
pub(crate) struct RawJson(pub String);

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawJson, D::Error> {
        String::deserialize(deserializer).map(RawJson)
    }
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: Cow<'static, str>,
    pub code: Code,
    /// For people: a sentence after the field's name.
    pub message: Cow<'static, str>,
}

impl FieldError {
    pub(crate) fn new(
        field: impl Into<Cow<'static, str>>,
        code: Code,
        message: impl Into<Cow<'static, str>>,
    ) -> FieldError {
        FieldError { field: field.into(), code, message: message.into() }
    }
}

/// Fields as they were sent: names and values, in order.
pub(crate) struct Given(Vec<(String, Sent)>);

/// A value as it was sent.
enum Sent {
    Json(Value),
    /// Of a field that is kept as it is.
    Raw(Box<RawValue>),
    /// From a query.
    Text(String),
}

/// A request's fields, read into the handler's struct, and what is wrong with them. If anything is, the struct has
/// stand-ins and must not be used.
pub(crate) struct Read<T> {
    pub value: T,
    /// The names of all fields that there are.
    names: &'static [&'static str],
    errors: Vec<FieldError>,
}

impl Given {
    /// The fields of a JSON object.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Given, ApiError> {
        let malformed = |error: serde_json::Error| {
            let cut = cut_fields(bytes);
            if !cut.is_empty() {
                return ApiError::fields(cut);
            }
            let (line, column) = (error.line(), error.column());
            ApiError::new(Code::MalformedJson, format!("the body is not JSON; see line {line}, column {column}"))
        };
        if !bytes.trim_ascii_start().starts_with(b"{") {
            serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(malformed)?;
            return Err(ApiError::new(Code::InvalidField, "the body must be a JSON object"));
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }

    /// The parameters of a query string.
    pub(crate) fn from_query(query: &str) -> Given {
        let parameters = form_urlencoded::parse(query.as_bytes());
        Given(parameters.map(|(name, value)| (name.into_owned(), Sent::Text(value.into_owned()))).collect())
    }

    /// # Errors
    /// Only if the struct has a field of a type that no request has.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<Read<T>, ApiError> {
        let state = RefCell::new(State { names: &[], errors: Vec::new() });
        let value = T::deserialize(Fields { given: self.0, state: &state }).map_err(|error| {
            tracing::error!(%error, "a request's fields can't be read");
            ApiError::internal()
        })?;
        let State { names, errors } = state.into_inner();
        Ok(Read { value, names, errors })
    }
}

impl<T> Read<T> {
    /// Adds an error, unless the field is wrong already.
    pub(crate) fn add(&mut self, error: FieldError) {
        if self.errors.iter().all(|known| known.field != error.field) {
            self.errors.push(error);
        }
    }

    /// The value, if nothing is wrong.
    pub(crate) fn finish(self) -> Result<T, ApiError> {
        let Read { value, names, mut errors } = self;
        // In the order in which the fields are documented; unknown ones come last.
        errors.sort_by_key(|error| names.iter().position(|name| *name == error.field).unwrap_or(names.len()));
        errors.dedup_by(|second, first| second.field == first.field);
        if errors.is_empty() { Ok(value) } else { Err(ApiError::fields(errors)) }
    }
}

/// The fields of a JSON object that can't be decoded because they contain half of a surrogate pair.
fn cut_fields(object: &[u8]) -> Vec<FieldError> {
    let fields = serde_json::from_slice::<BTreeMap<String, &RawValue>>(object).unwrap_or_default();
    let cut = fields.into_iter().filter(|(_, value)| data::has_half_a_pair(value.get()));
    let name = |name: &str| text::cut(name, NAME_LIMIT_BYTES).to_owned();
    cut.map(|(field, _)| FieldError::new(name(&field), Code::InvalidField, data::HALF_A_PAIR)).collect()
}

/// An object with all its names, also repeated ones.
impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Given, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
                let mut given = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = if name == RAW { Sent::Raw(map.next_value()?) } else { Sent::Json(map.next_value()?) };
                    given.push((name, value));
                }
                Ok(Given(given))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// What deserializing has found.
struct State {
    names: &'static [&'static str],
    errors: Vec<FieldError>,
}

struct Fields<'s> {
    given: Vec<(String, Sent)>,
    state: &'s RefCell<State>,
}

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut values: Vec<Option<Sent>> = names.iter().map(|_| None).collect();
        let mut state = self.state.borrow_mut();
        state.names = names;
        for (name, value) in self.given {
            let Some(index) = names.iter().position(|known| *known == name) else {
                let name = text::cut(&name, NAME_LIMIT_BYTES).to_owned();
                let message = format!("there is no such field; there are: {}", names.join(", "));
                state.errors.push(FieldError::new(name, Code::UnknownField, message));
                continue;
            };
            if values[index].replace(value).is_some() {
                let message = "this field must appear only once";
                state.errors.push(FieldError::new(names[index], Code::InvalidField, message));
            }
        }
        drop(state);
        visitor.visit_map(Entries { left: names.iter().zip(values).collect(), value: None, state: self.state })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("requests are read into structs"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// All fields of a struct, given or not.
struct Entries<'s> {
    left: std::collections::VecDeque<(&'static &'static str, Option<Sent>)>,
    value: Option<Field<'s>>,
    state: &'s RefCell<State>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((name, sent)) = self.left.pop_front() else { return Ok(None) };
        self.value = Some(Field { name, sent, state: self.state });
        seed.deserialize((*name).into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let field = self.value.take().ok_or_else(|| serde::de::Error::custom("a value without a name"))?;
        seed.deserialize(field)
    }
}

struct Field<'s> {
    name: &'static str,
    /// None: missing.
    sent: Option<Sent>,
    state: &'s RefCell<State>,
}

impl Field<'_> {
    /// Reports that the field is missing or is not what it must be.
    fn report(&self, must_be: &'static str) {
        let error = match self.sent {
            None => FieldError::new(self.name, Code::MissingField, "this field is missing"),
            Some(_) => FieldError::new(self.name, Code::InvalidField, must_be),
        };
        self.state.borrow_mut().errors.push(error);
    }

    /// A whole number up to `limit`; 0 in place of a wrong one.
    fn number(&self, limit: u64, must_be: &'static str) -> u64 {
        let number = match &self.sent {
            Some(Sent::Json(value)) => value.as_u64(),
            Some(Sent::Text(text)) => text.parse().ok(),
            Some(Sent::Raw(_)) | None => None,
        };
        number.filter(|number| *number <= limit).unwrap_or_else(|| {
            self.report(must_be);
            0
        })
    }
}

impl<'de> Deserializer<'de> for Field<'_> {
    type Error = Error;

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.sent {
            None | Some(Sent::Json(Value::Null)) => visitor.visit_none(),
            Some(Sent::Raw(ref json)) if json.get() == "null" => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.sent {
            Some(Sent::Json(Value::String(text)) | Sent::Text(text)) => visitor.visit_string(text),
            Some(Sent::Raw(json)) => visitor.visit_str(json.get()),
            _ => {
                self.report("must be a string");
                visitor.visit_str("")
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = match &self.sent {
            Some(Sent::Json(Value::Bool(value))) => Some(*value),
            Some(Sent::Text(text)) => text.parse().ok(),
            _ => None,
        };
        visitor.visit_bool(value.unwrap_or_else(|| {
            self.report("must be true or false");
            false
        }))
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(self.number(u64::MAX, "must be a whole number, 0 or more"))
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(self.number(u64::from(u32::MAX), "must be a whole number from 0 to 4294967295"))
    }

    /// All lists are of texts.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let texts: Option<Vec<String>> = match &self.sent {
            Some(Sent::Json(Value::Array(values))) => {
                values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        let texts = texts.unwrap_or_else(|| {
            self.report("must be a list of strings");
            Vec::new()
        });
        visitor.visit_seq(SeqDeserializer::new(texts.into_iter()))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("no request has a field of this type"))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 f64 char str bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Shape {
        text: String,
        size: Option<u32>,
        at: Option<u64>,
        open: Option<bool>,
    }

    /// The value, or the errors as (status, `field: code` of each).
    fn summary(read: Result<Read<Shape>, ApiError>) -> Result<Shape, (u16, String)> {
        read.and_then(Read::finish).map_err(|error| {
            let fields = error.fields.iter().map(|error| format!("{}: {}", error.field, error.code.as_str()));
            (error.code.status().as_u16(), fields.collect::<Vec<_>>().join(", "))
        })
    }

    fn json(text: &str) -> Result<Shape, (u16, String)> {
        summary(Given::from_json(text.as_bytes()).and_then(Given::read))
    }

    fn query(text: &str) -> Result<Shape, (u16, String)> {
        summary(Given::from_query(text).read())
    }

    fn shape(text: &str) -> Shape {
        Shape { text: text.into(), size: None, at: None, open: None }
    }

    #[test]
    fn a_json_body_is_read_or_its_error_names_the_field() {
        assert_eq!(json(r#" {"text":"a","size":null} "#), Ok(shape("a")));
        let all = Shape { text: "a".into(), size: Some(7), at: Some(u64::MAX), open: Some(true) };
        assert_eq!(json(r#"{"text":"a","size":7,"at":18446744073709551615,"open":true}"#), Ok(all));
        for malformed in [
            "",
            "{",
            "x",
            r#"{"text":"a"} x"#,
            r#"{"text":"\ud800",}"#,
            r#"{"\ud800":"a"}"#,
            r#"{"text":"a",}"#,
            "[1",
            r#"{"text":"a"}{}"#,
            "{} {}",
            r#"{"text":1"#,
        ] {
            assert_eq!(json(malformed), Err((400, "".into())), "{malformed}");
        }
        assert!(Given::from_json(b"{\"text\":\"\xff\"}").is_err());
        for not_an_object in ["[]", r#"["a",1]"#, "1", "\"a\"", "null"] {
            assert_eq!(json(not_an_object), Err((422, "".into())), "{not_an_object}");
        }
        for (wrong, field) in [
            ("{}", "text: missing_field"),
            (r#"{"text":1}"#, "text: invalid_field"),
            (r#"{"text":null}"#, "text: invalid_field"),
            (r#"{"text":{}}"#, "text: invalid_field"),
            (r#"{"text":"a\ud83d","size":-1}"#, "text: invalid_field"),
            (r#"{"at":1,"more":["\ude00"]}"#, "more: invalid_field"),
            (r#"{"text":"a","size":-1}"#, "size: invalid_field"),
            (r#"{"text":"a","size":1.5}"#, "size: invalid_field"),
            (r#"{"text":"a","size":"1"}"#, "size: invalid_field"),
            (r#"{"text":"a","size":4294967296}"#, "size: invalid_field"),
            (r#"{"text":"a","open":1}"#, "open: invalid_field"),
            (r#"{"text":"a","text":"b"}"#, "text: invalid_field"),
            (r#"{"text":"a","edit":[{}]}"#, "edit: unknown_field"),
        ] {
            assert_eq!(json(wrong), Err((422, field.into())), "{wrong}");
        }
    }

    #[test]
    fn all_errors_are_reported_at_once_and_in_words_of_this_service() {
        let read = Given::from_json(br#"{"more":1,"open":"yes","size":[]}"#).and_then(Given::read::<Shape>);
        let error = read.and_then(Read::finish).unwrap_err();
        let errors: Vec<_> = error.fields.iter().map(|error| (&*error.field, &*error.message)).collect();
        assert_eq!(
            errors,
            [
                ("text", "this field is missing"),
                ("size", "must be a whole number from 0 to 4294967295"),
                ("open", "must be true or false"),
                ("more", "there is no such field; there are: text, size, at, open"),
            ]
        );
        assert_eq!((error.code, error.field.as_deref()), (Code::MissingField, Some("text")));
    }

    #[test]
    fn the_name_of_an_unknown_field_is_cut_between_characters() {
        let family = "👩\u{200d}👩\u{200d}👧\u{200d}👦";
        let name = family.repeat(5) + "xyz" + family;
        let read = query(&format!("text=a&{name}=1"));
        assert_eq!(read, Err((422, format!("{}: unknown_field", family.repeat(5) + "xyz"))));
    }

    #[test]
    fn deep_nesting_is_malformed_and_overflows_no_stack() {
        let deep = format!(r#"{{"text":"a","x":{}"#, "[".repeat(60_000));
        assert_eq!(json(&deep), Err((400, "".into())));
    }

    #[test]
    fn a_query_string_is_read_or_its_error_names_the_parameter() {
        let found = Shape { text: "a b c".into(), size: Some(7), at: None, open: Some(false) };
        assert_eq!(query("text=a%20b+c&size=7&open=false"), Ok(found));
        for (wrong, field) in [
            ("", "text: missing_field"),
            ("text=a&size=x", "size: invalid_field"),
            ("text=a&size=", "size: invalid_field"),
            ("text=a&text=b", "text: invalid_field"),
            ("text=a&sise=7", "sise: unknown_field"),
            ("size=-1&x=y", "text: missing_field, size: invalid_field, x: unknown_field"),
        ] {
            assert_eq!(query(wrong), Err((422, field.into())), "{wrong}");
        }
    }
}
