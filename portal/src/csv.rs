//! The numbers of a page as a file.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// `name.csv`. Cells that a spreadsheet would take for a formula are kept as text.
pub fn file(name: &str, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Response {
    let mut out = line(head.iter().map(|cell| (*cell).to_owned()));
    for row in rows {
        out.push_str(&line(row));
    }
    let disposition = format!("attachment; filename=\"{name}.csv\"");
    ([(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, disposition)], out).into_response()
}

fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<_> = cells.into_iter().map(|cell| quoted(&cell)).collect();
    cells.join(",") + "\r\n"
}

fn quoted(cell: &str) -> String {
    let number = cell.strip_prefix('-').unwrap_or(cell).bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let formula = !number && cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{cell}") } else { cell.to_owned() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stay_what_they_are() {
        let row = ["plain", "a,b", "say \"hi\"", "-12.50", "=1+1", "-x", ""].map(str::to_owned);
        assert_eq!(line(row), "plain,\"a,b\",\"say \"\"hi\"\"\",-12.50,'=1+1,'-x,\r\n");
    }
}
