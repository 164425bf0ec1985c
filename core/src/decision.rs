//! The id of a decision, which becomes its event's identity: a UUID in the layout of version 7, milliseconds since 1970
//! in the first 48 bits, so that the ledger and the events of an hour are compared by it. A decision about mirrored
//! traffic has version 8 in its place.
//!
//! So the id itself says that a call is a copy. Farebox makes it and the gateway passes it on; a header or a field of a
//! log that says "mirrored" could come from a client who wants a call for nothing, and is believed only in what was
//! never decided.

use chrono::{DateTime, Utc};
use uuid::{NoContext, Timestamp, Uuid};

/// What an event of mirrored traffic is marked as.
pub const MIRROR: &str = "mirror";

/// What an event is marked as that stands in for a call whose log was lost, made from its decision.
pub const STAND_IN: &str = "from_decision";

/// A new one, for a decision taken at this time.
pub fn new_id(at: DateTime<Utc>, mirrored: bool) -> Uuid {
    let id = Uuid::new_v7(Timestamp::from_unix(NoContext, u64::try_from(at.timestamp()).unwrap_or(0), at.timestamp_subsec_nanos()));
    if !mirrored {
        return id;
    }
    let mut bytes = id.into_bytes();
    bytes[6] = 0x80 | (bytes[6] & 0x0f);
    Uuid::from_bytes(bytes)
}

/// When it was taken, to the millisecond. None of what is no id of ours.
pub fn taken_at(id: &str) -> Option<DateTime<Utc>> {
    let millis = Uuid::try_parse(id).ok()?.as_u128() >> 80;
    DateTime::from_timestamp_millis(i64::try_from(millis).ok()?)
}

/// Whether it was a decision about mirrored traffic.
pub fn is_of_mirror(id: &str) -> bool {
    Uuid::try_parse(id).is_ok_and(|id| id.get_version_num() == 8)
}

/// Of a call that was decided, the decision says whether it is a copy; what else claims it is not believed.
pub fn marker(decision: &str, claimed: String) -> String {
    match (decision.is_empty(), claimed.as_str()) {
        (false, _) if is_of_mirror(decision) => MIRROR.to_owned(),
        (false, MIRROR) => String::new(),
        _ => claimed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_its_time_and_whether_it_is_of_a_copy() {
        let at: DateTime<Utc> = "2026-11-21T13:40:35.453Z".parse().expect("a time");
        for mirrored in [false, true] {
            let id = new_id(at, mirrored).simple().to_string();
            assert_eq!(taken_at(&id), Some(at));
            assert_eq!(is_of_mirror(&id), mirrored);
        }
        assert!(!is_of_mirror("") && !is_of_mirror("mirror") && !is_of_mirror(&Uuid::nil().to_string()));
    }

    #[test]
    fn a_claim_is_not_believed_of_a_call_that_was_decided() {
        let (own, copy) = (new_id(Utc::now(), false).to_string(), new_id(Utc::now(), true).to_string());
        assert_eq!(marker(&own, MIRROR.to_owned()), "");
        assert_eq!(marker(&copy, String::new()), MIRROR);
        assert_eq!(marker(&own, "health_check".to_owned()), "health_check");
        assert_eq!(marker("", MIRROR.to_owned()), MIRROR);
    }
}
