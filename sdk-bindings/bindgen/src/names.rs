//! Spellings of a name in other languages.

/// `token_expired` → `tokenExpired`.
pub(crate) fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut camel = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

/// `TokenExpired` → `token_expired`, with another sign between the words.
pub(crate) fn words(name: &str, between: char) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(between);
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// `TokenExpired` → `TOKEN_EXPIRED`.
pub(crate) fn shout(name: &str) -> String {
    words(name, '_').to_ascii_uppercase()
}

/// `TokenExpired` → `tokenExpired`.
pub(crate) fn lower_camel(name: &str) -> String {
    camel(&words(name, '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt() {
        assert_eq!(camel("token_expired"), "tokenExpired");
        assert_eq!((shout("CatchingUp"), lower_camel("CatchingUp")), ("CATCHING_UP".into(), "catchingUp".into()));
        assert_eq!(words("CatchingUp", '-'), "catching-up");
    }
}
