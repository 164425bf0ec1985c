//! The whole system, through the front door, on real engines.
//!
//! One `farebox up` runs for the whole suite; tests isolate themselves by workspace and by names of their own. It is
//! started by the first test that needs it, so that tests which do not are quick. `cargo test --test suite -- NAME`
//! selects. A test is an `async fn(&Suite)` that panics when something is not as it must be.

mod browser;
mod harness;

mod access;
mod access_gap;
mod access_gateways;
mod access_limits;
mod access_provisioning;
mod accounting;
mod admin_doubles;
mod alerts;
mod billing;
mod billing_consolidated;
mod billing_coupons;
mod billing_credits;
mod billing_edges;
mod billing_faults;
mod billing_history;
mod billing_stripe_faults;
mod billing_terms;
mod connections;
mod console;
mod credit_notes;
mod demo;
mod dunning;
mod finance;
mod finance_mail;
mod hooks;
mod house;
mod ingest;
mod ingest_faults;
mod ingest_formats;
mod ingest_grpc;
mod insights;
mod instance;
mod journey;
mod margin;
mod metering;
mod metering_audit;
mod metering_backfill;
mod metering_cluster;
mod metering_corrections;
mod metering_flow;
mod metering_keeping;
mod metering_meters;
mod metering_queries;
mod migrations;
mod outages;
mod pages;
mod pipeline;
mod seller;
mod senders;
mod shop;
mod sla;
mod stripe;
mod tenant;
mod walk;
mod walk_api;
mod walk_pages;
mod webhooks;
mod what_if;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use harness::Suite;
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// One test that needs the running system.
macro_rules! on_engines {
    ($list:ident: $($room:ident :: $name:ident),* $(,)?) => {
        $($list.push(Trial::test(concat!(stringify!($room), "::", stringify!($name)), || {
            runtime().block_on(async { $room::$name(suite().await).await });
            Ok(())
        }));)*
    };
}

/// As [`on_engines`], for tests that take the stores and the address.
macro_rules! by_url {
    ($list:ident: $($room:ident :: $name:ident),* $(,)?) => {
        $($list.push(Trial::test(concat!(stringify!($room), "::", stringify!($name)), || {
            runtime().block_on(async {
                let suite = suite().await;
                $room::$name(&suite.app, &suite.credentials.base_url).await;
            });
            Ok(())
        }));)*
    };
}

/// One test that starts and breaks a system of its own.
macro_rules! with_its_own {
    ($list:ident: $($room:ident :: $name:ident),* $(,)?) => {
        $($list.push(Trial::test(concat!(stringify!($room), "::", stringify!($name)), || {
            runtime().block_on($room::$name());
            Ok(())
        }));)*
    };
}

/// One test that needs nothing.
macro_rules! alone {
    ($list:ident: $($room:ident :: $name:ident),* $(,)?) => {
        $($list.push(Trial::test(concat!(stringify!($room), "::", stringify!($name)), || {
            $room::$name();
            Ok(())
        }));)*
    };
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime starts"))
}

static SUITE: OnceCell<Arc<Suite>> = OnceCell::const_new();

async fn suite() -> &'static Suite {
    SUITE.get_or_init(|| async { Arc::new(Suite::start().await.expect("`farebox up` starts")) }).await
}

fn main() -> ExitCode {
    farebox_core::tls::install();
    let arguments = Arguments::from_args();
    let mut tests = Vec::new();
    alone!(tests: house::rooms_depend_one_way);
    on_engines!(tests:
        pipeline::counts_equal_the_truth,
        ingest::a_batch_has_one_verdict_for_each_event,
        ingest::bad_input_is_a_clear_problem,
        ingest::a_gateways_own_topic_is_read,
        ingest::a_replay_counts_once,
        ingest::a_decided_call_counts_once_whichever_way_it_comes,
        ingest_formats::every_format_counts_the_truth_whichever_way_it_comes,
        ingest::the_window_is_the_workspaces,
        ingest_grpc::what_is_rejected_is_counted_and_the_rest_is_taken,
        ingest_grpc::refusals_are_said_in_grpc,
        ingest::dead_letters_are_searched,
        senders::a_file_is_sent_once_through_rotation_kills_and_an_outage,
        senders::tokens_live_and_end,
        senders::a_token_has_its_limits,
        senders::a_signed_call_is_taken_once,
        connections::a_client_certificate_is_its_source,
        connections::a_source_has_a_cluster_of_its_own,
        ingest_faults::a_process_that_is_told_to_stop_keeps_its_word,
        ingest_faults::clients_that_misbehave_harm_only_themselves,
        access::a_decision_says_who_and_why,
        access::a_revoked_key_is_refused_within_a_second,
        access_gap::a_gap_is_billed_once_and_a_late_log_takes_its_place,
        access_gateways::envoy_enforces_and_every_call_counts_once,
        access_gateways::envoy_enforces_over_grpc,
        access_gateways::traefik_enforces_and_every_call_counts_once,
        access_gateways::nginx_enforces_and_every_call_counts_once,
        access_gateways::mirrored_calls_are_seen_and_never_billed,
        outages::a_receiver_away_for_30_seconds_loses_nothing,
        access_limits::a_hard_quota_refuses_and_a_soft_one_marks,
        access_limits::two_instances_overshoot_a_quota_by_no_more_than_the_bound,
        access_limits::decisions_go_on_while_stores_are_away,
        access_limits::an_unpaid_invoice_refuses_after_its_grace,
        access_limits::without_a_key_each_address_has_an_allowance,
        access_provisioning::apisix_is_kept_in_step,
        access_provisioning::kong_is_kept_in_step,
        metering::answers_equal_a_model_over_random_histories,
        metering_cluster::answers_equal_the_model_over_distributed_tables,
        metering_flow::what_is_stored_is_what_was_sent,
        metering_flow::events_travel_from_kafka_and_count_once,
        metering_flow::a_second_instance_may_come_and_go,
        metering_flow::meters_over_properties_are_exact,
        metering_flow::a_proof_agrees_with_usage,
        metering_flow::another_rule_recounts_history,
        metering_flow::hostile_and_boundless_questions_are_bounded,
        metering_audit::the_pipeline_adds_up_and_what_is_lost_is_named,
        metering_keeping::raw_events_expire_and_numbers_stay,
        metering_keeping::a_person_is_erased_and_no_total_changes,
        metering_keeping::two_instances_never_recompute_the_same_minute,
        metering_keeping::the_schema_of_a_cluster_is_understood,
        metering_keeping::previews_tell_money,
        metering_keeping::history_is_brought_in_as_a_job,
        metering_keeping::an_hour_that_only_kafka_knows_is_audited,
        metering_corrections::events_are_voided_and_amended_with_a_preview,
        metering_corrections::an_interrupted_correction_is_finished,
        metering_corrections::a_rule_is_previewed_and_strangers_are_named,
        metering_queries::windows_follow_the_calendar_across_clock_changes,
        metering_queries::filters_top_comparison_and_running_totals,
        metering_queries::the_api_answers_in_json_and_csv_and_refuses_clearly,
        metering_queries::events_can_be_watched_as_they_come,
        metering_meters::every_aggregate_equals_a_calculation_by_hand,
        metering_meters::a_changed_meter_is_exact_while_history_is_rolled_up,
        billing::a_month_is_closed_to_the_cent_and_audited,
        billing::calls_that_are_not_billed_are_told,
        billing::many_workers_close_a_month_exactly_once,
        billing::a_preview_is_the_invoice_to_come,
        billing::a_payment_waits_for_no_subscription,
        billing::changes_cut_usage_and_fees_at_their_instant,
        billing::the_catalogue_is_idempotent_and_versions_stay,
        billing::a_test_clock_ends_trials_and_periods,
        billing::late_usage_is_credited_where_it_was_charged,
        billing_history::every_price_is_proven_and_late_usage_corrected,
        billing_history::a_subscription_through_its_life,
        billing_history::coupons_and_credits_on_an_invoice,
        billing_history::a_threshold_is_billed_within_the_period,
        billing_history::a_month_is_closed_by_its_checklist,
        billing_history::what_if_contracts_and_versions,
        billing_history::refusals_say_the_way_out,
        billing_terms::tiers_go_on_after_a_change_of_plan,
        billing_terms::an_end_at_once_without_credit_keeps_what_was_paid,
        billing_terms::a_plans_own_late_policy_holds,
        billing_terms::credits_expire_and_roll_over_in_time,
        billing_credits::every_period_comes_with_its_credits,
        billing_credits::a_change_within_a_period_grants_nothing_more,
        billing_credits::what_a_backdated_change_makes_of_credits,
        billing_credits::units_cover_usage_in_the_order_of_the_ledger,
        billing_credits::units_of_usage_that_is_taken_back_are_given_back,
        billing_credits::what_was_bought_is_booked_by_the_workspaces_clock,
        billing_credits::units_that_could_cover_nothing_are_refused,
        billing_credits::what_credits_pay_after_tax_is_set_off_after_tax,
        billing_credits::units_are_not_charged_again_by_another_price,
        migrations::what_a_former_schema_holds_is_kept,
        billing_coupons::the_catalogue_has_coupons,
        billing_edges::currency_jpy_has_no_decimals,
        billing_edges::currency_kwd_has_three_decimals,
        billing_edges::currency_usd_has_two_decimals,
        billing_edges::currency_eur_has_two_decimals,
        billing_edges::currency_isk_has_no_decimals,
        billing_edges::the_last_amount_of_64_bits_is_invoiced_exactly,
        billing_edges::an_amount_beyond_64_bits_is_named_and_holds_up_nobody,
        billing_edges::a_sum_beyond_64_bits_is_said_and_not_wrapped,
        billing_edges::usage_below_zero_costs_nothing_and_is_carried_nowhere,
        billing_edges::an_invoice_of_zero_is_issued_and_paid,
        billing_edges::a_fee_of_zero_is_a_line,
        billing_edges::a_period_of_no_length_has_no_invoice,
        billing_edges::a_leap_day_is_a_day_of_its_month,
        billing_edges::an_anchor_on_the_29th_takes_the_28th_of_february,
        billing_edges::an_anchor_on_the_30th_returns_to_its_day,
        billing_edges::an_anchor_on_the_31st_takes_each_months_last_day,
        billing_edges::the_day_that_lacks_an_hour_has_23,
        billing_edges::the_day_with_an_hour_twice_has_25,
        billing_edges::refused_a_plan_without_the_consumers_currency,
        billing_edges::refused_a_subscription_that_overlaps,
        billing_edges::refused_a_change_of_a_published_version,
        billing_edges::refused_a_close_with_open_differences,
        billing_edges::priced_by_how_long_and_how_large,
        billing_consolidated::one_invoice_for_all_whose_periods_end_together,
        billing_consolidated::what_ends_apart_or_cannot_be_priced,
        billing_consolidated::a_threshold_is_reached_by_all_together,
        billing_faults::killed_at_each_step_of_the_close,
        billing_faults::killed_with_credits_and_one_invoice_for_all,
        billing_stripe_faults::killed_at_each_step_of_the_push,
        billing_stripe_faults::a_consolidated_invoice_is_one_there,
        billing_stripe_faults::killed_at_each_step_of_a_credit_note,
        billing_stripe_faults::killed_at_each_step_of_a_voiding,
        credit_notes::an_open_invoice_asks_for_less,
        credit_notes::a_credit_note_is_voided,
        credit_notes::a_paid_invoice_is_given_back,
        credit_notes::disputes_are_recorded,
        credit_notes::a_credit_note_is_a_document,
        finance::files_add_up,
        finance::documents_stay_as_they_were,
        finance::the_books_balance,
        finance::prepaid_credits_are_earned,
        finance::invoices_are_settled_by_hand,
        accounting::accounting_systems_get_their_files,
        accounting::accounting_systems_get_credit_notes,
        finance_mail::invoices_and_reminders_are_mailed_once,
        alerts::an_allowance_is_told_once_and_again_when_raised,
        alerts::a_consumer_sets_its_own,
        alerts::money_units_and_unusual_hours_are_told,
        alerts::wrong_alerts_are_refused_and_the_catalogue_has_them,
        webhooks::an_address_that_fails_redirects_or_hangs_holds_up_nobody,
        webhooks::what_happens_to_invoices_keys_and_subscriptions_is_told,
        webhooks::secrets_rotate_and_addresses_are_judged,
        margin::revenue_and_cost_add_up_by_route_and_consumer,
        margin::two_versions_are_set_side_by_side,
        margin::own_months_are_priced_on_every_plan,
        what_if::plans_are_set_side_by_side,
        what_if::what_is_wrong_with_a_question_is_said_at_its_field,
        what_if::plans_are_compared_in_the_console,
        sla::what_was_promised_and_not_kept_is_given_back,
        sla::promises_that_cannot_be_measured_are_refused,
        dunning::a_refused_card_starts_dunning,
        dunning::stripes_test_clock_goes_with_ours,
        stripe::every_invoice_is_compared,
        stripe::one_invoice_whatever_stripe_answers,
        stripe::the_same_bytes_are_sent_again,
        stripe::a_different_total_blocks,
        stripe::paid_by_webhooks_in_any_order,
        stripe::an_older_endpoint_learns_newer_kinds,
        stripe::paid_although_no_webhook_arrives,
        stripe::a_customer_there_is_who_the_consumer_is,
        stripe::a_forged_webhook_is_refused,
        stripe::keys_are_sealed,
        walk_api::the_description_of_the_api_is_what_it_was,
        walk_api::every_route_with_every_token,
        console::decisions_are_set_against_events,
        console::a_gap_is_billed_with_a_reason,
        console::a_credit_note_is_made_from_an_invoice,
        console::a_dead_letter_is_seen_and_replayed,
        walk_pages::every_page_with_every_role,
        pages::everybody_can_use_every_page,
        journey::from_sign_up_to_a_paid_invoice,
    );
    by_url!(tests:
        insights::worked_example_1_n_day_retention,
        insights::worked_example_2_unbounded_retention,
        insights::worked_example_3_lifecycle,
        insights::worked_example_4_funnel,
        insights::wrong_questions_get_clear_problems,
    );
    with_its_own!(tests:
        demo::what_was_sent_is_counted_and_a_second_start_goes_on,
        alerts::killed_between_decision_and_delivery,
        metering_backfill::a_job_goes_on_wherever_it_was_killed,
        pipeline::counts_equal_the_truth_although_everything_is_killed,
        ingest_faults::kafka_stands_still_and_the_disk_is_full,
    );
    let conclusion = libtest_mimic::run(&arguments, tests);
    if let Some(suite) = SUITE.get() {
        runtime().block_on(suite.stop(!conclusion.has_failed()));
    }
    conclusion.exit_code()
}
