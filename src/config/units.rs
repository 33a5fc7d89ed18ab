//! Values as people write them: `1 epoch`, `1000 steps`, `2 GiB`, `auto`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How often something happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Every {
    /// Every so many epochs; may be a fraction (`0.5 epochs`).
    Epochs(f64),
    /// Every so many steps.
    Steps(u64),
    /// Not at all.
    Never,
}

impl Every {
    /// The period in steps, at least 1, for an epoch of `steps_per_epoch`; `None` for [`Every::Never`].
    pub fn steps(self, steps_per_epoch: u64) -> Option<u64> {
        match self {
            Self::Epochs(epochs) => Some(((epochs * steps_per_epoch as f64).round() as u64).max(1)),
            Self::Steps(steps) => Some(steps.max(1)),
            Self::Never => None,
        }
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epochs(n) => write!(f, "{n} epochs"),
            Self::Steps(n) => write!(f, "{n} steps"),
            Self::Never => write!(f, "never"),
        }
    }
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a period: write `1 epoch`, `0.5 epochs`, `1000 steps` or `never`");
        if text.trim() == "never" {
            return Ok(Self::Never);
        }
        let (number, unit) = text.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
        match unit.trim() {
            "step" | "steps" => match number.parse() {
                Ok(n) if n > 0 => Ok(Self::Steps(n)),
                _ => Err(wrong()),
            },
            "epoch" | "epochs" => match number.parse::<f64>() {
                Ok(n) if n > 0.0 && n.is_finite() => Ok(Self::Epochs(n)),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Every {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Period;
        impl de::Visitor<'_> for Period {
            type Value = Every;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a period: `1 epoch`, `0.5 epochs`, `1000 steps` or `never`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Every, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Period)
    }
}

/// An amount of memory, in bytes: `2 GiB`, `500 MB`, `1.5 TiB`, or a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// Units of [`Bytes`], largest first within each family.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// In the largest unit of which it is a whole number, so that it reads back as the same amount.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |&&(_, size): &&(&str, u64)| self.0 >= size && self.0.is_multiple_of(size);
        let (unit, size) = BYTE_UNITS.iter().find(whole).copied().unwrap_or(("B", 1));
        write!(f, "{} {unit}", self.0 / size)
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no amount of memory: write `2 GiB`, `500 MB` or a number of bytes");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim_start());
        if unit.is_empty() {
            return number.parse().map(Self).map_err(|_| wrong());
        }
        let (_, size) = BYTE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(*size).map(Self).ok_or_else(wrong);
        }
        match number.parse::<f64>().map(|number| number * *size as f64) {
            Ok(bytes) if bytes < u64::MAX as f64 => Ok(Self(bytes as u64)),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;
        impl de::Visitor<'_> for Amount {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an amount of memory: `2 GiB`, `500 MB` or a number of bytes")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Amount)
    }
}

/// How long something may take: `10 min`, `30 s`, `2 h`, or `off` for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit(pub Option<Duration>);

/// Units of [`TimeLimit`] in seconds, largest first.
const TIME_UNITS: [(&str, u64); 3] = [("h", 3600), ("min", 60), ("s", 1)];

/// In the largest unit of which it is a whole number.
impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(limit) = self.0 else { return write!(f, "off") };
        let seconds = limit.as_secs();
        let whole = |&&(_, size): &&(&str, u64)| seconds >= size && seconds.is_multiple_of(size);
        let (unit, size) = TIME_UNITS.iter().find(whole).copied().unwrap_or(("s", 1));
        write!(f, "{} {unit}", seconds / size)
    }
}

impl FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no length of time: write `10 min`, `30 s`, `2 h` or `off`");
        let text = text.trim();
        if text == "off" {
            return Ok(Self(None));
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = text[digits..].trim_start();
        let (_, size) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let seconds = number.checked_mul(*size).filter(|&seconds| seconds > 0).ok_or_else(wrong)?;
        Ok(Self(Some(Duration::from_secs(seconds))))
    }
}

impl Serialize for TimeLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Limit;
        impl de::Visitor<'_> for Limit {
            type Value = TimeLimit;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a length of time: `10 min`, `30 s`, `2 h` or `off`")
            }

            /// YAML 1.1 reads `off` as false.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<TimeLimit, E> {
                if on { Err(E::invalid_value(de::Unexpected::Bool(on), &self)) } else { Ok(TimeLimit(None)) }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TimeLimit, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Limit)
    }
}

/// Reads `auto` (or nothing) as `None`, and a number as itself: for `#[serde(deserialize_with)]`.
pub(super) fn auto_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    struct AutoOrNumber;
    impl<'de> de::Visitor<'de> for AutoOrNumber {
        type Value = Option<usize>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("`auto` or a whole number")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Option<usize>, E> {
            match usize::try_from(number) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
            }
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<usize>, E> {
            if text == "auto" { Ok(None) } else { Err(E::invalid_value(de::Unexpected::Str(text), &self)) }
        }

        fn visit_unit<E: de::Error>(self) -> Result<Option<usize>, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(AutoOrNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_read_as_people_write_them() {
        assert_eq!("1 epoch".parse(), Ok(Every::Epochs(1.0)));
        assert_eq!("0.5 epochs".parse(), Ok(Every::Epochs(0.5)));
        assert_eq!("1000 steps".parse(), Ok(Every::Steps(1000)));
        assert_eq!("never".parse(), Ok(Every::Never));
        for wrong in ["", "epoch", "0 steps", "-1 epochs", "2 days", "1000"] {
            assert!(wrong.parse::<Every>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn amounts_of_memory_read_as_people_write_them() {
        for (text, bytes) in [
            ("2 GiB", 2 << 30),
            ("2GiB", 2 << 30),
            ("500 MB", 500_000_000),
            ("1.5 KiB", 1536),
            ("64 kB", 64_000),
            ("7 B", 7),
            ("1048576", 1 << 20),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        // `m` for mega or milli, `b` for bit or byte: not guessed.
        for wrong in ["", "GiB", "2 gib", "2 G", "2 mb", "-1 GiB", "1.2.3 GiB", "1.5", "2 GiB x", "99999999 TiB"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn amounts_of_memory_survive_being_written() {
        for bytes in [0, 1, 1000, 1024, 1536, 3 << 30, 2_000_000_000, u64::MAX] {
            let written = serde_yaml::to_string(&Bytes(bytes)).unwrap();
            assert_eq!(serde_yaml::from_str::<Bytes>(&written).unwrap(), Bytes(bytes), "{written}");
        }
        assert_eq!(Bytes(3 << 30).to_string(), "3 GiB");
        assert_eq!(Bytes(1_500_000).to_string(), "1500 kB");
    }

    #[test]
    fn lengths_of_time_read_as_people_write_them_and_survive_being_written() {
        for (text, seconds) in [("10 min", Some(600)), ("30s", Some(30)), ("2 h", Some(7200)), ("off", None)] {
            let limit = TimeLimit(seconds.map(Duration::from_secs));
            assert_eq!(text.parse(), Ok(limit), "{text}");
            let written = serde_yaml::to_string(&limit).unwrap();
            assert_eq!(serde_yaml::from_str::<TimeLimit>(&written).unwrap(), limit, "{written}");
        }
        assert_eq!(TimeLimit(Some(Duration::from_secs(90))).to_string(), "90 s");
        assert_eq!(serde_yaml::from_str::<TimeLimit>("false").unwrap(), TimeLimit(None));
        for wrong in ["", "10", "0 s", "10 m", "1.5 h", "-1 s", "min", "on", "99999999999999999999 s"] {
            assert!(wrong.parse::<TimeLimit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn periods_become_steps() {
        assert_eq!(Every::Epochs(0.5).steps(101), Some(51));
        assert_eq!(Every::Epochs(0.001).steps(10), Some(1));
        assert_eq!(Every::Steps(7).steps(10), Some(7));
        assert_eq!(Every::Never.steps(10), None);
    }
}
