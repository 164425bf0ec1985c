//! The APIs of the file with their versions, and the sources that tell of their calls.

use chrono::NaiveDate;
use farebox_core::source::FORMATS;
use farebox_metering::apis::ApiVersion;

use super::check::unique;
use super::errors::Errors;
use super::raw::{At, RawCatalog};

#[derive(Debug, Clone, PartialEq)]
pub struct SourceEntry {
    pub name: String,
    pub format: String,
    pub kafka_topic: Option<String>,
    pub backfill: bool,
    /// From where (CIDR) it may ask for decisions without a token.
    pub networks: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ApiEntry {
    pub name: String,
    pub product: String,
    pub versions: Vec<ApiVersion>,
}

pub fn sources(raw: &RawCatalog, errors: &mut Errors) -> Vec<SourceEntry> {
    unique(raw.sources.iter().enumerate().map(|(n, s)| (&s.name, format!("sources[{n}].name"))), "source", errors);
    unique(raw.formats.iter().enumerate().map(|(n, f)| (&f.name, format!("formats[{n}].name"))), "format", errors);
    for (n, source) in raw.sources.iter().enumerate() {
        let format = &source.format.value;
        if !FORMATS.contains(&format.as_str()) && !raw.formats.iter().any(|own| own.name.value == *format) {
            let message =
                format!("there is no format `{format}`; write one of {}, or one that this file has under `formats`", FORMATS.join(", "));
            errors.at(&source.format, &format!("sources[{n}].format"), message);
        }
        for (m, network) in source.networks.iter().enumerate().filter(|(_, network)| !farebox_core::source::is_network(&network.value)) {
            errors.at(network, &format!("sources[{n}].networks[{m}]"), "is no network; write it as 10.0.0.0/8 or as an address");
        }
    }
    raw.sources
        .iter()
        .map(|source| SourceEntry {
            name: source.name.value.clone(),
            format: source.format.value.clone(),
            kafka_topic: source.kafka_topic.as_ref().map(|topic| topic.value.clone()),
            backfill: source.backfill,
            networks: source.networks.iter().map(|network| network.value.clone()).collect(),
        })
        .collect()
}

pub fn read(raw: &RawCatalog, errors: &mut Errors) -> Vec<ApiEntry> {
    unique(raw.apis.iter().enumerate().map(|(n, a)| (&a.name, format!("apis[{n}].name"))), "api", errors);
    let mut apis = Vec::new();
    for (n, api) in raw.apis.iter().enumerate() {
        unique(
            api.versions.iter().enumerate().map(|(k, v)| (&v.name, format!("apis[{n}].versions[{k}].name"))),
            "version of the api",
            errors,
        );
        let mut versions = Vec::new();
        for (k, version) in api.versions.iter().enumerate() {
            let path = format!("apis[{n}].versions[{k}]");
            let mut date = |text: &Option<At<String>>, field: &str| {
                let text = text.as_ref()?;
                let parsed = text.value.parse::<NaiveDate>().map_err(|_| format!("`{}` is not a date such as 2026-09-01", text.value));
                errors.keep(parsed, text, &format!("{path}.{field}"))
            };
            let (deprecated, sunset) = (date(&version.deprecated, "deprecated"), date(&version.sunset, "sunset"));
            if let (Some(from), Some(until), Some(place)) = (deprecated, sunset, &version.sunset)
                && until < from
            {
                errors.at(place, &format!("{path}.sunset"), "is before the version is deprecated");
            }
            versions.push(ApiVersion { name: version.name.value.clone(), deprecated, sunset });
        }
        versions.sort_by(|a, b| a.name.cmp(&b.name));
        let product = api.product.as_ref().map_or_else(|| "default".to_owned(), |product| product.value.clone());
        apis.push(ApiEntry { name: api.name.value.clone(), product, versions });
    }
    apis
}
