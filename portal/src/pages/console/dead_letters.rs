//! Rejected events: why, how many, what exactly came, and back through the door after a fix.

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_core::audit_log;
use farebox_core::ids::DeadLetterId;
use farebox_ingest::dead_letter::DeadLetter;
use farebox_ingest::dead_letters::{self, Filter, LetterCount};
use farebox_ingest::replay;
use farebox_ingest::verdict::Reason;
use serde::Deserialize;
use serde_json::json;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Badge, Cell, Code, Column, Facts, Note, Shell, Table, Tone};
use crate::{Portal, csv, format, words};

/// Letters on a page, and in a file.
const PAGE: usize = 50;
const FILE: u64 = 10_000;
/// Characters of a body that are shown; the file has all of it.
const SHOWN: usize = 20_000;

#[derive(Debug, Clone, Template)]
#[template(path = "console/dead_letters.html")]
pub struct DeadLettersPage {
    pub shell: Shell,
    pub subtitle: String,
    pub note: Option<Note>,
    pub search: String,
    pub reasons: Vec<(String, String, bool)>,
    pub all: bool,
    pub table: Table,
    /// Whether anything was ever rejected.
    pub any: bool,
    pub next: Option<String>,
    pub csv: String,
    /// The reason that a replay is narrowed to; empty for all.
    pub reason: String,
    pub replayable: String,
    pub may_replay: bool,
}

#[derive(Debug, Clone, Template)]
#[template(path = "console/dead_letter.html")]
pub struct DeadLetterPage {
    pub shell: Shell,
    pub title: String,
    pub note: Option<Note>,
    pub state: Badge,
    pub facts: Facts,
    pub body: Code,
    pub body_note: String,
    pub id: String,
    pub may_replay: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    q: String,
    reason: String,
    /// `all`: those that a replay brought in, too.
    show: String,
    after: String,
    /// What a replay came to.
    read: Option<u64>,
    accepted: Option<u64>,
}

impl Asked {
    fn filter(&self) -> Filter {
        let some = |text: &str| (!text.trim().is_empty()).then(|| text.trim().to_owned());
        Filter { reason: some(&self.reason), text: some(&self.q), with_resolved: self.show == "all", ..Filter::default() }
    }

    fn query(&self) -> String {
        let mut out = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("q", &self.q), ("reason", &self.reason), ("show", &self.show)] {
            if !value.is_empty() {
                out.append_pair(name, value);
            }
        }
        out.finish()
    }

    /// Where the page starts: `<microseconds>/<id>`.
    fn after(&self) -> Option<(i64, &str)> {
        let (at, id) = self.after.split_once('/')?;
        Some((at.parse().ok()?, id))
    }
}

/// Outstanding ones by reason and source.
pub fn count_table(counts: &[LetterCount]) -> Table {
    let columns = vec![
        Column::text("Reason"),
        Column::text("Source"),
        Column::text("Format"),
        Column::number("Outstanding"),
        Column::number("Replayed"),
    ];
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|count| std::cmp::Reverse((count.outstanding, count.n)));
    Table::new("Dead letters by reason", columns).dense().rows(counts.into_iter().map(|count| {
        vec![
            Cell::text(words::title(&count.reason)),
            Cell::text(&count.source),
            Cell::text(&count.format),
            Cell::text(format::count(count.outstanding)),
            Cell::text(format::count(count.n - count.outstanding)),
        ]
    }))
}

pub async fn list(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (app, workspace) = (&portal.app, &ctx.workspace.id);
    let filter = asked.filter();
    let (mut letters, counts) = tokio::try_join!(
        dead_letters::list(app, workspace, &filter, PAGE as u64 + 1, asked.after()),
        dead_letters::counts(app, workspace)
    )?;
    let more = letters.len() > PAGE;
    letters.truncate(PAGE);
    let outstanding =
        |of: &dyn Fn(&LetterCount) -> bool| counts.iter().filter(|count| of(count)).map(|count| count.outstanding).sum::<u64>();
    let all = outstanding(&|_| true);
    let mut reasons = vec![(String::new(), format!("All reasons ({})", format::count(all)), asked.reason.is_empty())];
    reasons.extend(Reason::ALL.iter().map(|reason| reason.as_str()).filter(|reason| counts.iter().any(|c| c.reason == *reason)).map(
        |reason| {
            let n = outstanding(&|count| count.reason == reason);
            (reason.to_owned(), format!("{} ({})", words::title(reason), format::count(n)), asked.reason == reason)
        },
    ));
    let replayable = if asked.reason.is_empty() { all } else { outstanding(&|count| count.reason == asked.reason) };
    let query = asked.query();
    let last = letters.last().filter(|_| more).map(|last| format!("{}/{}", last.received_at.timestamp_micros(), last.id));
    page(&DeadLettersPage {
        shell: ctx.shell("Dead letters", "/console/pipeline"),
        subtitle: format!("{} wait for a fix.", format::counted(i64::try_from(all).unwrap_or(i64::MAX), "event", "events")),
        note: replayed(&asked),
        search: asked.q.clone(),
        reasons,
        all: asked.show == "all",
        table: table(&letters, &ctx),
        any: counts.iter().any(|count| count.n > 0),
        next: last.map(|after| {
            let after: String = url::form_urlencoded::byte_serialize(after.as_bytes()).collect();
            format!("/console/dead-letters?{query}&after={after}")
        }),
        csv: format!("/console/dead-letters.csv?{query}"),
        replayable: if replayable == 0 { String::new() } else { format::count(replayable) },
        reason: asked.reason,
        may_replay: ctx.may_post("/console/dead-letters/replay"),
    })
}

fn replayed(asked: &Asked) -> Option<Note> {
    let (read, accepted) = (asked.read?, asked.accepted?);
    let kept = read.saturating_sub(accepted);
    let title =
        format!("{} of {} let in.", format::count(accepted), format::counted(i64::try_from(read).unwrap_or(i64::MAX), "event", "events"));
    Some(match kept {
        0 => Note::new(Tone::Ok, title, "They are counted within seconds, each once."),
        _ => Note::new(Tone::Warn, title, "The others were rejected again and stay here with their reason."),
    })
}

fn table(letters: &[DeadLetter], ctx: &Ctx) -> Table {
    let columns = vec![Column::text("When"), Column::text("Source"), Column::text("Reason"), Column::text("Detail")];
    Table::new("Dead letters, the newest first", columns).dense().rows(letters.iter().map(|letter| {
        let reason = Cell::text(words::title(&letter.reason));
        vec![
            Cell::link(format::instant(letter.received_at, ctx.tz()), format!("/console/dead-letters/{}", letter.id)),
            Cell::text(&letter.source).sub(&letter.format),
            match letter.event_id.as_str() {
                "" => reason,
                id => reason.sub(format!("event {}", format::abbreviated(id, 24, 8))),
            },
            Cell::text(&letter.detail),
        ]
    }))
}

pub async fn file(State(portal): State<Portal>, ctx: Ctx, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let letters = dead_letters::list(&portal.app, &ctx.workspace.id, &asked.filter(), FILE, None).await?;
    let head = ["id", "received_at", "source", "format", "reason", "detail", "event_source", "event_id", "origin", "body_base64"];
    let rows = letters.into_iter().map(|l| {
        vec![
            l.id.to_string(),
            l.received_at.to_rfc3339(),
            l.source,
            l.format,
            l.reason,
            l.detail,
            l.event_source,
            l.event_id,
            l.origin,
            l.body,
        ]
    });
    Ok(csv::file("dead-letters", &head, rows))
}

async fn find(portal: &Portal, ctx: &Ctx, id: &str) -> Result<(DeadLetter, bool), Failure> {
    let missing = || Failure::not_found("dead letter");
    let id: DeadLetterId = id.parse().map_err(|_| missing())?;
    dead_letters::get(&portal.app, &ctx.workspace.id, &id).await?.ok_or_else(missing)
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let (letter, resolved) = find(&portal, &ctx, &id).await?;
    let bytes = letter.all_bytes();
    let text = readable(&bytes);
    let shown: String = text.chars().take(SHOWN).collect();
    let cut = shown.len() < text.len();
    let size = format::counted(i64::try_from(bytes.len()).unwrap_or(i64::MAX), "byte", "bytes");
    page(&DeadLetterPage {
        shell: ctx.shell("Dead letter", "/console/pipeline"),
        title: words::title(&letter.reason),
        note: replayed(&asked),
        state: if resolved { Badge::new(Tone::Ok, "Let in by a replay") } else { Badge::plain("Waits for a fix") },
        facts: Facts::default()
            .with("What to correct", &letter.detail)
            .with("Received", format::instant(letter.received_at, ctx.tz()))
            .with("Source", format!("{}, {}", letter.source, letter.format))
            .cell("Event", Cell::mono(if letter.event_id.is_empty() { "–" } else { &letter.event_id }))
            .with("Event's source", if letter.event_source.is_empty() { "–" } else { &letter.event_source })
            .cell("Where it stood", Cell::mono(&letter.origin))
            .cell("Id", Cell::mono(letter.id.as_str())),
        body: Code::new("the bytes as they came", shown),
        body_note: if letter.truncated {
            format!("{size} of it were kept: it was longer than a dead letter can be, and cannot be replayed.")
        } else if cut {
            format!("{size}; the beginning is shown.")
        } else {
            format!("{size}, as they came.")
        },
        id,
        may_replay: !resolved && !letter.truncated && ctx.may_post("/console/dead-letters/replay"),
    })
}

/// JSON by lines and levels, other text as it is, and bytes that are no text in hex.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => indented(text),
        Ok(text) => text.to_owned(),
        Err(_) => {
            let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            bytes.chunks(16).map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Whitespace apart, not a character is changed: numbers keep their digits, keys their order.
fn indented(json: &str) -> String {
    let (mut out, mut level, mut in_text, mut escaped) = (String::with_capacity(json.len() * 2), 0_usize, false, false);
    let mut letters = json.chars().filter(|c| *c != '\r').peekable();
    let line = |out: &mut String, level: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(level.min(40)));
    };
    while let Some(c) = letters.next() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                in_text = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while letters.peek().is_some_and(char::is_ascii_whitespace) {
                    letters.next();
                }
                if !matches!(letters.peek(), Some('}' | ']')) {
                    level += 1;
                    line(&mut out, level);
                } else if let Some(end) = letters.next() {
                    out.push(end);
                }
            }
            '}' | ']' => {
                level = level.saturating_sub(1);
                line(&mut out, level);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, level);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// The bytes as a file. Never shown as a page, whatever they are.
pub async fn body(State(portal): State<Portal>, ctx: Ctx, Path(id): Path<String>) -> Result<Response, Failure> {
    let (letter, _) = find(&portal, &ctx, &id).await?;
    let name = format!("attachment; filename=\"{}.bin\"", letter.id);
    let name = HeaderValue::from_str(&name).map_err(|e| Failure::internal(&e))?;
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)], letter.all_bytes()).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Replay {
    reason: String,
    id: String,
}

pub async fn submit(State(portal): State<Portal>, ctx: Ctx, Form(form): Form<Replay>) -> Result<Response, Failure> {
    let workspace = &ctx.workspace.id;
    let (filter, back) = if form.id.is_empty() {
        let reason = (!form.reason.is_empty()).then(|| form.reason.clone());
        if reason.as_deref().is_some_and(|reason| Reason::parse(reason).is_none()) {
            return Err(Failure::not_found("reason"));
        }
        (Filter { reason, ..Filter::default() }, format!("/console/dead-letters?reason={}", form.reason))
    } else {
        let (letter, _) = find(&portal, &ctx, &form.id).await?;
        let back = format!("/console/dead-letters/{}?", letter.id);
        (Filter { id: Some(letter.id), ..Filter::default() }, back)
    };
    let report = replay(&portal.app, workspace, &filter).await?;
    let detail = json!({ "reason": form.reason, "letter": form.id, "read": report.read, "accepted": report.accepted });
    let mut conn = portal.app.pg.acquire().await?;
    audit_log::record(&mut conn, workspace, ctx.session()?.person.id.as_str(), "dead_letters.replay", workspace.as_str(), &detail).await?;
    Ok(Redirect::to(&format!("{back}&read={}&accepted={}", report.read, report.accepted)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_without_changing_a_character_of_it() {
        let json = r#"{"a":[1.10,{"b":"x, \"y\": {}"}],"empty":{},"n":[ ]}"#;
        insta::assert_snapshot!(indented(json), @r#"
        {
          "a": [
            1.10,
            {
              "b": "x, \"y\": {}"
            }
          ],
          "empty": {},
          "n": []
        }
        "#);
    }

    #[test]
    fn what_is_no_json_is_shown_as_it_came_and_what_is_no_text_in_hex() {
        assert_eq!(readable(b"GET /orders 200"), "GET /orders 200");
        assert_eq!(readable(&[0, 255, 16]), "00 ff 10");
        assert_eq!(readable(b"{\"cut"), "{\"cut");
    }
}
