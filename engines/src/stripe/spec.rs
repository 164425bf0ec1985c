//! Stripe's published OpenAPI: the parameters of each route, and which members of an object may be null.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

/// The subset of JSON Schema that Stripe's document uses.
#[derive(Debug, Default, Deserialize)]
pub struct Schema {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub properties: BTreeMap<String, Schema>,
    #[serde(default)]
    pub required: Vec<String>,
    pub items: Option<Box<Schema>>,
    #[serde(default, rename = "anyOf")]
    pub any_of: Vec<Schema>,
    #[serde(rename = "enum")]
    pub one_of: Option<Vec<Value>>,
    #[serde(rename = "maxLength")]
    pub max_length: Option<usize>,
    pub format: Option<String>,
    #[serde(rename = "additionalProperties")]
    pub additional: Option<Additional>,
    #[serde(default)]
    pub nullable: bool,
    #[serde(rename = "$ref")]
    pub reference: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Additional {
    Allowed(bool),
    Of(Box<Schema>),
}

#[derive(Deserialize)]
struct Document {
    info: Info,
    paths: BTreeMap<String, BTreeMap<String, Operation>>,
    components: Components,
}

#[derive(Deserialize)]
struct Info {
    version: String,
}

#[derive(Deserialize)]
struct Components {
    schemas: BTreeMap<String, Schema>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    #[serde(default)]
    parameters: Vec<Parameter>,
    request_body: Option<RequestBody>,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
    #[serde(rename = "in")]
    place: String,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    schema: Schema,
}

#[derive(Deserialize)]
struct RequestBody {
    content: BTreeMap<String, Media>,
}

#[derive(Deserialize)]
struct Media {
    #[serde(default)]
    schema: Schema,
}

/// One path and method: how it is written in the document, and its parameters as one object.
#[derive(Debug)]
pub struct Route {
    pub method: String,
    pub template: String,
    pub params: Schema,
}

#[derive(Debug)]
pub struct Spec {
    /// Stripe's API version, such as `2026-08-26.dahlia`.
    pub version: String,
    routes: Vec<Route>,
    objects: BTreeMap<String, Schema>,
}

impl Spec {
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("Stripe's OpenAPI document is not at {}: run engines/fetch", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{} is not Stripe's OpenAPI document", path.display()))
    }

    pub fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let document: Document = serde_json::from_slice(bytes)?;
        let mut routes = Vec::new();
        for (template, operations) in document.paths {
            for (method, operation) in operations {
                routes.push(Route { method: method.to_uppercase(), template: template.clone(), params: operation.params() });
            }
        }
        Ok(Self { version: document.info.version, routes, objects: document.components.schemas })
    }

    /// The route of a path and the values of its `{...}` parts; literal parts win over named ones.
    pub fn route(&self, method: &str, path: &str) -> Option<(&Route, Vec<String>)> {
        let asked: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let found = self.routes.iter().filter(|route| route.method == method).filter_map(|route| {
            let parts: Vec<&str> = route.template.split('/').collect();
            let fits = parts.len() == asked.len()
                && parts.iter().zip(&asked).all(|(part, given)| part == given || (part.starts_with('{') && !given.is_empty()));
            let named = parts.iter().filter(|part| part.starts_with('{')).count();
            fits.then_some((named, route, parts))
        });
        let (_, route, parts) = found.min_by_key(|(named, ..)| *named)?;
        let values = parts.iter().zip(&asked).filter(|(part, _)| part.starts_with('{'));
        Some((route, values.map(|(_, given)| (*given).to_owned()).collect()))
    }

    /// An object of stripe-mock with everything set to null that may be null: what remains is the
    /// shape, without the mock's inventions.
    pub fn bare(&self, mut object: Value) -> Value {
        let kind = object["object"].as_str().unwrap_or_default().to_owned();
        if let Some(schema) = self.objects.get(&kind) {
            self.blank(schema, &mut object);
        }
        object
    }

    fn blank(&self, schema: &Schema, value: &mut Value) {
        let schema = self.resolve(schema);
        let Some(members) = value.as_object_mut() else { return };
        for (name, member) in members {
            match schema.properties.get(name) {
                Some(property) if property.nullable => *member = Value::Null,
                Some(property) => self.blank(property, member),
                None => {}
            }
        }
    }

    fn resolve<'a>(&'a self, schema: &'a Schema) -> &'a Schema {
        let reference = schema.reference.as_deref().or_else(|| schema.any_of.iter().find_map(|any| any.reference.as_deref()));
        let named = reference.and_then(|reference| self.objects.get(reference.rsplit('/').next()?));
        named.unwrap_or(schema)
    }

    /// What is wrong with an answer of ours, as Stripe publishes that kind of object.
    pub fn misfits(&self, object: &Value) -> Vec<String> {
        let kind = object["object"].as_str().unwrap_or_default();
        let mut wrong = Vec::new();
        match self.objects.get(kind) {
            Some(schema) => self.misfit(schema, object, kind, &mut wrong),
            None => wrong.push(format!("no object is called {kind:?}")),
        }
        wrong
    }

    fn misfit(&self, schema: &Schema, value: &Value, at: &str, wrong: &mut Vec<String>) {
        if value.is_null() {
            if !schema.nullable {
                wrong.push(format!("{at} is null"));
            }
            return;
        }
        if schema.any_of.len() > 1 {
            let fits = schema.any_of.iter().any(|any| {
                let mut inner = Vec::new();
                self.misfit(any, value, at, &mut inner);
                inner.is_empty()
            });
            if !fits {
                wrong.push(format!("{at} fits no variant: {value}"));
            }
            return;
        }
        let schema = self.resolve(schema);
        let fits = match schema.kind.as_deref() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            _ => true,
        };
        let listed = |options: &Vec<Value>| options.contains(value);
        if !fits || !schema.one_of.as_ref().is_none_or(listed) {
            wrong.push(format!("{at} must not be {value}"));
        }
        if let (Some(items), Some(elements)) = (&schema.items, value.as_array()) {
            for (index, element) in elements.iter().enumerate() {
                self.misfit(items, element, &format!("{at}[{index}]"), wrong);
            }
        }
        let Some(members) = value.as_object() else { return };
        for name in &schema.required {
            if !members.contains_key(name) && !schema.properties.get(name).is_some_and(|property| property.nullable) {
                wrong.push(format!("{at}.{name} is missing"));
            }
        }
        for (name, member) in members {
            match schema.properties.get(name) {
                Some(property) => self.misfit(property, member, &format!("{at}.{name}"), wrong),
                None if schema.properties.is_empty() => {}
                None => wrong.push(format!("{at}.{name} does not exist")),
            }
        }
    }
}

impl Operation {
    /// Query and body as one object, closed to everything that is not published.
    fn params(self) -> Schema {
        let mut all = Schema { kind: Some("object".to_owned()), additional: Some(Additional::Allowed(false)), ..Schema::default() };
        for parameter in self.parameters.into_iter().filter(|parameter| parameter.place == "query") {
            if parameter.required {
                all.required.push(parameter.name.clone());
            }
            all.properties.insert(parameter.name, parameter.schema);
        }
        for media in self.request_body.into_iter().flat_map(|body| body.content.into_values()) {
            all.required.extend(media.schema.required);
            all.properties.extend(media.schema.properties);
        }
        all
    }
}
