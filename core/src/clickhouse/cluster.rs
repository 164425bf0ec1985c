//! The same migrations for a ClickHouse cluster: each table becomes a replicated one on every shard, `<name>_local`, and
//! a distributed one in front of it under the table's own name.
//!
//! Rows that must meet lie on one shard. Events go by workspace and identity, so that copies replace each other and the
//! repair of duplicates finds them; rollups by workspace and consumer; what plans are made of by workspace.

/// What a table is sharded by.
fn shard_key(table: &str) -> &'static str {
    match table {
        "events" | "dead_letters" => "sipHash64(workspace, id)",
        "billing_minute" | "billing_hour" | "billing_day" | "routes_minute" | "routes_hour" | "routes_day" | "activity_day"
        | "meter_minute" | "meter_hour" | "meter_day" | "decisions" => "sipHash64(workspace, consumer)",
        "migrations" => "sipHash64(name)",
        table if table.starts_with("backfill_") => "sipHash64(workspace, id)",
        _ => "sipHash64(workspace)",
    }
}

/// The table that a statement is about, and what stands before and after its name.
fn split<'a>(statement: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    let rest = statement.strip_prefix(start)?.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    Some(rest.split_at(end))
}

/// A statement of a migration as those that a cluster needs. One that is neither a table nor a change of one stays.
pub(super) fn statements(statement: &str, cluster: &str, database: &str) -> Vec<String> {
    for create in ["CREATE TABLE IF NOT EXISTS", "CREATE TABLE"] {
        if let Some((table, rest)) = split(statement, create) {
            return vec![local(create, table, rest, cluster), distributed(create, table, cluster, database)];
        }
    }
    match split(statement, "ALTER TABLE") {
        Some((table, rest)) => altered(table, rest, cluster),
        None => vec![statement.to_owned()],
    }
}

fn local(create: &str, table: &str, rest: &str, cluster: &str) -> String {
    let replicated = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'";
    let engine = rest.find("ENGINE").map(|at| at + "ENGINE".len());
    let Some((before, after)) = engine.map(|at| rest.split_at(at)) else {
        return format!("{create} {table}_local ON CLUSTER '{cluster}'{rest}");
    };
    // `ENGINE = ReplacingMergeTree(version)` and `ENGINE = MergeTree`.
    let after = after.trim_start().trim_start_matches('=').trim_start();
    let end = after.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(after.len());
    let (name, arguments) = after.split_at(end);
    let arguments = match arguments.strip_prefix('(') {
        Some(own) => format!("({replicated}, {own}"),
        None => format!("({replicated}){arguments}"),
    };
    format!("{create} {table}_local ON CLUSTER '{cluster}'{before} = Replicated{name}{arguments}")
}

fn distributed(create: &str, table: &str, cluster: &str, database: &str) -> String {
    let key = shard_key(table);
    format!(
        "{create} {table} ON CLUSTER '{cluster}' AS {table}_local ENGINE = Distributed('{cluster}', '{database}', '{table}_local', {key})"
    )
}

/// Columns are known to both tables; indexes, order and expiry to the local one alone, a column's own expiry, too.
fn altered(table: &str, rest: &str, cluster: &str) -> Vec<String> {
    let mut found = vec![format!("ALTER TABLE {table}_local ON CLUSTER '{cluster}'{rest}")];
    let columns = parts(rest).into_iter().filter(|part| part.contains(" COLUMN "));
    let columns: Vec<_> = columns.map(|part| part.split(" TTL ").next().unwrap_or_default().to_owned()).collect();
    if !columns.is_empty() {
        found.push(format!("ALTER TABLE {table} ON CLUSTER '{cluster}' {}", columns.join(", ")));
    }
    found
}

/// What stands between commas that are in no brackets.
fn parts(text: &str) -> Vec<String> {
    let (mut found, mut depth, mut part) = (Vec::new(), 0_i32, String::new());
    for c in text.trim().chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(std::mem::take(&mut part).trim().to_owned());
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    found.push(part.trim().to_owned());
    found
}

/// What every question and insert to a cluster carries: inserts are there when they are acknowledged, on most replicas
/// of their shard, and questions see them; what a question asks in brackets is asked of the whole cluster; what is
/// selected to be inserted goes by the shard key of where it is inserted. A deletion of superseded rows asks which ones
/// are current: replicas that ask at another moment delete the same ones, or some later.
pub(super) const SETTINGS: [(&str, &str); 7] = [
    ("distributed_foreground_insert", "1"),
    ("insert_quorum", "auto"),
    ("select_sequential_consistency", "1"),
    ("insert_quorum_parallel", "0"),
    ("distributed_product_mode", "global"),
    ("parallel_distributed_insert_select", "0"),
    ("allow_nondeterministic_mutations", "1"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_becomes_a_replicated_and_a_distributed_one() {
        let made = statements(
            "CREATE TABLE events\n(\n    id String\n)\nENGINE = ReplacingMergeTree(version, is_deleted)\nORDER BY id",
            "c",
            "farebox",
        );
        assert_eq!(
            made,
            [
                "CREATE TABLE events_local ON CLUSTER 'c'\n(\n    id String\n)\nENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version, is_deleted)\nORDER BY id",
                "CREATE TABLE events ON CLUSTER 'c' AS events_local ENGINE = Distributed('c', 'farebox', 'events_local', sipHash64(workspace, id))",
            ]
        );
    }

    #[test]
    fn only_columns_are_changed_in_front() {
        let made = statements("ALTER TABLE decisions\n    ADD COLUMN api LowCardinality(String),\n    MODIFY ORDER BY (a, b)", "c", "f");
        assert_eq!(made[1], "ALTER TABLE decisions ON CLUSTER 'c' ADD COLUMN api LowCardinality(String)");
        let made = statements("ALTER TABLE decisions ADD COLUMN ids String TTL minute + INTERVAL 90 DAY", "c", "f");
        assert_eq!(made[1], "ALTER TABLE decisions ON CLUSTER 'c' ADD COLUMN ids String", "it expires where it lies");
        assert_eq!(statements("ALTER TABLE events ADD INDEX by_id id TYPE bloom_filter(0.01) GRANULARITY 1", "c", "f").len(), 1);
    }
}
