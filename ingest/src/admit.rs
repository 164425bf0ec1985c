//! From what a record says to the event that is written: identity, window of time, bounds of texts. Alike for every
//! format and way.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::decision;
use farebox_core::event::{self, RequestData, SpecVersion, UsageEvent};
use farebox_core::ids::WorkspaceId;
use farebox_core::intake_settings::{self, IntakeSettings};
use farebox_core::{App, clock, source, workspace};

use crate::formats::Draft;
use crate::verdict::{Reason, Rejection};

/// What a workspace takes in.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    pub window: IntakeSettings,
    /// Sources that may send older events.
    pub backfill: HashSet<String>,
    /// How far a test workspace's clock runs ahead.
    pub clock_ahead: TimeDelta,
}

impl Permissions {
    pub async fn of(app: &App, workspace: &WorkspaceId) -> anyhow::Result<Self> {
        let mut conn = app.pg.acquire().await?;
        let sources = source::of_workspace(&mut conn, workspace).await?;
        let clock = workspace::by_id(&mut conn, workspace).await?.map(|w| w.clock).unwrap_or_default();
        let window = intake_settings::of(&mut conn, workspace).await?;
        let backfill = sources.into_iter().filter(|s| s.backfill).map(|s| s.name).collect();
        Ok(Self { window, backfill, clock_ahead: clock.now() - clock::now() })
    }
}

/// What is known of a record beside its content.
#[derive(Debug, Clone)]
pub struct Arrival<'a> {
    pub workspace: &'a WorkspaceId,
    /// The source it came through.
    pub source: &'a str,
    pub received_at: DateTime<Utc>,
    /// The id when it carries none.
    pub fallback_id: &'a str,
}

pub fn admit(mut draft: Draft, arrival: &Arrival, permissions: &Permissions) -> Result<UsageEvent, Rejection> {
    let source = draft.source.take().unwrap_or_else(|| arrival.source.to_owned());
    let id = draft.id.take().unwrap_or_else(|| arrival.fallback_id.to_owned());
    let check = || {
        check_lengths(&draft, &source, &id)?;
        check_time(draft.time.unwrap_or(arrival.received_at), arrival, permissions, &source)
    };
    let time = check().map_err(|rejection: Rejection| rejection.of_event(&source, &id))?;
    let data = RequestData { marker: decision::marker(&draft.data.decision, draft.data.marker), ..draft.data };
    Ok(UsageEvent {
        specversion: SpecVersion::V1,
        id: event::identity(&source, &id, &data.decision),
        source,
        kind: draft.kind,
        time,
        subject: draft.subject,
        workspace: arrival.workspace.clone(),
        received_at: arrival.received_at,
        data,
    })
}

fn check_time(time: DateTime<Utc>, arrival: &Arrival, permissions: &Permissions, source: &str) -> Result<DateTime<Utc>, Rejection> {
    let IntakeSettings { back_days, ahead_minutes, .. } = permissions.window;
    if time > arrival.received_at + permissions.clock_ahead + TimeDelta::minutes(ahead_minutes.into()) {
        let detail = format!("The event's time is more than {ahead_minutes} minutes ahead. Check the sender's clock and the unit.");
        return Err(Rejection::new(Reason::TimeInFuture, "/time", detail));
    }
    let is_old = time < arrival.received_at - TimeDelta::days(back_days.into());
    let may_backfill = permissions.backfill.contains(source) || permissions.backfill.contains(arrival.source);
    if is_old && (!may_backfill || time < DateTime::UNIX_EPOCH + TimeDelta::days(3653)) {
        let detail = format!(
            "The event lies more than {back_days} days back. If it is history, give its source `backfill: true` in the catalogue and replay."
        );
        return Err(Rejection::new(Reason::TimeTooOld, "/time", detail));
    }
    Ok(time)
}

fn check_lengths(draft: &Draft, source: &str, id: &str) -> Result<(), Rejection> {
    let data = &draft.data;
    let texts: [(&str, &str, usize); 14] = [
        ("/source", source, 256),
        ("/id", id, 512),
        ("/type", &draft.kind, 128),
        ("/subject", &draft.subject, 256),
        ("/data/api", &data.api, 128),
        ("/data/api_version", &data.api_version, 64),
        ("/data/route", &data.route, 512),
        ("/data/method", &data.method, 32),
        ("/data/decision", &data.decision, 64),
        ("/data/credential", &data.credential, 256),
        ("/data/environment", &data.environment, 64),
        ("/data/gateway", &data.gateway, 128),
        ("/data/client_country", &data.client_country, 2),
        ("/data/marker", &data.marker, 32),
    ];
    for (pointer, text, most) in texts {
        if text.len() > most {
            return Err(Rejection::out_of_range(pointer, &format!("at most {most} bytes long")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Format;

    fn judge(time: DateTime<Utc>, permissions: &Permissions) -> Result<UsageEvent, Reason> {
        let record = format!(r#"{{"specversion":"1.0","id":"1","source":"edge","type":"t","time":"{}"}}"#, time.to_rfc3339());
        let draft = Format::cloudevents().decode(record.as_bytes()).expect("it is right");
        let workspace = WorkspaceId::new();
        let arrival = Arrival { workspace: &workspace, source: "token", received_at: now(), fallback_id: "f" };
        admit(draft, &arrival, permissions).map_err(|r| r.reason)
    }

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().expect("a time")
    }

    const BACK: TimeDelta = TimeDelta::days(35);
    const AHEAD: TimeDelta = TimeDelta::minutes(5);

    #[test]
    fn the_window_ends_exactly_where_it_says() {
        let ordinary = Permissions::default();
        let second = TimeDelta::seconds(1);
        let narrow = Permissions {
            window: IntakeSettings { back_days: 2, ahead_minutes: 0, ..IntakeSettings::default() },
            ..Permissions::default()
        };
        assert!(judge(now() - TimeDelta::days(2), &narrow).is_ok());
        assert_eq!(judge(now() - TimeDelta::days(2) - second, &narrow), Err(Reason::TimeTooOld));
        assert!(judge(now(), &narrow).is_ok());
        assert_eq!(judge(now() + second, &narrow), Err(Reason::TimeInFuture));
        assert!(judge(now() - BACK, &ordinary).is_ok());
        assert_eq!(judge(now() - BACK - second, &ordinary), Err(Reason::TimeTooOld));
        assert!(judge(now() + AHEAD, &ordinary).is_ok());
        assert_eq!(judge(now() + AHEAD + second, &ordinary), Err(Reason::TimeInFuture));
    }

    #[test]
    fn permission_reaches_back_and_a_test_clock_ahead() {
        let backfill = Permissions { backfill: ["edge".to_owned()].into(), ..Permissions::default() };
        assert!(judge(now() - TimeDelta::days(400), &backfill).is_ok());
        assert_eq!(judge(DateTime::UNIX_EPOCH, &backfill), Err(Reason::TimeTooOld), "seconds taken for milliseconds");
        let ahead = Permissions { clock_ahead: TimeDelta::days(31), ..Permissions::default() };
        assert!(judge(now() + TimeDelta::days(31), &ahead).is_ok());
        assert_eq!(judge(now() + TimeDelta::days(32), &ahead), Err(Reason::TimeInFuture));
    }

    #[test]
    fn a_decision_is_the_identity_whatever_the_id() {
        let workspace = WorkspaceId::new();
        let arrival = Arrival { workspace: &workspace, source: "edge", received_at: now(), fallback_id: "f" };
        let mut draft = Format::cloudevents().decode(br#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#).expect("it is right");
        assert_eq!(admit(draft.clone(), &arrival, &Permissions::default()).expect("in the window").id, "s/1");
        draft.data.decision = "d1".to_owned();
        assert_eq!(admit(draft, &arrival, &Permissions::default()).expect("in the window").id, "dec:d1");
    }

    #[test]
    fn a_call_is_a_copy_when_its_decision_says_so_and_not_when_a_header_does() {
        let workspace = WorkspaceId::new();
        let arrival = Arrival { workspace: &workspace, source: "edge", received_at: now(), fallback_id: "f" };
        let marker = |decision: String, claimed: &str| {
            let record = format!(
                r#"{{"specversion":"1.0","id":"1","source":"s","type":"farebox.request.v1","data":{{"status":200,"decision":"{decision}","marker":"{claimed}"}}}}"#
            );
            let draft = Format::cloudevents().decode(record.as_bytes()).expect("it is right");
            admit(draft, &arrival, &Permissions::default()).expect("in the window").data.marker
        };
        let decided = |mirrored| decision::new_id(now(), mirrored).simple().to_string();
        assert_eq!(marker(decided(false), "mirror"), "", "it would be free");
        assert_eq!(marker(decided(true), ""), "mirror");
        assert_eq!(marker(String::new(), "mirror"), "mirror", "a program's own word");
    }
}
