//! Identifiers that look like Stripe's: a prefix that names the kind, then letters and digits.

use rand::Rng;
use rand::distr::Alphanumeric;

/// `prefix` followed by `length` random letters and digits.
pub fn new(prefix: &str, length: usize) -> String {
    let random: String = rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect();
    format!("{prefix}{random}")
}

/// The identifier of a new object of `kind`, as long as Stripe's own.
pub fn of(kind: &str) -> String {
    let (prefix, length) = match kind {
        "customer" => ("cus_", 14),
        "invoice" => ("in_1", 23),
        "line_item" => ("il_1", 23),
        "payment_method" => ("pm_1", 23),
        "payment_intent" => ("pi_3", 23),
        "setup_intent" => ("seti_1", 23),
        "charge" => ("ch_3", 23),
        "refund" => ("re_3", 23),
        "dispute" => ("dp_1", 23),
        "checkout.session" => ("cs_test_a1", 58),
        "billing_portal.session" => ("bps_1", 23),
        "event" => ("evt_1", 23),
        "credit_note" => ("cn_1", 23),
        "credit_note_line_item" => ("cnli_1", 23),
        "customer_balance_transaction" => ("cbtxn_1", 23),
        "invoice_payment" => ("inpay_1", 23),
        "tax_id" => ("txi_1", 23),
        "tax_rate" => ("txr_1", 23),
        "webhook_endpoint" => ("we_1", 23),
        "test_helpers.test_clock" => ("clock_1", 23),
        "_delivery" => ("dlv_", 24),
        "_request" => ("req_", 14),
        other => unreachable!("the double makes no object of kind {other}"),
    };
    new(prefix, length)
}
