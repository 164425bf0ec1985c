//! Reads just enough of a statement to serve it over HTTP: where the data of an `INSERT` begins, which
//! format is asked for, whether the result can be streamed, whether the statement changes its session.

/// A statement, by the way it must be run.
#[derive(Debug, PartialEq, Eq)]
pub enum Statement<'a> {
    Insert(Insert<'a>),
    Query(Query<'a>),
}

/// `INSERT INTO ... FORMAT ...`, its data apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Insert<'a> {
    /// `INSERT INTO table (columns)`
    pub into: &'a str,
    /// `SETTINGS ...`, or nothing.
    pub settings: &'a str,
    pub format: Option<&'a str>,
    /// What follows in the same text.
    pub data: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
pub struct Query<'a> {
    pub text: &'a str,
    pub format: Option<&'a str>,
    pub is_select: bool,
    /// `SET`, `USE`, temporary tables: the session must not be used again.
    pub changes_session: bool,
}

/// Why a statement is not run, in ClickHouse's codes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)")]
    Empty,
    #[error("Code: 62. DB::Exception: Syntax error: the query is not UTF-8. (SYNTAX_ERROR)")]
    NotText,
    #[error("Code: 62. DB::Exception: Syntax error (Multi-statements are not allowed). (SYNTAX_ERROR)")]
    SeveralStatements,
    #[error("Code: 48. DB::Exception: {0} is not allowed over HTTP. (NOT_IMPLEMENTED)")]
    NotOverHttp(&'static str),
}

pub fn parse(sql: &[u8]) -> Result<Statement<'_>, Refusal> {
    let mut tokens = Tokens { sql, at: 0 };
    match tokens.next() {
        None => Err(Refusal::Empty),
        Some(first) if first.is(sql, "INSERT") => insert(sql, tokens),
        Some(first) => query(sql, &first, tokens),
    }
}

fn insert<'a>(sql: &'a [u8], tokens: Tokens<'a>) -> Result<Statement<'a>, Refusal> {
    let mut tokens = tokens;
    let (mut depth, mut settings_at) = (0_usize, None);
    // The table may be called `format`: the words up to it are skipped.
    for skipped in 0.. {
        match tokens.next() {
            Some(token) if token.is(sql, "INTO") || token.is(sql, "TABLE") || token.is(sql, "FUNCTION") => {}
            None if skipped == 0 => return Ok(Statement::Query(plain(text(sql)?))),
            _ => break,
        }
    }
    while let Some(token) = tokens.next() {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Word if depth > 0 => {}
            Kind::Word if token.is(sql, "SELECT") || token.is(sql, "WITH") => {
                let mut rest = Tokens { sql, at: token.start };
                let first = rest.next().ok_or(Refusal::Empty)?;
                let inner = query_parts(sql, &first, rest)?;
                return Ok(Statement::Query(Query { text: text(sql)?, is_select: false, ..inner }));
            }
            Kind::Word if token.is(sql, "FROM") => return Err(Refusal::NotOverHttp("FROM INFILE")),
            Kind::Word if token.is(sql, "SETTINGS") => settings_at = Some(token.start),
            Kind::Word if token.is(sql, "VALUES") => {
                return with_data(sql, settings_at, token.start, Some("Values"), &sql[token.end..]);
            }
            Kind::Word if token.is(sql, "FORMAT") => {
                let Some(name) = tokens.next() else { break };
                let format = text(&sql[name.start..name.end])?;
                return with_data(sql, settings_at, token.start, Some(format), after_format(&sql[name.end..]));
            }
            _ => {}
        }
    }
    with_data(sql, settings_at, sql.len(), None, &[])
}

fn with_data<'a>(
    sql: &'a [u8],
    settings_at: Option<usize>,
    end: usize,
    format: Option<&'a str>,
    data: &'a [u8],
) -> Result<Statement<'a>, Refusal> {
    let settings_at = settings_at.unwrap_or(end);
    let into = text(&sql[..settings_at])?.trim_end().trim_end_matches(';');
    Ok(Statement::Insert(Insert { into, settings: text(&sql[settings_at..end])?.trim_end(), format, data }))
}

/// The data begins after the format's name, an optional semicolon, blanks, and at most one line end.
fn after_format(rest: &[u8]) -> &[u8] {
    let mut at = usize::from(rest.first() == Some(&b';'));
    while matches!(rest.get(at), Some(b' ' | b'\t' | 0x0c)) {
        at += 1;
    }
    at += usize::from(rest.get(at) == Some(&b'\r'));
    at += usize::from(rest.get(at) == Some(&b'\n'));
    &rest[at..]
}

fn query<'a>(sql: &'a [u8], first: &Token, tokens: Tokens<'a>) -> Result<Statement<'a>, Refusal> {
    let query = query_parts(sql, first, tokens)?;
    Ok(Statement::Query(query))
}

fn query_parts<'a>(sql: &'a [u8], first: &Token, tokens: Tokens<'a>) -> Result<Query<'a>, Refusal> {
    let mut found = plain(text(sql)?);
    let mut depth = usize::from(first.kind == Kind::Open);
    let mut previous = *first;
    let mut semicolon = None;
    // `FORMAT x` ends a query, but for SETTINGS; anywhere else `format` is a name.
    let mut format = None;
    found.is_select = first.kind == Kind::Open || first.is(sql, "SELECT") || first.is(sql, "WITH");
    found.changes_session = first.is(sql, "SET") || first.is(sql, "USE");
    for token in tokens {
        if semicolon.is_some() {
            return Err(Refusal::SeveralStatements);
        }
        if let Some(format) = format.take()
            && (token.kind == Kind::Semicolon || token.is(sql, "SETTINGS"))
        {
            found.format = Some(format);
        }
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Semicolon if depth == 0 => semicolon = Some(token.start),
            Kind::Word if depth == 0 => {
                if previous.is(sql, "FORMAT") {
                    format = Some(text(&sql[token.start..token.end])?);
                }
                if previous.is(sql, "INTO") && token.is(sql, "OUTFILE") {
                    return Err(Refusal::NotOverHttp("INTO OUTFILE"));
                }
                if token.is(sql, "TEMPORARY") {
                    found.changes_session = true;
                }
            }
            _ => {}
        }
        previous = token;
    }
    found.format = format.or(found.format);
    if let Some(end) = semicolon {
        found.text = &found.text[..end];
    }
    Ok(found)
}

fn plain(text: &str) -> Query<'_> {
    Query { text, format: None, is_select: false, changes_session: false }
}

fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| Refusal::NotText)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Open,
    Close,
    Semicolon,
    Other,
}

#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

impl Token {
    fn is(&self, sql: &[u8], keyword: &str) -> bool {
        self.kind == Kind::Word && sql[self.start..self.end].eq_ignore_ascii_case(keyword.as_bytes())
    }
}

/// ClickHouse's tokens, as far as quotes, comments and brackets go.
struct Tokens<'a> {
    sql: &'a [u8],
    at: usize,
}

impl Tokens<'_> {
    fn after(&self, from: usize, needle: &[u8]) -> usize {
        let rest = self.sql.get(from..).unwrap_or_default();
        rest.windows(needle.len()).position(|window| window == needle).map_or(self.sql.len(), |at| from + at + needle.len())
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = &self.sql[self.at..];
            match rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, ..] => self.at += 1,
                [b'-', b'-', ..] | [b'#', b' ' | b'!', ..] => self.at = self.after(self.at, b"\n"),
                [b'/', b'*', ..] => self.at = self.after(self.at + 2, b"*/"),
                _ => return,
            }
        }
    }

    fn quoted(&self, quote: u8) -> usize {
        let mut at = self.at + 1;
        while let Some(&byte) = self.sql.get(at) {
            match byte {
                b'\\' => at += 2,
                _ if byte == quote && self.sql.get(at + 1) == Some(&quote) => at += 2,
                _ if byte == quote => return at + 1,
                _ => at += 1,
            }
        }
        self.sql.len()
    }

    /// `$tag$ ... $tag$`, or a lone dollar.
    fn heredoc(&self) -> usize {
        let rest = &self.sql[self.at + 1..];
        let tag = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        if rest.get(tag) != Some(&b'$') {
            return self.at + 1;
        }
        let marker = &self.sql[self.at..self.at + tag + 2];
        self.after(self.at + marker.len(), marker)
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blanks();
        let start = self.at;
        let first = *self.sql.get(start)?;
        let (kind, end) = match first {
            b'(' | b'[' | b'{' => (Kind::Open, start + 1),
            b')' | b']' | b'}' => (Kind::Close, start + 1),
            b';' => (Kind::Semicolon, start + 1),
            b'\'' | b'"' | b'`' => (Kind::Other, self.quoted(first)),
            b'$' => (Kind::Other, self.heredoc()),
            _ if first.is_ascii_alphanumeric() || first == b'_' => {
                let length =
                    self.sql[start..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')).count();
                (Kind::Word, start + length)
            }
            _ => (Kind::Other, start + 1),
        };
        self.at = end.min(self.sql.len());
        Some(Token { kind, start, end: self.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert_of(sql: &[u8]) -> (&str, &str, Option<&str>, &[u8]) {
        match parse(sql).expect("parses") {
            Statement::Insert(insert) => (insert.into, insert.settings, insert.format, insert.data),
            Statement::Query(query) => panic!("not an insert: {query:?}"),
        }
    }

    fn query_of(sql: &str) -> Query<'_> {
        match parse(sql.as_bytes()).expect("parses") {
            Statement::Query(query) => query,
            Statement::Insert(insert) => panic!("an insert: {insert:?}"),
        }
    }

    #[test]
    fn data_of_an_insert_is_split_off() {
        assert_eq!(insert_of(b"INSERT INTO t FORMAT RowBinary\n\n;'"), ("INSERT INTO t", "", Some("RowBinary"), b"\n;'".as_slice()));
        assert_eq!(
            insert_of(b"insert into db.`format` (a, `values`) settings x = 'format', y=1 format CSV 1,2"),
            ("insert into db.`format` (a, `values`)", "settings x = 'format', y=1", Some("CSV"), b"1,2".as_slice())
        );
        assert_eq!(insert_of(b"INSERT INTO t(a) VALUES (1),(2)"), ("INSERT INTO t(a)", "", Some("Values"), b" (1),(2)".as_slice()));
        assert_eq!(insert_of(b"INSERT INTO format VALUES (1)"), ("INSERT INTO format", "", Some("Values"), b" (1)".as_slice()));
        assert_eq!(insert_of(b"INSERT INTO t (a, b)"), ("INSERT INTO t (a, b)", "", None, b"".as_slice()));
    }

    #[test]
    fn insert_select_is_a_query() {
        let query = query_of("INSERT INTO t SELECT 1 AS format FROM (SELECT 2) SETTINGS a = 1;");
        assert!(!query.is_select);
        assert_eq!(query.format, None);
    }

    #[test]
    fn format_is_the_last_word_pair_outside_brackets() {
        assert_eq!(query_of("SELECT 'FORMAT x' FROM (SELECT 1 FORMAT) /* FORMAT z */ FORMAT JSON -- FORMAT q").format, Some("JSON"));
        assert_eq!(query_of("SELECT $a$ FORMAT x; $a$, {p:String}").format, None);
        assert_eq!(query_of("SELECT 1 FORMAT CSV SETTINGS max_threads = 1;").format, Some("CSV"));
        assert_eq!(query_of("SELECT format x FROM t WHERE format = 1").format, None);
        assert!(query_of("WITH 1 AS a SELECT a").is_select);
        assert!(query_of("(SELECT 1) UNION ALL (SELECT 2)").is_select);
        assert!(query_of("CREATE TEMPORARY TABLE x (a Int8)").changes_session);
    }

    #[test]
    fn one_statement_at_a_time() {
        assert_eq!(query_of("SELECT 1 ; -- done").text, "SELECT 1 ");
        assert_eq!(parse(b"SELECT 1; DROP TABLE t"), Err(Refusal::SeveralStatements));
        let quoted = "SELECT ';', `;`, \";\", '\\';', ''';'";
        assert_eq!(query_of(quoted).text, quoted);
        assert_eq!(parse(b" -- nothing\n"), Err(Refusal::Empty));
        assert_eq!(parse(b"SELECT 1 INTO OUTFILE '/etc/x'"), Err(Refusal::NotOverHttp("INTO OUTFILE")));
    }
}
