//! What holds for every format: a verdict on any bytes, never a panic; nothing kept is longer than may come in.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use super::*;
use crate::verdict::Reason;

/// Judges a record as it would be judged on its way in.
fn judge(format: &Format, record: &[u8]) -> Result<(), Reason> {
    let workspace = farebox_core::ids::WorkspaceId::new();
    let arrival = crate::admit::Arrival { workspace: &workspace, source: "edge", received_at: received(), fallback_id: "f" };
    let admitted = format.decode(record).and_then(|draft| crate::admit::admit(draft, &arrival, &crate::admit::Permissions::default()));
    admitted.map(|event| assert!(serde_json::to_vec(&event).is_ok())).map_err(|rejection| {
        assert!(!rejection.detail.is_empty());
        rejection.reason
    })
}

fn received() -> DateTime<Utc> {
    "2026-11-21T14:00:00Z".parse().expect("a time")
}

fn formats() -> Vec<(Format, &'static str)> {
    SAMPLES.iter().map(|(name, sample)| (Format::parse(name).expect("it is in the list"), sample.trim_end())).collect()
}

#[test]
fn every_sample_comes_in() {
    for (format, sample) in formats() {
        assert_eq!(judge(&format, sample.as_bytes()), Ok(()), "{}", format.as_str());
    }
}

/// What fuzzing has found to reach code that nothing else does (`make fuzz`), by every format, not only its own; and what
/// is kept of it has its secrets masked once and for all, and decodes as it did.
#[test]
fn what_fuzzing_found_has_a_verdict() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let files =
        |directory: &std::path::Path| std::fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("an entry").path());
    let found: Vec<Vec<u8>> = files(&corpus).flat_map(|target| files(&target)).map(|file| std::fs::read(file).expect("a file")).collect();
    assert!(found.len() > 1000, "{} are there", found.len());
    for (format, _) in formats() {
        for record in &found {
            let kept = format.masked(record);
            assert_eq!(format.masked(&kept), kept, "{}: {}", format.as_str(), String::from_utf8_lossy(record));
            if judge(&format, record).is_ok() {
                assert_eq!(format.decode(&kept), format.decode(record), "{}: {}", format.as_str(), String::from_utf8_lossy(record));
            }
        }
    }
}

/// An id may look like a path with a query, in whatever way that is written.
#[test]
fn a_dead_letter_has_the_id_that_the_record_had() {
    let sample = SAMPLES.iter().find(|(name, _)| *name == "kong").expect("it is in the list").1;
    let format = Format::parse("kong").expect("it is in the list");
    let id = "5b1c1f0f7d0b4a1f8f0e6a2d4c9b7e31";
    for query in ["/7?apikey=s3cret", r"\/7\u003fapikey=s3cret", r"/7?apikey=s3cret\u0020again", "/7?\u{fffd}\u{fffd}"] {
        let record = sample.replace(id, &format!("{id}{query}")).replace('\u{fffd}', "\u{1}").into_bytes();
        let record: Vec<u8> = record.into_iter().map(|byte| if byte == 1 { 0xff } else { byte }).collect();
        let kept = format.masked(&record);
        let id = format.decode(&record).expect("it is right").id.expect("an id");
        assert!(id.contains("/7?sha256=") && !id.contains("s3cret"), "{id}");
        assert_eq!(format.decode(&kept).expect("it is right").id, Some(id), "{}", String::from_utf8_lossy(&kept));
    }
}

/// A secret is hashed whole, also where it looks like a path with a query.
#[test]
fn a_dead_letter_has_the_caller_that_the_record_had() {
    let format = Format::parse("tyk").expect("it is in the list");
    let record = super::sample("tyk").replacen("\"api_key\":\"", "\"api_key\":\"https://keys.example/a?b=", 1);
    let draft = format.decode(record.as_bytes()).expect("it is right");
    assert_eq!(format.decode(&format.masked(record.as_bytes())), Ok(draft.clone()));
    assert!(draft.subject.starts_with("sha256:") && draft.subject != format.decode(super::sample("tyk").as_bytes()).expect("true").subject);
}

#[test]
fn a_dead_letter_of_otlp_is_a_record_still() {
    let header = r#"{"key":"http.request.header.authorization","value":{"stringValue":"Bearer s3cret"}}"#;
    for (format, sample) in formats().into_iter().filter(|(format, _)| format.as_str().ends_with("_otlp")) {
        let record = sample.replacen(r#""attributes":["#, &format!(r#""attributes":[{header},"#), 1).into_bytes();
        let kept = format.masked(&record);
        assert!(record.len() > sample.len() && !String::from_utf8_lossy(&kept).contains("s3cret"));
        assert_eq!(format.decode(&kept), format.decode(&record), "{}", String::from_utf8_lossy(&kept));
        assert_eq!(judge(&format, &kept), Ok(()));
    }
}

/// Values that have broken readers before.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "null",
            "true",
            "-1",
            "0",
            "-0",
            "1e400",
            "-1e400",
            "1e-400",
            "18446744073709551616",
            "9223372036854775808",
            "0.1e1",
            "\"\"",
            "\"-\"",
            "\"NaN\"",
            "\"Infinity\"",
            "NaN",
            "Infinity",
            "[]",
            "{}",
            "\"9999-12-31T23:59:60Z\"",
            "\"-262143-01-01T00:00:00Z\"",
            "\"0000-00-00\"",
            "\"\\u0000\"",
            "\"\\ud800\"",
            "253402300800000",
            "-62135596800000",
            "[[[[[[[[]]]]]]]]",
            "\"2026-11-21T13:40:35+99:99\"",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        (any::<char>(), 1_usize..100_000).prop_map(|(c, n)| Value::from(c.to_string().repeat(n)).to_string()),
        (1_usize..200).prop_map(|n| format!("{}{}", "[".repeat(n), "]".repeat(n))),
    ]
}

/// The sample with the value of one member, at any depth, replaced.
fn replaced(sample: &str, at: &Index, with: &str) -> String {
    let mut value: Value = serde_json::from_str(sample).expect("a sample");
    let mut places = Vec::new();
    collect(&value, String::new(), &mut places);
    let place = at.get(&places);
    *value.pointer_mut(place).expect("it is there") = Value::from("\u{1}here\u{1}");
    value.to_string().replace("\"\\u0001here\\u0001\"", with)
}

fn collect(value: &Value, pointer: String, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                collect(value, format!("{pointer}/{}", crate::fields::escape(key)), into);
            }
        }
        Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                collect(value, format!("{pointer}/{n}"), into);
            }
        }
        _ => {}
    }
    if !pointer.is_empty() {
        into.push(pointer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes_have_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        for (format, _) in formats() {
            let _ = judge(&format, &bytes);
        }
    }

    /// Almost right: a true record with a few bytes changed.
    #[test]
    fn damaged_records_have_a_verdict(damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6)) {
        for (format, sample) in formats() {
            let mut bytes = sample.as_bytes().to_vec();
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let _ = judge(&format, &bytes);
        }
    }

    #[test]
    fn hostile_values_have_a_verdict(at: Index, value in hostile()) {
        for (format, sample) in formats() {
            let _ = judge(&format, replaced(sample, &at, &value).as_bytes());
        }
    }

    /// A second member of the same name is refused where it stands, and cut records are no records.
    #[test]
    fn cut_and_doubled_records_have_a_verdict(at: Index) {
        for (format, sample) in formats() {
            let cut = &sample.as_bytes()[..at.index(sample.len())];
            prop_assert!(judge(&format, cut).is_err(), "{}", format.as_str());
        }
    }
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    for (format, sample) in formats().into_iter().filter(|(format, _)| !format.as_str().ends_with("_otlp")) {
        let first = sample.split_once(':').expect("a member").0.trim_start_matches('{');
        let doubled = format!("{{{first}:1,{}", &sample[1..]);
        assert_eq!(judge(&format, doubled.as_bytes()), Err(Reason::DuplicateKey), "{}", format.as_str());
    }
}

#[test]
fn a_megabyte_of_text_is_no_matter() {
    let long = "x".repeat(1 << 20);
    for (format, sample) in formats().into_iter().filter(|(format, _)| format.as_str() != "cloudevents") {
        let name = if format.as_str().ends_with("_otlp") { "severityText" } else { "user_agent_of_the_client" };
        let mut value: Value = serde_json::from_str(sample).expect("a sample");
        value[name] = Value::from(long.as_str());
        assert_eq!(judge(&format, value.to_string().as_bytes()), Ok(()), "{}", format.as_str());
    }
}

#[test]
fn names_are_the_ones_that_the_catalogue_knows() {
    let mut known: Vec<&str> = BUILT_IN.iter().map(|format| format.name).collect();
    known.sort_unstable();
    assert_eq!(known, farebox_core::source::FORMATS);
}

#[test]
fn a_secret_is_kept_as_its_hash() {
    let secret = farebox_core::secret::Secret::generate("acme_live_");
    assert_eq!(without_secret(secret.reveal().to_owned()), hashed(secret.reveal()));
    assert_eq!(without_secret("initech-prod".to_owned()), "initech-prod");
}

#[test]
fn only_a_uuid_is_a_decision() {
    let right = uuid::Uuid::now_v7();
    assert_eq!(decision(right.simple().to_string()), right.simple().to_string());
    for wrong in ["200", "", "allow", &"x".repeat(32)] {
        assert_eq!(decision(wrong.to_owned()), "", "{wrong}");
    }
}
