-- Least privilege, by group role: a login is granted one of these and nothing else. Safe to run again after every migration.
-- Time-outs and connection limits belong on the logins: of a group nothing is inherited but its rights.
do $$
declare
    wanted text;
begin
    foreach wanted in array array[
        'regime_owner', 'regime_writer', 'regime_reader', 'regime_commentator',
        'regime_ingest', 'regime_engine', 'regime_pm', 'regime_exec', 'regime_kill', 'regime_watchdog'
    ] loop
        begin
            execute format('create role %I nologin', wanted);
        exception when duplicate_object or unique_violation then
            null; -- another database of this server was first
        end;
    end loop;
end
$$;

comment on role regime_owner is 'Regime: owns the schema and migrates it.';
comment on role regime_writer is 'Regime: the pipeline in one process, paper trading included; reads and writes rows, changes no table.';
comment on role regime_reader is 'Regime: the board and people; reads every table.';
comment on role regime_commentator is 'Regime: an AI that comments; reads one view, adds comments, and gets nothing by default.';
comment on role regime_ingest is 'Regime: collector and downloads; writes bars and what is known of them.';
comment on role regime_engine is 'Regime: trend, regime and second opinions; writes what follows from bars.';
comment on role regime_pm is 'Regime: the portfolio tick; decides and intends, moves no order and books no fill.';
comment on role regime_exec is 'Regime: the executor; moves orders, books fills, reconciles.';
comment on role regime_kill is 'Regime: the kill worker; raises kill levels, sees orders, sends none.';
comment on role regime_watchdog is 'Regime: the watchdog; heartbeats, alerts, and entries off when others fall silent.';

-- What was granted by an older release must go: rights are given here and nowhere else.
do $$
declare
    holder text;
begin
    foreach holder in array array[
        'regime_writer', 'regime_reader', 'regime_commentator',
        'regime_ingest', 'regime_engine', 'regime_pm', 'regime_exec', 'regime_kill', 'regime_watchdog'
    ] loop
        execute format('revoke all on all tables in schema public, paper from %I', holder);
        execute format('revoke all on all sequences in schema public, paper from %I', holder);
        execute format('revoke all on schema paper from %I', holder);
        execute format('grant usage on schema public to %I', holder);
    end loop;
end
$$;

revoke create on schema public from public;
grant usage, create on schema public, paper to regime_owner;
grant all on all tables in schema public, paper to regime_owner;
grant all on all sequences in schema public, paper to regime_owner;
grant execute on function ensure_opinion_months, drop_opinion_months to regime_owner, regime_writer, regime_engine;

-- Who reads everything.
grant select on all tables in schema public to
regime_writer, regime_reader, regime_ingest, regime_engine, regime_pm, regime_exec, regime_kill, regime_watchdog;
grant usage on schema paper to regime_writer, regime_reader, regime_exec;
grant select on all tables in schema paper to regime_writer, regime_reader, regime_exec;

-- The pipeline in one process.
grant insert, update, delete on all tables in schema public, paper to regime_writer;
grant usage on all sequences in schema public, paper to regime_writer;
revoke insert, update, delete on schema_migrations, order_edges, ledger_balances from regime_writer;

-- Bars.
grant insert, update, delete on
regime_price_data_ohlc, majors_price_data_ohlc, lowcap_price_data_ohlc, bar_quarantine, bar_gaps, bar_validity, ingest_watermarks,
dominance_samples, dominance_questions, backfill_requests, venue_halts, vendor_calls, collector_heartbeats, derivation_marks
to regime_ingest;
grant insert on bar_revisions to regime_ingest;
grant usage on all sequences in schema public to regime_ingest, regime_engine;
revoke usage on sequence ledger_batches from regime_ingest, regime_engine;

-- What follows from bars. Of a position the engine owns the state, never the money.
grant insert, update, delete on
regime_price_data_ohlc, bar_gaps, bar_validity, derivation_marks, token_cap_bucket, uptrend_states, engine_checkpoints, engine_tape,
sr_levels, uptrend_state_events, regime_deltas, hmm_models, hmm_posteriors, changepoints, changepoint_states, volatility_regimes,
regime_transitions, transition_uses, regime_snapshots, opinion_evaluation_runs, opinion_evaluations
to regime_engine;
grant insert on bar_revisions to regime_engine;
grant insert (token_contract, token_chain, timeframe, token_ticker, status, book_id) on lowcap_positions to regime_engine;
grant update (features, state, bars_count, status) on lowcap_positions to regime_engine;

-- The tick: decisions, intents, orders that are still INTENT, and what stops entries.
grant insert on
decisions, decision_lines, order_intents, orders, outbox, pm_actions, tick_runs, equity_points, protections, kill_switch, incidents
to regime_pm;
grant insert, update on position_episodes, token_timeframe_blocks, leases, instrument_rules to regime_pm;
grant update (repeats, severity) on incidents to regime_pm;
-- It closes trades; what is held is for fills alone to change.
grant insert on trade_summaries to regime_pm;
grant update (
    status, current_trade_id, total_allocation_usd, total_extracted_usd, total_tokens_bought, total_tokens_sold, avg_entry_price,
    avg_exit_price, current_usd_value, realised_pnl_usd, unrealised_pnl_usd, total_pnl_usd, first_entry_timestamp, closed_at
) on lowcap_positions to regime_pm;

-- The executor: steps, fills, ledger, reconciliation. Sums of the ledger are kept by its trigger alone.
grant insert on
order_intents, orders, order_transitions, order_looks, fills, fills_conflict, ledger_entries, outbox, leases, pm_actions, trade_summaries,
equity_points, protections, kill_switch, incidents, reconciliation_runs, reconciliation_findings, trading_heartbeats, instrument_rules,
venue_halts, trading_identities
to regime_exec;
grant update on orders, outbox, leases, pm_actions, incidents, trading_heartbeats, instrument_rules, venue_halts, trading_identities
to regime_exec;
grant update on fills to regime_exec;
grant update (
    status, current_trade_id, total_quantity, total_allocation_usd, total_extracted_usd, total_tokens_bought, total_tokens_sold,
    avg_entry_price, avg_exit_price, usd_alloc_remaining, current_usd_value, realised_pnl_usd, unrealised_pnl_usd, total_pnl_usd,
    first_entry_timestamp, last_activity_timestamp, closed_at
) on lowcap_positions to regime_exec;
grant insert, update on token_timeframe_blocks, position_episodes to regime_exec;
grant usage on sequence ledger_batches to regime_exec;
grant insert, update on all tables in schema paper to regime_exec;
grant usage on all sequences in schema paper to regime_exec;

-- The kill worker.
grant insert on kill_switch, incidents, outbox, trading_heartbeats to regime_kill;
grant update (attempts, done_at, last_error) on outbox to regime_kill;
grant update (repeats, severity, closed_by, closed_at) on incidents to regime_kill;
grant update on trading_heartbeats to regime_kill;

-- The watchdog.
grant insert on kill_switch, outbox, incidents, trading_heartbeats, alerts, alert_notices to regime_watchdog;
grant update on trading_heartbeats, alerts, alert_notices to regime_watchdog;
grant update (repeats, severity) on incidents to regime_watchdog;
grant usage on all sequences in schema public to regime_watchdog;
revoke usage on sequence ledger_batches from regime_watchdog;

-- A model: one view and its own comments. It cannot read back what others wrote, and it can stop or start nothing.
grant select on published_snapshot to regime_commentator;
grant insert (author, snapshot, comment) on commentary to regime_commentator;
revoke insert, update, delete on commentary from regime_writer;

-- What is written once is written once: for the owner of the schema too, and by its trigger for everybody.
do $$
declare
    written_once text;
    kept text;
begin
    foreach written_once in array array[
        'decisions', 'decision_lines', 'order_edges', 'order_intents', 'order_transitions', 'order_looks', 'fills_conflict', 'ledger_entries',
        'trade_summaries', 'equity_points', 'kill_switch', 'reconciliation_runs', 'reconciliation_findings', 'commentary'
    ] loop
        execute format('revoke update, delete, truncate on %I from public, regime_owner, regime_writer', written_once);
    end loop;
    foreach kept in array array['orders', 'fills', 'protections', 'arm', 'incidents', 'ledger_balances'] loop
        execute format('revoke delete, truncate on %I from public, regime_owner, regime_writer', kept);
    end loop;
end
$$;
