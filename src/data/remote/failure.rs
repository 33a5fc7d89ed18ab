//! What a store's refusal means to the person who reads it.

use super::place::shown;
use crate::error::Error;
use object_store::Error as Refusal;

/// What stands before the status of an answer in `object_store`'s messages.
const STATUS: &str = "status code: ";

/// The error of `doing` something at `url`, with the attempts and the status of the last answer.
pub fn failed(doing: &str, url: &str, refusal: &Refusal) -> Error {
    let error = Error::data(format!("{doing} failed: {}", reason(refusal))).at("url", shown(url));
    error.fix(match refusal {
        Refusal::NotFound { .. } => "check the path and the name of the bucket",
        Refusal::PermissionDenied { .. } | Refusal::Unauthenticated { .. } => {
            "give credentials in the environment, as the store's own tools read them, and see what they allow"
        }
        Refusal::Precondition { .. } => "the file was written again while it was read: let that end, and run it again",
        _ => {
            "see that the store can be reached from here (for an S3 server of your own: AWS_ENDPOINT_URL), and run it \
             again (training goes on with --resume)"
        }
    })
}

/// The refusal of an answer whose body broke off, as often as it was asked for.
pub fn broke_off(tries: usize, broken: &str) -> Refusal {
    let what = format!("the answer broke off, asked up to {tries} times: {broken}");
    Refusal::Generic { store: "store", source: what.into() }
}

/// The causes of a refusal in one line: without the bodies of answers, and without what may be secret in addresses.
pub fn reason(refusal: &Refusal) -> String {
    let mut causes = vec![refusal.to_string()];
    let mut cause = std::error::Error::source(refusal);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !causes.iter().any(|known| known.contains(&text)) {
            causes.push(text);
        }
        cause = inner.source();
    }
    let is_url = |word: &str| word.contains("://");
    let plain =
        |word: &str| if is_url(word) { shown(word.trim_matches(['"', '(', ')', ','])) } else { word.to_string() };
    let words: Vec<String> = without_body(&causes.join(": ")).split_whitespace().map(plain).collect();
    words.join(" ")
}

/// Of an answer its status and the code that S3 gives; the rest of the body can be long, and is the server's own.
fn without_body(text: &str) -> String {
    let Some((before, after)) = text.split_once(STATUS) else { return text.to_string() };
    let status = after.split(':').next().unwrap_or_default();
    let code = after.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    match code {
        Some((code, _)) => format!("{before}{STATUS}{status} ({code})"),
        None => format!("{before}{STATUS}{status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_and_signatures_are_left_out() {
        let text = "Error performing GET https://h/x?sig=hunter2 in 3ms, after 4 retries - Server returned non-2xx status code: \
                    403 Forbidden: <Error><Code>InvalidAccessKeyId</Code><Key>hunter2</Key></Error>";
        let refusal = Refusal::Generic { store: "S3", source: text.into() };
        let said = failed("reading", "https://h/x?sig=hunter2", &refusal).to_string();
        assert!(!said.contains("hunter2"), "{said}");
        assert!(said.contains("after 4 retries") && said.contains("403 Forbidden (InvalidAccessKeyId)"), "{said}");
    }
}
