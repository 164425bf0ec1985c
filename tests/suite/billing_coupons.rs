//! Coupons as code: the catalogue makes, changes and retires them; what was redeemed keeps what it promised.

use reqwest::Method;
use serde_json::json;

use crate::billing::month;
use crate::harness::Suite;
use crate::seller::Seller;

const COUPONS: &str = r#"coupons:
  - {code: HALF, name: Half a start, share: "0.5", periods: 1, prices: [Platform]}
  - {code: TEN, amount: {USD: "10", EUR: "9"}, periods: 2}
  - {code: LOYAL, share: "0.1", plans: [scale]}
  - {code: EARLY, share: "0.2", redeem_by: 2026-07-01T00:00:00Z, max_redemptions: 3}
"#;
const CONSUMERS: &str = r"  - {name: a, subjects: [a], subscriptions: [{plan: scale, from: 2026-08-01T00:00:00+02:00}]}
  - {name: b, subjects: [b], subscriptions: [{plan: growth, from: 2026-08-01T00:00:00+02:00}]}
";

/// Once, for some periods and for ever, by share and by amount, limited by price and by plan: each invoice has what holds.
pub async fn the_catalogue_has_coupons(suite: &Suite) {
    let seller = Seller::new(suite, "", CONSUMERS).await;
    let catalogue = format!("{}{COUPONS}", seller.catalogue("", CONSUMERS));
    let (status, would) = seller.catalog("/api/v1/catalog?dry_run=true", &catalogue).await;
    assert_eq!((status, would["changes"].as_array().map(Vec::len)), (200, Some(4)), "{would}");
    assert_eq!(seller.get("coupons").await["data"], json!([]), "a comparison changes nothing");
    assert_eq!(seller.apply(&catalogue).await, ["create coupon HALF", "create coupon TEN", "create coupon LOYAL", "create coupon EARLY"]);
    assert_eq!(seller.apply(&catalogue).await, [] as [&str; 0]);
    let exported = seller.tenant.call(Method::GET, "/api/v1/catalog").send().await.expect("an answer").text().await.expect("a file");
    assert_eq!(seller.apply(&exported).await, [] as [&str; 0], "{exported}");

    let (a, b) = (seller.subscription("a").await, seller.subscription("b").await);
    for code in ["HALF", "TEN", "LOYAL"] {
        seller.post(&format!("subscriptions/{a}/coupons"), json!({ "code": code })).await;
    }
    let refusal = async |id: &str, code: &str| seller.refused(&format!("subscriptions/{id}/coupons"), json!({ "code": code })).await;
    assert_eq!(refusal(&b, "LOYAL").await, (409, "The coupon `LOYAL` is for the plans scale only.".to_owned()));
    assert_eq!(refusal(&b, "EARLY").await, (409, "The coupon `EARLY` could be redeemed until 2026-07-01 00:00:00 UTC only.".to_owned()));

    for name in ["2026-08", "2026-09", "2026-10"] {
        seller.usage("a", month(name), 100).await;
    }
    seller.close(month("2026-10")).await;
    let found: Vec<_> = seller.invoices().await.into_iter().filter(|invoice| invoice.buyer["name"] == "a").collect();
    let off: Vec<_> = found.iter().map(|invoice| invoice.lines.iter().map(|line| line.discount.minor).sum::<i64>()).collect();
    // August: half of 2 × 99; 10 % of what is left of them and 10 of usage; 10.00. Then 10 % of 109 and 10.00; then 10 % alone.
    assert_eq!(off, [9900 + 1090 + 1000, 1090 + 1000, 1090]);
    let usage_half_off = found[0].lines.iter().find(|line| line.meter.is_some()).expect("a usage line").discount.minor;
    assert!(usage_half_off < 500, "half is off the fee alone, and {usage_half_off} off the usage");

    // What was promised stays; what was not redeemed, and how long it is given out, may change.
    let changed = catalogue.replace("share: \"0.5\"", "share: \"0.4\"");
    let (status, problem) = seller.catalog("/api/v1/catalog", &changed).await;
    assert_eq!(
        (status, problem["detail"].as_str()),
        (
            409,
            Some("The coupon `HALF` was redeemed, so what it takes off never changes. Retire it, and make the change under another code.")
        )
    );
    let later = catalogue.replace("share: \"0.2\", redeem_by: 2026-07-01", "share: \"0.3\", redeem_by: 2099-07-01");
    assert_eq!(seller.apply(&later).await, ["change coupon EARLY"]);
    seller.post(&format!("subscriptions/{b}/coupons"), json!({ "code": "EARLY" })).await;
    let retired = later.replace("plans: [scale]}", "plans: [scale], retired: true}");
    assert_eq!(seller.apply(&retired).await, ["change coupon LOYAL"]);
    assert_eq!(refusal(&b, "LOYAL").await, (409, "The coupon `LOYAL` is no longer given out.".to_owned()));
    assert_eq!(seller.apply(&later).await, ["change coupon LOYAL"], "and given out again");
    let (status, problem) = seller.catalog("/api/v1/catalog", &later.replace("plans: [scale]", "plans: [sclae]")).await;
    assert_eq!(
        (status, problem["errors"][0]["detail"].as_str()),
        (422, Some("`LOYAL` is for the plan `sclae`: there is no such plan")),
        "{problem}"
    );
}
