//! Numbers as people read them, for the template.

use minijinja::{Environment, Value};

/// Makes the filters known to a template.
pub(super) fn register(templates: &mut Environment) {
    templates.add_filter("count", |value: &Value| number(value, count));
    templates.add_filter("real", |value: &Value| number(value, real));
    templates.add_filter("bytes", |value: &Value| number(value, bytes));
    templates.add_filter("duration", |value: &Value| number(value, duration));
    templates.add_filter("percent", |value: &Value| number(value, |share| format!("{:.1} %", 100.0 * share)));
}

/// What is no number has no text.
fn number(value: &Value, text: fn(f64) -> String) -> String {
    f64::try_from(value.clone()).map_or_else(|_| "–".to_string(), text)
}

/// `1 234 567`, with narrow spaces.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("−{text}") } else { text }
}

/// Enough digits to compare models by.
pub(super) fn real(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_string(),
        1e5.. => format!("{value:.3e}"),
        100.0.. => format!("{value:.1}"),
        1e-3.. => format!("{value:.5}"),
        _ => format!("{value:.2e}"),
    }
}

/// `1.5 GiB`.
pub(super) fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (value, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// `4.2 s`, `3 min 05 s`, `1 h 02 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0.0, 999.0, 1000.0, 1234567.0].map(count), ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!([0.0, 0.78421, 3e-5, 612.35].map(real), ["0", "0.78421", "3.00e-5", "612.4"]);
        assert_eq!([17.0, 2048.0, 1.5 * 1073741824.0].map(bytes), ["17 B", "2.0 KiB", "1.5 GiB"]);
        assert_eq!([4.24, 185.0, 3720.0, 183_600.0].map(duration), ["4.2 s", "3 min 05 s", "1 h 02 min", "2 d 03 h"]);
    }
}
