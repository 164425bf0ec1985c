//! A person's words in dead letters: replaced where they stand by themselves, so that a replay counts for the same
//! consumer.

use farebox_core::App;
use farebox_core::ids::WorkspaceId;

/// Letters changed by one statement; a statement names every word.
const WORDS: usize = 50;

/// Replaces each word by its pseudonym in every dead letter of the workspace; returns how many had one.
pub async fn erase(app: &App, workspace: &WorkspaceId, words: &[(String, String)]) -> Result<u64, clickhouse::error::Error> {
    let mut changed = 0;
    for words in words.chunks(WORDS) {
        let patterns: Vec<_> = words.iter().map(|(word, _)| pattern(word)).collect();
        let has = format!("multiMatchAny(tryBase64Decode(body), [{}])", patterns.iter().map(|p| text(p)).collect::<Vec<_>>().join(", "));
        // No match, no rewriting of parts.
        let count = format!("SELECT count() FROM dead_letters WHERE workspace = '{workspace}' AND {has}");
        let found: u64 = app.clickhouse.query_raw(&count).fetch_one().await?;
        if found == 0 {
            continue;
        }
        let mut body = "tryBase64Decode(body)".to_owned();
        let mut detail = "detail".to_owned();
        for (pattern, (_, pseudonym)) in patterns.iter().zip(words) {
            let (pattern, by) = (text(pattern), text(&format!(r"\1{pseudonym}\2")));
            body = format!("replaceRegexpAll({body}, {pattern}, {by})");
            detail = format!("replaceRegexpAll({detail}, {pattern}, {by})");
        }
        let update = format!(
            "ALTER TABLE {} UPDATE body = base64Encode({body}), detail = {detail} WHERE workspace = '{workspace}' AND {has} SETTINGS mutations_sync = 2",
            farebox_core::clickhouse::altered(&app.config.clickhouse, "dead_letters")
        );
        app.clickhouse.query_raw(&update).execute().await?;
        changed += found;
    }
    Ok(changed)
}

/// The word between anything that could not belong to it.
fn pattern(word: &str) -> String {
    let escaped: String = word.chars().flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c])).collect();
    format!("(^|[^A-Za-z0-9_.@-]){escaped}($|[^A-Za-z0-9_.@-])")
}

/// As ClickHouse takes it in statements that have no parameters.
fn text(text: &str) -> String {
    format!("unhex('{}')", hex::encode(text))
}
