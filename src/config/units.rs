//! Values as people write them: `1 epoch`, `1000 steps`, `auto`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

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
    fn periods_become_steps() {
        assert_eq!(Every::Epochs(0.5).steps(101), Some(51));
        assert_eq!(Every::Epochs(0.001).steps(10), Some(1));
        assert_eq!(Every::Steps(7).steps(10), Some(7));
        assert_eq!(Every::Never.steps(10), None);
    }
}
