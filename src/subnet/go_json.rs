//! JSON objects as Go reads them: a key matches a field whatever its case, and of several that do,
//! the last in the text counts.

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// An object's members in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Object(Vec<(String, Value)>);

impl Object {
    /// The value of a field; null counts as absent.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        let named = self.0.iter().rev().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value).find(|value| !value.is_null())
    }

    /// Whether the field is there at all, null included.
    pub(super) fn names(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }

            fn visit_unit<E>(self) -> Result<Object, E> {
                Ok(Object::default())
            }
        }
        deserializer.deserialize_any(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_in_any_case_and_the_last_counts() {
        let object: Object =
            serde_json::from_str(r#"{"network": "a", "NETWORK": "b", "Port": null}"#).unwrap();

        assert_eq!(object.field("Network").unwrap(), "b");
        assert_eq!(object.field("Port"), None);
        assert!(object.names("port") && !object.names("MTU"));
    }

    #[test]
    fn null_is_an_empty_object_and_a_list_is_none() {
        assert!(serde_json::from_str::<Object>("null").is_ok());
        assert!(serde_json::from_str::<Object>("[]").is_err());
        assert!(serde_json::from_str::<Object>("{} {}").is_err());
    }
}
