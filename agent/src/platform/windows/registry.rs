//! The registry below `HKEY_LOCAL_MACHINE`. That a key is not there and that it cannot be read are
//! two different answers: who mixes them up takes a locked door for an empty room.

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `REG_DWORD` or `REG_QWORD`.
    Number(u64),
    /// `REG_SZ` or `REG_EXPAND_SZ`.
    Text(String),
    /// `REG_MULTI_SZ`, with the empty texts that Windows itself puts into some.
    Texts(Vec<String>),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl Value {
    /// The number, if it is one.
    pub fn number(&self) -> Option<u64> {
        match self {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The text, if it is one that says something.
    pub fn text(self) -> Option<String> {
        match self {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The texts, if it is a list.
    pub fn texts(self) -> Option<Vec<String>> {
        match self {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// Whether it holds anything but zero and emptiness.
    pub fn is_set(&self) -> bool {
        match self {
            Value::Number(number) => *number != 0,
            Value::Text(text) => !text.is_empty() && text != "0",
            Value::Texts(texts) => texts.iter().any(|text| !text.is_empty()),
            Value::Bytes(bytes) => bytes.iter().any(|byte| *byte != 0),
        }
    }
}

/// Something in the registry that is there, or may be, and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read {path} in the registry: {why}")]
pub(super) struct Unreadable {
    /// Which key.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What can be read.
pub(super) trait Registry {
    /// Whether a key exists.
    fn has_key(&self, path: &str) -> Result<bool, Unreadable>;

    /// A value; `None` when it, or its key, does not exist.
    fn value(&self, path: &str, name: &str) -> Result<Option<Value>, Unreadable>;

    /// Names of the keys right below a key; none when it does not exist.
    fn keys(&self, path: &str) -> Result<Vec<String>, Unreadable>;
}

/// A text; `None` also when it cannot be read.
pub(super) fn text(registry: &impl Registry, path: &str, name: &str) -> Option<String> {
    registry.value(path, name).ok().flatten().and_then(Value::text)
}

/// A number; `None` also when it cannot be read.
pub(super) fn number(registry: &impl Registry, path: &str, name: &str) -> Option<u64> {
    registry.value(path, name).ok().flatten().and_then(|value| value.number())
}

/// The registry of this computer.
#[cfg(windows)]
pub(super) struct LocalMachine;

#[cfg(windows)]
mod local {
    use windows::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND};
    use windows_registry::{Key, LOCAL_MACHINE, Type};

    use super::{LocalMachine, Registry, Unreadable, Value};

    fn found<T>(path: &str, result: windows::core::Result<T>) -> Result<Option<T>, Unreadable> {
        let absent = [ERROR_FILE_NOT_FOUND.to_hresult(), ERROR_PATH_NOT_FOUND.to_hresult()];
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if absent.contains(&error.code()) => Ok(None),
            Err(error) => Err(Unreadable { path: path.to_owned(), why: error.to_string() }),
        }
    }

    fn open(path: &str) -> Result<Option<Key>, Unreadable> {
        found(path, LOCAL_MACHINE.open(path))
    }

    impl Registry for LocalMachine {
        fn has_key(&self, path: &str) -> Result<bool, Unreadable> {
            open(path).map(|key| key.is_some())
        }

        fn value(&self, path: &str, name: &str) -> Result<Option<Value>, Unreadable> {
            let Some(key) = open(path)? else { return Ok(None) };
            let Some(value) = found(path, key.get_value(name))? else { return Ok(None) };
            let wide = || String::from_utf16_lossy(value.as_wide());
            Ok(Some(match value.ty() {
                Type::U32 | Type::U64 => {
                    let mut bytes = [0; 8];
                    let length = value.len().min(8);
                    bytes[..length].copy_from_slice(&value[..length]);
                    Value::Number(u64::from_le_bytes(bytes))
                }
                Type::String | Type::ExpandString => {
                    Value::Text(wide().trim_end_matches('\0').to_owned())
                }
                Type::MultiString => Value::Texts(super::split(&wide())),
                _ => Value::Bytes(value.to_vec()),
            }))
        }

        fn keys(&self, path: &str) -> Result<Vec<String>, Unreadable> {
            let Some(key) = open(path)? else { return Ok(Vec::new()) };
            Ok(found(path, key.keys())?.map(Iterator::collect).unwrap_or_default())
        }
    }
}

/// Splits a `REG_MULTI_SZ`. An empty text in the middle is a text, the zeros at the end are its
/// end: pending renames pair every name with another one, which is empty for a removal.
fn split(wide: &str) -> Vec<String> {
    let mut texts: Vec<String> = wide.split('\0').map(str::to_owned).collect();
    // One text after the last terminator, and one after the terminator of the list.
    for _ in 0..2 {
        texts.pop_if(|text| text.is_empty());
    }
    texts
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// A registry of a test.
    #[derive(Clone, Default)]
    pub(in crate::platform::windows) struct Hive {
        keys: BTreeSet<String>,
        values: BTreeMap<(String, String), Value>,
        locked: BTreeSet<String>,
    }

    impl Hive {
        pub fn key(mut self, path: &str) -> Hive {
            self.keys.insert(path.to_lowercase());
            self
        }

        pub fn set(mut self, path: &str, name: &str, value: Value) -> Hive {
            self.values.insert((path.to_lowercase(), name.to_lowercase()), value);
            self.key(path)
        }

        pub fn number(self, path: &str, name: &str, number: u64) -> Hive {
            self.set(path, name, Value::Number(number))
        }

        pub fn text(self, path: &str, name: &str, text: &str) -> Hive {
            self.set(path, name, Value::Text(text.to_owned()))
        }

        pub fn texts(self, path: &str, name: &str, texts: &[&str]) -> Hive {
            let texts = texts.iter().map(|text| (*text).to_owned()).collect();
            self.set(path, name, Value::Texts(texts))
        }

        /// Nobody may read this key.
        pub fn locked(mut self, path: &str) -> Hive {
            self.locked.insert(path.to_lowercase());
            self
        }

        fn may_read(&self, path: &str) -> Result<(), Unreadable> {
            if self.locked.contains(&path.to_lowercase()) {
                let why = "Access is denied. (0x80070005)".to_owned();
                return Err(Unreadable { path: path.to_owned(), why });
            }
            Ok(())
        }
    }

    impl Registry for Hive {
        fn has_key(&self, path: &str) -> Result<bool, Unreadable> {
            self.may_read(path)?;
            let (path, below) = (path.to_lowercase(), format!("{}\\", path.to_lowercase()));
            Ok(self.keys.iter().any(|key| *key == path || key.starts_with(&below)))
        }

        fn value(&self, path: &str, name: &str) -> Result<Option<Value>, Unreadable> {
            self.may_read(path)?;
            Ok(self.values.get(&(path.to_lowercase(), name.to_lowercase())).cloned())
        }

        fn keys(&self, path: &str) -> Result<Vec<String>, Unreadable> {
            self.may_read(path)?;
            let below = format!("{}\\", path.to_lowercase());
            let names = self.keys.iter().filter_map(|key| key.strip_prefix(&below));
            let mut names: Vec<String> =
                names.map(|rest| rest.split('\\').next().unwrap_or(rest).to_owned()).collect();
            names.dedup();
            Ok(names)
        }
    }

    #[test]
    fn an_empty_text_in_the_middle_of_a_list_is_kept() {
        assert_eq!(split("a\0\0b\0c\0\0"), ["a", "", "b", "c"]);
        assert_eq!(split("a\0\0\0"), ["a", ""]);
        assert_eq!(split("a\0\0"), ["a"]);
        assert_eq!(split(""), [""; 0]);
    }

    #[test]
    fn zero_and_emptiness_are_not_set() {
        assert!(!Value::Number(0).is_set() && Value::Number(3).is_set());
        assert!(!Value::Text("0".into()).is_set() && Value::Text("x".into()).is_set());
        assert!(!Value::Texts(vec![String::new()]).is_set());
        assert!(!Value::Bytes(vec![0, 0]).is_set() && Value::Bytes(vec![0, 1]).is_set());
        assert_eq!(Value::Bytes(vec![1]).text(), None);
        assert_eq!(Value::Number(1).texts(), None);
    }
}
