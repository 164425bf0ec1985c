//! Every route, and who may see it. The router is built from this table alone, so that a test can walk every route
//! with every role.

use std::sync::LazyLock;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::Portal;
use crate::context::{Who, guard};
use crate::pages::{console, portal};
use crate::people::Role::{self, Admin, ConsumerAdmin, ConsumerMember, Finance, Owner, Product, Support};
use crate::people::Side;
use crate::{assets, security};

const DEVELOPERS: &[Role] = &[ConsumerAdmin, ConsumerMember];
const DEVELOPER_ADMINS: &[Role] = &[ConsumerAdmin];
const MEMBERS: &[Role] = &[Owner, Admin, Finance, Product, Support];
const ADMINS: &[Role] = &[Owner, Admin];
const MONEY: &[Role] = &[Owner, Admin, Finance];
const KPIS: &[Role] = &[Owner, Admin, Finance, Product];
const HELPERS_AND_MONEY: &[Role] = &[Owner, Admin, Finance, Support];
const HELPERS: &[Role] = &[Owner, Admin, Support];

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub who: Who,
    handler: MethodRouter<Portal>,
}

struct Table(Vec<Route>);

impl Table {
    fn get<H, T>(&mut self, path: &'static str, who: Who, handler: H)
    where
        H: Handler<T, Portal>,
        T: 'static,
    {
        self.0.push(Route { method: Method::GET, path, who, handler: on(MethodFilter::GET, handler) });
    }

    fn post<H, T>(&mut self, path: &'static str, who: Who, handler: H)
    where
        H: Handler<T, Portal>,
        T: 'static,
    {
        self.0.push(Route { method: Method::POST, path, who, handler: on(MethodFilter::POST, handler) });
    }
}

pub fn table() -> Vec<Route> {
    let roles = Who::Roles;
    let (developer, member) = (Who::Anyone(Side::Portal), Who::Anyone(Side::Console));
    let mut t = Table(Vec::new());

    t.get("/", developer, portal::landing::show);
    t.get("/sign-up", developer, portal::sign_up::show);
    t.post("/sign-up", developer, portal::sign_up::submit);
    t.get("/sign-in", developer, portal::sign_in::show);
    t.post("/sign-in", developer, portal::sign_in::submit);
    t.get("/welcome/{token}", developer, portal::sign_in::welcome);
    t.post("/welcome/{token}", developer, portal::sign_in::enter);
    t.get("/rules", developer, portal::rules::show);
    t.post("/sign-out", roles(DEVELOPERS), portal::sign_in::sign_out);
    t.get("/start", roles(DEVELOPERS), portal::start::show);
    t.get("/start/seen", roles(DEVELOPERS), portal::start::waiting);
    t.get("/usage", roles(DEVELOPERS), portal::usage::show);
    t.get("/usage/tail", roles(DEVELOPERS), portal::usage::tail_part);
    t.get("/usage.csv", roles(DEVELOPERS), portal::usage::file);
    t.get("/usage/alerts", roles(DEVELOPERS), portal::alerts::show);
    t.post("/usage/alerts", roles(DEVELOPERS), portal::alerts::add);
    t.post("/usage/alerts/{id}/remove", roles(DEVELOPERS), portal::alerts::remove);
    t.get("/keys", roles(DEVELOPERS), portal::keys::list);
    t.post("/keys", roles(DEVELOPERS), portal::keys::create);
    t.get("/keys/new", roles(DEVELOPERS), portal::keys::new);
    t.get("/keys/{id}/revoke", roles(DEVELOPERS), portal::keys::confirm_revoke);
    t.post("/keys/{id}/revoke", roles(DEVELOPERS), portal::keys::revoke);
    t.get("/invoices", roles(DEVELOPERS), portal::invoices::list);
    t.get("/invoices.csv", roles(DEVELOPERS), portal::invoices::file);
    t.get("/invoices/{id}", roles(DEVELOPERS), portal::invoices::show);
    t.get("/invoices/{id}/lines.csv", roles(DEVELOPERS), portal::invoices::lines_file);
    t.get("/invoices/{id}/document.pdf", roles(DEVELOPERS), portal::invoices::pdf);
    t.get("/credit-notes/{id}", roles(DEVELOPERS), portal::credit_notes::show);
    t.get("/credit-notes/{id}/document.pdf", roles(DEVELOPERS), portal::credit_notes::pdf);
    t.get("/plan", roles(DEVELOPERS), portal::plan::show);
    t.get("/plan/change", roles(DEVELOPER_ADMINS), portal::plan::confirm);
    t.post("/plan/change", roles(DEVELOPER_ADMINS), portal::plan::change);
    t.get("/payment", roles(DEVELOPERS), portal::payment::show);
    t.post("/payment", roles(DEVELOPER_ADMINS), portal::payment::add);
    t.get("/payment/return", roles(DEVELOPERS), portal::payment::back);
    t.get("/account", roles(DEVELOPERS), portal::account::show);
    t.post("/account/password", roles(DEVELOPERS), portal::account::change_password);

    t.get("/console/sign-in", member, portal::sign_in::show);
    t.post("/console/sign-in", member, portal::sign_in::submit);
    t.get("/console/welcome/{token}", member, portal::sign_in::welcome);
    t.post("/console/welcome/{token}", member, portal::sign_in::enter);
    t.get("/console", roles(MEMBERS), console::overview::show);
    t.get("/console/invoices", roles(HELPERS_AND_MONEY), console::invoices::list);
    t.get("/console/invoices.csv", roles(MONEY), console::invoices::file);
    t.get("/console/invoices/{id}", roles(HELPERS_AND_MONEY), console::invoices::show);
    t.get("/console/invoices/{id}/lines.csv", roles(HELPERS_AND_MONEY), console::invoices::lines_file);
    t.get("/console/invoices/{id}/document.pdf", roles(HELPERS_AND_MONEY), console::invoices::pdf);
    t.post("/console/invoices/{id}/audit", roles(HELPERS_AND_MONEY), console::invoices::audit);
    t.post("/console/invoices/{id}/retry", roles(MONEY), console::invoices::retry);
    t.get("/console/invoices/{id}/credit", roles(MONEY), console::credit_notes::ask);
    t.get("/console/invoices/{id}/credit/confirm", roles(MONEY), console::credit_notes::confirm);
    t.post("/console/invoices/{id}/credit", roles(MONEY), console::credit_notes::submit);
    t.get("/console/credit-notes", roles(HELPERS_AND_MONEY), console::credit_notes::list);
    t.get("/console/credit-notes.csv", roles(MONEY), console::credit_notes::file);
    t.get("/console/credit-notes/{id}", roles(HELPERS_AND_MONEY), console::credit_notes::show);
    t.get("/console/credit-notes/{id}/document.pdf", roles(HELPERS_AND_MONEY), console::credit_notes::pdf);
    t.get("/console/credit-notes/{id}/void", roles(MONEY), console::credit_notes::confirm_void);
    t.post("/console/credit-notes/{id}/void", roles(MONEY), console::credit_notes::submit_void);
    t.get("/console/close", roles(MONEY), console::close::show);
    t.get("/console/close/confirm", roles(MONEY), console::close::confirm);
    t.post("/console/close", roles(MONEY), console::close::submit);
    t.get("/console/pipeline", roles(MEMBERS), console::pipeline::show);
    t.get("/console/pipeline/decisions.csv", roles(MEMBERS), console::pipeline::witnesses_file);
    t.get("/console/pipeline/gap", roles(MONEY), console::pipeline::gap::show);
    t.post("/console/pipeline/gap", roles(MONEY), console::pipeline::gap::submit);
    t.get("/console/history", roles(MEMBERS), console::history::show);
    t.get("/console/alerts", roles(MEMBERS), console::alerts::show);
    t.get("/console/webhooks/{id}", roles(ADMINS), console::webhooks::show);
    t.post("/console/webhooks", roles(ADMINS), console::webhooks::create);
    t.post("/console/webhooks/{id}/test", roles(ADMINS), console::webhooks::test);
    t.post("/console/webhooks/{id}/rotate", roles(ADMINS), console::webhooks::rotate);
    t.post("/console/webhooks/{id}/switch", roles(ADMINS), console::webhooks::switch);
    t.get("/console/webhooks/{id}/remove", roles(ADMINS), console::webhooks::confirm_remove);
    t.post("/console/webhooks/{id}/remove", roles(ADMINS), console::webhooks::remove);
    t.get("/console/dead-letters", roles(HELPERS), console::dead_letters::list);
    t.get("/console/dead-letters.csv", roles(HELPERS), console::dead_letters::file);
    t.get("/console/dead-letters/{id}", roles(HELPERS), console::dead_letters::show);
    t.get("/console/dead-letters/{id}/body", roles(HELPERS), console::dead_letters::body);
    t.post("/console/dead-letters/replay", roles(ADMINS), console::dead_letters::submit);
    t.get("/console/settings", roles(ADMINS), console::settings::show);
    t.post("/console/settings/portal", roles(ADMINS), console::settings::save_portal);
    t.post("/console/settings/stripe", roles(ADMINS), console::settings::save_stripe);
    t.post("/console/settings/sources", roles(ADMINS), console::settings::add_source);
    t.get("/console/settings/sources/{id}/token", roles(ADMINS), console::settings::confirm_token);
    t.post("/console/settings/sources/{id}/token", roles(ADMINS), console::settings::new_token);
    t.post("/console/settings/members", roles(ADMINS), console::settings::invite);
    t.get("/console/activation", roles(KPIS), console::kpis::activation);
    t.get("/console/activation.csv", roles(KPIS), console::kpis::activation_file);
    t.get("/console/retention", roles(KPIS), console::kpis::retention);
    t.get("/console/retention.csv", roles(KPIS), console::kpis::retention_file);
    t.get("/console/conversion", roles(KPIS), console::kpis::conversion);
    t.get("/console/conversion.csv", roles(KPIS), console::kpis::conversion_file);
    t.get("/console/funnel", roles(KPIS), console::kpis::funnel);
    t.get("/console/funnel.csv", roles(KPIS), console::kpis::funnel_file);
    t.get("/console/lifecycle", roles(KPIS), console::kpis::lifecycle);
    t.get("/console/lifecycle.csv", roles(KPIS), console::kpis::lifecycle_file);
    t.get("/console/stickiness", roles(KPIS), console::kpis::stickiness);
    t.get("/console/stickiness.csv", roles(KPIS), console::kpis::stickiness_file);
    t.get("/console/usage", roles(KPIS), console::kpis::usage);
    t.get("/console/usage.csv", roles(KPIS), console::kpis::usage_file);
    t.get("/console/versions", roles(KPIS), console::kpis::versions);
    t.get("/console/versions.csv", roles(KPIS), console::kpis::versions_file);
    t.get("/console/margin", roles(MONEY), console::margin::show);
    t.get("/console/margin.csv", roles(MONEY), console::margin::file);
    t.get("/console/what-if", roles(MONEY), console::what_if::show);
    t.post("/console/what-if", roles(MONEY), console::what_if::submit);
    t.post("/console/what-if.csv", roles(MONEY), console::what_if::file);
    t.get("/console/revenue", roles(MONEY), console::kpis::revenue);
    t.get("/console/revenue.csv", roles(MONEY), console::kpis::revenue_file);
    t.get("/console/consumers", roles(MEMBERS), console::consumers::list);
    t.get("/console/consumers.csv", roles(MEMBERS), console::consumers::file);
    t.get("/console/consumers/{id}", roles(MEMBERS), console::consumers::show);
    t.post("/console/consumers/{id}/billing", roles(MONEY), console::consumers::save_billing);
    t.post("/console/consumers/{id}/link", roles(HELPERS), console::consumers::make_link);
    t.post("/console/sign-out", roles(MEMBERS), portal::sign_in::sign_out);
    t.get("/console/account", roles(MEMBERS), portal::account::show);
    t.post("/console/account/password", roles(MEMBERS), portal::account::change_password);
    t.0
}

/// Whether someone of this role may open the page at `path`: navigation shows only what can be opened.
pub fn may_open(path: &str, role: Role) -> bool {
    may(&Method::GET, path, role)
}

/// Whether someone of this role may send the form at `path`, which is as in the table.
pub fn may_post(path: &str, role: Role) -> bool {
    may(&Method::POST, path, role)
}

fn may(method: &Method, path: &str, role: Role) -> bool {
    static ROUTES: LazyLock<Vec<(Method, &'static str, Who)>> =
        LazyLock::new(|| table().into_iter().map(|route| (route.method, route.path, route.who)).collect());
    let route = ROUTES.iter().find(|(of, at, _)| of == method && *at == path);
    route.is_some_and(|(_, _, who)| match who {
        Who::Anyone(_) => true,
        Who::Roles(roles) => roles.contains(&role),
    })
}

/// Everything under the root: pages behind their guards, and the assets.
pub fn router(portal: Portal) -> Router {
    let guarded = table().into_iter().fold(Router::new(), |router, route| {
        let layer = from_fn_with_state((portal.clone(), route.who), guard);
        router.route(route.path, route.handler.layer(layer))
    });
    guarded.route("/assets/{hash}/{name}", axum::routing::get(assets::serve)).layer(from_fn(security::headers)).with_state(portal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_route_is_named_once_and_belongs_to_one_side() {
        let mut seen = HashSet::new();
        for route in table() {
            assert!(seen.insert((route.method.clone(), route.path)), "{} {} is there twice", route.method, route.path);
            let console = route.path == "/console" || route.path.starts_with("/console/");
            assert_eq!(route.who.side() == Side::Console, console, "{}", route.path);
            if let Who::Roles(roles) = route.who {
                assert!(!roles.is_empty());
                assert!(roles.iter().all(|role| role.side() == route.who.side()), "{} mixes sides", route.path);
            }
        }
    }

    #[test]
    fn strangers_may_only_look_around_sign_up_and_sign_in() {
        let open: Vec<_> = table()
            .into_iter()
            .filter(|route| matches!(route.who, Who::Anyone(_)))
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        assert_eq!(
            open,
            [
                "GET /",
                "GET /sign-up",
                "POST /sign-up",
                "GET /sign-in",
                "POST /sign-in",
                "GET /welcome/{token}",
                "POST /welcome/{token}",
                "GET /rules",
                "GET /console/sign-in",
                "POST /console/sign-in",
                "GET /console/welcome/{token}",
                "POST /console/welcome/{token}",
            ]
        );
    }

    #[test]
    fn whoever_may_change_money_or_settings_is_named() {
        let may = |method: Method, path: &str| {
            let route = table().into_iter().find(|route| route.method == method && route.path == path).expect("a route");
            match route.who {
                Who::Roles(roles) => roles.to_vec(),
                Who::Anyone(_) => panic!("{path} is open to anyone"),
            }
        };
        assert_eq!(may(Method::POST, "/console/settings/stripe"), [Owner, Admin]);
        assert_eq!(may(Method::POST, "/console/close"), [Owner, Admin, Finance]);
        assert_eq!(may(Method::POST, "/console/invoices/{id}/credit"), [Owner, Admin, Finance]);
        assert_eq!(may(Method::POST, "/console/credit-notes/{id}/void"), [Owner, Admin, Finance]);
        assert_eq!(may(Method::POST, "/plan/change"), [ConsumerAdmin]);
        assert_eq!(may(Method::POST, "/payment"), [ConsumerAdmin]);
    }

    #[test]
    fn navigation_leads_only_to_pages() {
        for shell in [crate::view::Shell::portal("", "", ""), crate::view::Shell::console("", "", "")] {
            let administrator = if shell.area == crate::view::Area::Portal { ConsumerAdmin } else { Owner };
            for item in shell.nav.iter().flat_map(|group| &group.items) {
                assert!(may_open(item.href, administrator), "{}", item.href);
            }
        }
        assert!(!may_open("/console/settings", Support));
        assert!(!may_open("/console/close", Product));
    }
}
