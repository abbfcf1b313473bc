-- What the portfolio manager keeps: actions with their fills, episodes, blocks, closed trades, equity.

create table pm_actions (
    id               bigint generated always as identity primary key,
    idempotency_key  text not null unique,
    position_id      bigint not null references lowcap_positions,
    bar_ts           timestamptz not null,
    trade_id         uuid,
    decision_id      uuid references decisions,
    kind             text not null check (kind in ('entry', 'add', 'trim', 'emergency_exit')),
    signal           text not null check (signal in ('s1_buy', 's2_retest', 'dx', 'reclaim', 'trim', 'exit_position', 'emergency_exit')),
    funding          text not null check (funding in ('remaining', 'pool', 'exit_proceeds', 'holding')),
    status           text not null check (status in ('planned', 'done', 'skipped')),
    state            text check (state in ('S0', 'S1', 'S2', 'S3', 'S4')),
    level_price      double precision,
    atr              double precision,
    bars_seen        integer,
    planned_usd      numeric(38, 18),
    planned_qty      numeric(38, 18),
    filled_qty       numeric(38, 18) not null default 0 check (filled_qty >= 0),
    filled_usd       numeric(38, 18) not null default 0 check (filled_usd >= 0),
    fee_qty          numeric(38, 18) not null default 0,
    fee_usd          numeric(38, 18) not null default 0,
    a_value          double precision not null,
    e_value          double precision not null,
    reasons          jsonb not null default '{}',
    created_at       timestamptz not null default clock_timestamp(),
    unique (position_id, bar_ts)
);
create index pm_actions_of_trade on pm_actions (trade_id);
comment on table pm_actions is 'One row per planned action, skips included; its fills are written in the transaction that books them.';
comment on column pm_actions.id is 'Number of the action.';
comment on column pm_actions.idempotency_key is 'Client order id of its first order; for a skip the id it would have had.';
comment on column pm_actions.position_id is 'Position.';
comment on column pm_actions.bar_ts is 'Open of the bar it was planned on, UTC.';
comment on column pm_actions.trade_id is 'Trade; NULL for an entry before its first fill.';
comment on column pm_actions.decision_id is 'Decision it came from; NULL for a stop.';
comment on column pm_actions.kind is 'entry, add, trim or emergency_exit.';
comment on column pm_actions.signal is 'What asked for it.';
comment on column pm_actions.funding is 'What its size is a share of.';
comment on column pm_actions.status is 'planned: fills may come; done: all its orders have ended; skipped: too small to send.';
comment on column pm_actions.state is 'Trend state it was planned on.';
comment on column pm_actions.level_price is 'Nearest level of that bar.';
comment on column pm_actions.atr is 'ATR of that bar.';
comment on column pm_actions.bars_seen is 'Bars seen at that bar.';
comment on column pm_actions.planned_usd is 'Money to spend.';
comment on column pm_actions.planned_qty is 'Quantity to sell.';
comment on column pm_actions.filled_qty is 'Quantity filled, before fees.';
comment on column pm_actions.filled_usd is 'Money filled, before fees.';
comment on column pm_actions.fee_qty is 'Fees taken in the token.';
comment on column pm_actions.fee_usd is 'All other fees, USD.';
comment on column pm_actions.a_value is 'Lever A.';
comment on column pm_actions.e_value is 'Lever E.';
comment on column pm_actions.reasons is 'Rule, refusals and diagnostics in short.';
comment on column pm_actions.created_at is 'When it was written.';
alter table order_intents add foreign key (action_id) references pm_actions;

-- Whether fills may still come is known where orders end, are replaced or surface again. Both run with the rights of the owner, as the
-- tick may write an order and not change an action.
create function keep_action_status() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    update pm_actions as a set status = s.status
    from (
        select i.action_id, case when bool_or(o.state in (
            'INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED'
        )) then 'planned' else 'done' end as status
        from order_intents as mine join order_intents as i on i.action_id = mine.action_id
        join orders as o on o.client_order_id = i.client_order_id
        where mine.client_order_id = new.client_order_id
        group by i.action_id
    ) as s
    where a.id = s.action_id and a.status <> s.status and a.status <> 'skipped';
    return null;
end
$$;
create trigger orders_action_ended after update of state on orders for each row
when (new.state <> old.state and (
    new.state in ('FILLED', 'CANCELLED', 'REJECTED', 'EXPIRED', 'NOT_FOUND') or old.state = 'NOT_FOUND'
)) execute function keep_action_status();

create function reopen_action() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    update pm_actions set status = 'planned' where id = new.action_id and status = 'done';
    return null;
end
$$;
create trigger order_intents_action_goes_on after insert on order_intents for each row
when (new.action_id is not null and (new.seq > 0 or new.leg = 'sl')) execute function reopen_action();

create table position_episodes (
    position_id       bigint primary key references lowcap_positions,
    stepped_ts        timestamptz not null,
    state             text check (state in ('S0', 'S1', 'S2', 'S3', 'S4')),
    attempt_ts        timestamptz,
    s2_ts             timestamptz,
    s1_ts             timestamptz,
    s3_ts             timestamptz,
    failure_begin_ts  timestamptz,
    failure_end_ts    timestamptz,
    check ((failure_begin_ts is null) = (failure_end_ts is null))
);
comment on table position_episodes is 'Where the attempt at an uptrend of each position stands, stepped bar by bar.';
comment on column position_episodes.position_id is 'Position.';
comment on column position_episodes.stepped_ts is 'Last bar taken in, its open.';
comment on column position_episodes.state is 'State after it.';
comment on column position_episodes.attempt_ts is 'Begin of the attempt that runs.';
comment on column position_episodes.s2_ts is 'First S2 of the attempt.';
comment on column position_episodes.s1_ts is 'Newest return to S1 after it.';
comment on column position_episodes.s3_ts is 'Begin of the S3 that runs.';
comment on column position_episodes.failure_begin_ts is 'Begin of the first failed attempt not judged yet.';
comment on column position_episodes.failure_end_ts is 'End of the last one.';

create table token_timeframe_blocks (
    token_contract     text not null,
    token_chain        text not null,
    timeframe          text not null,
    book_id            text not null,
    blocked_s1         boolean not null default false,
    blocked_s2         boolean not null default false,
    last_s1_failure_ts timestamptz,
    last_s2_failure_ts timestamptz,
    last_success_ts    timestamptz,
    primary key (token_contract, token_chain, timeframe, book_id)
);
comment on table token_timeframe_blocks is 'Entries that a failed attempt which lost money forbids, until the series reaches S3.';
comment on column token_timeframe_blocks.token_contract is 'Token.';
comment on column token_timeframe_blocks.token_chain is 'Chain or venue.';
comment on column token_timeframe_blocks.timeframe is 'Execution timeframe.';
comment on column token_timeframe_blocks.book_id is 'Book.';
comment on column token_timeframe_blocks.blocked_s1 is 'No buys in S1.';
comment on column token_timeframe_blocks.blocked_s2 is 'No buys in S2.';
comment on column token_timeframe_blocks.last_s1_failure_ts is 'Bar that ended the attempt that blocked S1.';
comment on column token_timeframe_blocks.last_s2_failure_ts is 'Bar that ended the attempt that blocked S2.';
comment on column token_timeframe_blocks.last_success_ts is 'Begin of the last S3.';

create table trade_summaries (
    trade_id          uuid primary key,
    position_id       bigint not null references lowcap_positions,
    account           text not null,
    strategy          text not null,
    symbol            text not null,
    opened_at         timestamptz not null,
    closed_at         timestamptz not null,
    allocated_usd     numeric(38, 18) not null,
    extracted_usd     numeric(38, 18) not null,
    pnl_usd           numeric(38, 18) not null,
    return_frac       double precision not null,
    max_drawdown_frac double precision not null,
    max_gain_frac     double precision not null,
    rr                double precision,
    hold_s            integer not null check (hold_s >= 0),
    written_at        timestamptz not null default clock_timestamp()
);
create index trade_summaries_closed on trade_summaries (account, symbol, closed_at desc);
comment on table trade_summaries is 'Closed trades, once each. Append-only.';
comment on column trade_summaries.trade_id is 'Trade.';
comment on column trade_summaries.position_id is 'Position.';
comment on column trade_summaries.account is 'Account.';
comment on column trade_summaries.strategy is 'Strategy.';
comment on column trade_summaries.symbol is 'Symbol.';
comment on column trade_summaries.opened_at is 'First fill.';
comment on column trade_summaries.closed_at is 'Last fill.';
comment on column trade_summaries.allocated_usd is 'Spent, fees included.';
comment on column trade_summaries.extracted_usd is 'Taken out, net of fees.';
comment on column trade_summaries.pnl_usd is 'Extracted minus allocated.';
comment on column trade_summaries.return_frac is 'That over allocated.';
comment on column trade_summaries.max_drawdown_frac is 'Deepest low below the average entry, as a fraction of it.';
comment on column trade_summaries.max_gain_frac is 'Highest high above it.';
comment on column trade_summaries.rr is 'Return over drawdown within +/-33; NULL without drawdown.';
comment on column trade_summaries.hold_s is 'Seconds from the first to the last fill.';
comment on column trade_summaries.written_at is 'When it was written.';

create table equity_points (
    account      text not null,
    at           timestamptz not null,
    equity_quote numeric(38, 18) not null,
    cash_quote   numeric(38, 18) not null,
    holdings     jsonb not null default '{}',
    primary key (account, at)
);
comment on table equity_points is 'Marked equity of an account at bar closes; what protections and the curve are computed from. Append-only.';
comment on column equity_points.account is 'Account.';
comment on column equity_points.at is 'Instant of the marks.';
comment on column equity_points.equity_quote is 'Cash plus holdings at their marks, quote.';
comment on column equity_points.cash_quote is 'Cash alone.';
comment on column equity_points.holdings is 'Quantity and mark per symbol.';

create table tick_runs (
    id        bigint generated always as identity primary key,
    account   text not null,
    strategy  text not null,
    bar_close timestamptz,
    outcome   text not null check (outcome in ('decided', 'adopted', 'LEASE_HELD', 'SKIPPED_LATE', 'no_bar')),
    began_at  timestamptz not null,
    took_ms   integer not null,
    detail    jsonb not null default '{}'
);
create index tick_runs_newest on tick_runs (account, strategy, id desc);
comment on table tick_runs is 'Every run of the portfolio tick, with what became of it: the heartbeat of the portfolio manager.';
comment on column tick_runs.id is 'Number of the run.';
comment on column tick_runs.account is 'Account.';
comment on column tick_runs.strategy is 'Strategy.';
comment on column tick_runs.bar_close is 'Bar it was for.';
comment on column tick_runs.outcome is 'decided, adopted, LEASE_HELD, SKIPPED_LATE or no_bar.';
comment on column tick_runs.began_at is 'When it began.';
comment on column tick_runs.took_ms is 'How long it took.';
comment on column tick_runs.detail is 'Counts: positions, actions, orders, refusals.';

do $$
declare
    name text;
begin
    foreach name in array array['trade_summaries', 'equity_points'] loop
        execute format('create trigger %I before update or delete or truncate on %I for each statement execute function refuse_rewrite()',
            name || '_append_only', name);
    end loop;
end
$$;
