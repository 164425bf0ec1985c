//! Traefik's access log by OTLP: the fields of its JSON log (see [`super::traefik`]) as attributes. `StartUTC` is a
//! number of nanoseconds here, numbers are numbers; the body, which repeats the whole line as text, is not read.

use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::otlp::{self, Attributes};
use super::{Draft, traefik};
use crate::verdict::Rejection;

pub fn decode(record: &[u8]) -> Result<Draft, Rejection> {
    decode_record(&otlp::record(record)?)
}

pub fn decode_record(record: &LogRecord) -> Result<Draft, Rejection> {
    traefik::draft(&Attributes::of(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::sample;

    /// The same call, whichever way it comes.
    #[test]
    fn the_record_says_what_the_line_says() {
        let (line, record) = (traefik::decode(sample("traefik").as_bytes()), decode(sample("traefik_otlp").as_bytes()));
        assert_eq!(line.expect("a true sample"), record.expect("a true sample"));
        let id = |text: &str| text.replace("request_X-Farebox-Decision", "request_X-Request-Id");
        let line = traefik::decode(id(sample("traefik")).as_bytes()).expect("it is right").id;
        assert!(line.is_some());
        assert_eq!(line, decode(id(sample("traefik_otlp")).as_bytes()).expect("it is right").id);
    }
}
