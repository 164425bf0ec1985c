//! Where the lines of a body stand in a file: `farebox send` says it in `X-Farebox-File: <file>/<offset>`, the offset
//! being that of the body's first byte, and the body being the file's bytes from there on. A line that is sent again,
//! with others before and after it, is told by its place: it keeps the id, and the dead letter, that it had.

use axum::http::HeaderMap;
use bytes::Bytes;
use farebox_core::problem::Problem;

use crate::intake::hash_of;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's identity, whatever its name is by now.
    file: String,
    /// Of the body's first byte.
    offset: u64,
}

impl Place {
    /// None without the header.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get("x-farebox-file") else { return Ok(None) };
        let parsed = value.to_str().ok().and_then(|text| text.rsplit_once('/')).and_then(|(file, offset)| {
            let is_name = (1..=64).contains(&file.len()) && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            is_name.then_some(())?;
            Some(Self { file: file.to_owned(), offset: offset.parse().ok()? })
        });
        let wrong = || {
            Problem::invalid_field(
                "X-Farebox-File",
                "must be a file's name of up to 64 letters, digits, `.`, `_`, `-`, a slash, and the offset of the body in it",
            )
        };
        parsed.map(Some).ok_or_else(wrong)
    }

    /// `line` must be a slice of `body`.
    fn offset_of(&self, body: &Bytes, line: &Bytes) -> u64 {
        let within = (line.as_ptr() as usize).saturating_sub(body.as_ptr() as usize);
        self.offset.saturating_add(within as u64)
    }

    /// For the dead letters: `file/<file>/<offset>`.
    pub fn origin(&self, body: &Bytes, line: &Bytes) -> String {
        format!("file/{}/{}", self.file, self.offset_of(body, line))
    }

    /// The id of a line that carries none: file, offset, and the line's hash, because a file can be truncated and written
    /// anew in its place.
    pub fn id_of(&self, body: &Bytes, line: &Bytes) -> String {
        format!("{}/{}/{}", self.file, self.offset_of(body, line), hash_of(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<Option<Place>, Problem> {
        Place::of(&[("x-farebox-file".parse().expect("a name"), text.parse().expect("a value"))].into_iter().collect())
    }

    #[test]
    fn a_line_is_where_it_stands_in_the_file_however_the_body_is_cut() {
        let file = Bytes::from("one\ntwo\nthree\n");
        let whole = place("a1/100").expect("it is right").expect("it is there");
        let later = place("a1/104").expect("it is right").expect("it is there");
        let rest = file.slice(4..);
        assert_eq!(whole.id_of(&file, &file.slice(8..13)), later.id_of(&rest, &rest.slice(4..9)));
        assert_eq!(whole.origin(&file, &file.slice(4..7)), "file/a1/104");
        assert_ne!(whole.id_of(&file, &file.slice(0..3)), whole.id_of(&file, &file.slice(4..7)));
    }

    #[test]
    fn a_place_that_cannot_be_read_is_refused() {
        for text in ["", "a1", "a1/", "/7", "a1/-7", "a b/7", "a1/99999999999999999999"] {
            assert_eq!(place(text).expect_err(text).status, 422, "{text}");
        }
        assert_eq!(Place::of(&HeaderMap::new()).expect("none"), None);
    }
}
