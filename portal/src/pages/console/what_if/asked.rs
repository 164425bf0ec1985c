//! What the form asks, and what is wrong with it at its fields.

use farebox_billing::what_if::{self, AskedPlan, Question, Unread, WhatIf, Wrong};
use farebox_billing::{BillingError, calendar};
use farebox_core::problem::Problem;

use super::{Known, WhatIfPage};
use crate::context::Ctx;
use crate::failure::Failure;
use crate::{Portal, words};

/// What was chosen, by the names of the form's fields.
#[derive(Debug, Default)]
pub struct Chosen {
    pub plans: Vec<String>,
    pub drafts: Vec<String>,
    pub from: String,
    pub to: String,
    pub on_plan: String,
    /// A name or an id.
    pub consumer: String,
}

impl Chosen {
    pub fn read(encoded: &[u8]) -> Self {
        let mut chosen = Self::default();
        for (name, value) in url::form_urlencoded::parse(encoded) {
            let value = value.trim();
            match name.as_ref() {
                "plan" if !value.is_empty() => chosen.plans.push(value.to_owned()),
                // A browser sends the ends of lines as two characters.
                "draft" if !value.is_empty() => chosen.drafts.push(value.replace("\r\n", "\n")),
                "from" => value.clone_into(&mut chosen.from),
                "to" => value.clone_into(&mut chosen.to),
                "on_plan" => value.clone_into(&mut chosen.on_plan),
                "consumer" => value.clone_into(&mut chosen.consumer),
                _ => {}
            }
        }
        chosen
    }

    pub fn is_asked(&self) -> bool {
        !self.plans.is_empty() || !self.drafts.is_empty()
    }

    fn all(&self) -> Vec<AskedPlan> {
        let drafts = self.drafts.iter().cloned().map(AskedPlan::Draft);
        self.plans.iter().cloned().map(AskedPlan::Named).chain(drafts).collect()
    }
}

/// What is wrong with the question.
pub enum Refused {
    Plans(Vec<Wrong>),
    /// Another field, by its pointer.
    Field(String, String),
}

pub async fn ask(portal: &Portal, ctx: &Ctx, known: &Known, chosen: &Chosen) -> Result<Result<WhatIf, Refused>, Failure> {
    let plans = {
        let mut conn = portal.app.pg.acquire().await?;
        match what_if::read(&mut conn, &ctx.workspace, &chosen.all()).await {
            Ok(plans) => plans,
            Err(Unread::Wrong(wrong)) => return Ok(Err(Refused::Plans(wrong))),
            Err(Unread::Failed(error)) => return Err(Problem::from(error).into()),
        }
    };
    let field = |error: BillingError| match error {
        BillingError::Invalid { field, detail } => Ok(Refused::Field(field, detail)),
        error => Err(Failure::from(Problem::from(error))),
    };
    let (from, to) = range(ctx, known, chosen);
    let months = match what_if::months(&from, &to, ctx.tz()) {
        Ok(months) => months,
        Err(error) => return Ok(Err(field(error)?)),
    };
    let consumers = if chosen.consumer.is_empty() {
        None
    } else {
        let own = known.consumers.iter().find(|(id, name)| *name == chosen.consumer || id.as_str() == chosen.consumer);
        let Some((id, _)) = own else {
            return Ok(Err(Refused::Field("/consumer".to_owned(), format!("there is no consumer named `{}`", chosen.consumer))));
        };
        Some(vec![id.clone()])
    };
    let on_plan = Some(chosen.on_plan.clone()).filter(|plan| !plan.is_empty());
    let question = Question { plans, months, consumers, on_plan };
    match what_if::what_if(&portal.app, &ctx.workspace.id, &question).await {
        Ok(found) => Ok(Ok(found)),
        Err(error) => Ok(Err(field(error)?)),
    }
}

impl Refused {
    pub fn tell(self, form: &mut WhatIfPage, chosen: &Chosen) {
        match self {
            Self::Plans(wrong) => {
                for wrong in wrong {
                    let draft = wrong.plan.and_then(|place| place.checked_sub(chosen.plans.len()));
                    let field = draft.and_then(|n| form.drafts.get_mut(n)).unwrap_or(&mut form.plans_error);
                    let place = match (wrong.line, wrong.field.is_empty()) {
                        (Some(line), true) => format!("Line {line}: "),
                        (Some(line), false) => format!("Line {line}, {}: ", wrong.field),
                        (None, _) => String::new(),
                    };
                    let said = if place.is_empty() { words::sentence(&wrong.message) } else { format!("{place}{}.", wrong.message) };
                    let all = field.error.take().map_or_else(|| said.clone(), |before| format!("{before} {said}"));
                    field.wrong(all);
                }
            }
            Self::Field(pointer, detail) => {
                let field = match pointer.as_str() {
                    "/on_plan" => &mut form.on_plan_error,
                    "/consumer" | "/consumers/0" => &mut form.consumer,
                    "/from" | "/to" => &mut form.months_error,
                    _ => &mut form.plans_error,
                };
                field.wrong(words::sentence(&detail));
            }
        }
    }
}

/// The three months that are over unless chosen.
pub fn range(ctx: &Ctx, known: &Known, chosen: &Chosen) -> (String, String) {
    let name = |back: usize| known.months.get(back).map(|month| calendar::name(*month, ctx.tz())).unwrap_or_default();
    let or = |text: &String, back| if text.is_empty() { name(back) } else { text.clone() };
    (or(&chosen.from, 3), or(&chosen.to, 1))
}
