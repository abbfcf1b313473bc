-- What stops orders: kill switch, arm, protections; what compares us with the venue; who is alive; and the book of the paper broker.

create table kill_switch (
    transition_id text primary key,
    seq           bigint generated always as identity,
    account       text,
    strategy      text,
    symbol        text,
    level         integer not null check (level between 0 and 4),
    old_level     integer not null check (old_level between 0 and 4),
    source        text not null,
    actor         text not null,
    reason        text not null,
    second_actor  text not null default '',
    at            timestamptz not null,
    row_hash      text not null,
    check (level >= old_level or (actor <> '' and reason <> ''))
);
create index kill_switch_of_scope on kill_switch (account, strategy, symbol, seq desc);
comment on table kill_switch is 'Every rise and release of a kill level; the newest row of a scope and source is in force. Append-only, in a chain of hashes.';
comment on column kill_switch.transition_id is 'Names scope, level and the transition before: two evaluators that see the same write one row.';
comment on column kill_switch.seq is 'Order of writing.';
comment on column kill_switch.account is 'Account it is for; NULL for all.';
comment on column kill_switch.strategy is 'Strategy it is for; NULL for all.';
comment on column kill_switch.symbol is 'Symbol it is for; NULL for all.';
comment on column kill_switch.level is '0 normal, 1 entries off, 2 reduce only, 3 hard stop, 4 process stop.';
comment on column kill_switch.old_level is 'Level before.';
comment on column kill_switch.source is 'Trigger, or manual.';
comment on column kill_switch.actor is 'Process or person.';
comment on column kill_switch.reason is 'Why.';
comment on column kill_switch.second_actor is 'Second person of a release at L3 or above in live.';
comment on column kill_switch.at is 'When.';
comment on column kill_switch.row_hash is 'SHA-256 over the previous row and this one.';

-- Runs with the rights of the owner: its lock keeps the chain in one line, and takes more than the right to insert.
create function chain_kill() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
declare
    before text;
begin
    -- One at a time, and numbered only now: a lock on the table would deadlock with the other insert, which holds a weaker one already.
    perform pg_advisory_xact_lock(hashtextextended('chain kill_switch', 0));
    new.seq := nextval(pg_get_serial_sequence('kill_switch', 'seq'));
    select row_hash into before from kill_switch order by seq desc limit 1;
    new.row_hash := encode(sha256(convert_to(concat_ws('|', coalesce(before, ''), new.transition_id, coalesce(new.account, ''),
        coalesce(new.strategy, ''), coalesce(new.symbol, ''), new.level, new.old_level, new.source, new.actor, new.reason,
        new.second_actor, extract(epoch from new.at)), 'UTF8')), 'hex');
    return new;
end
$$;
create trigger kill_switch_chain before insert on kill_switch for each row execute function chain_kill();

create table arm (
    id              bigint generated always as identity primary key,
    account         text not null,
    fingerprint     text not null,
    max_order_quote numeric(38, 18) not null check (max_order_quote > 0),
    max_day_quote   numeric(38, 18) not null check (max_day_quote > 0),
    started_at      timestamptz not null,
    expires_at      timestamptz not null,
    ended_at        timestamptz,
    actor           text not null check (actor <> ''),
    reason          text not null check (reason <> ''),
    check (expires_at > started_at and expires_at <= started_at + interval '24 hours')
);
create unique index arm_open on arm (account) where ended_at is null;
comment on table arm is 'Permissions to trade an account with real money, for a day at most.';
comment on column arm.id is 'Number of the permission.';
comment on column arm.account is 'Account.';
comment on column arm.fingerprint is 'First 16 hex digits of the salted SHA-256 of the API key.';
comment on column arm.max_order_quote is 'Largest order, quote.';
comment on column arm.max_day_quote is 'Most that may be traded in a UTC day, quote.';
comment on column arm.started_at is 'From when.';
comment on column arm.expires_at is 'Until when.';
comment on column arm.ended_at is 'When it was taken back; NULL while it stands.';
comment on column arm.actor is 'Person.';
comment on column arm.reason is 'Why.';

create table trading_identities (
    kind          text not null check (kind in ('key', 'host', 'venue_account', 'account', 'salt')),
    value         text not null,
    mode          text not null check (mode in ('paper', 'sandbox', 'live')),
    account       text not null,
    first_seen_at timestamptz not null default clock_timestamp(),
    primary key (kind, value)
);
create unique index trading_identities_one_salt on trading_identities (kind) where kind = 'salt';
comment on table trading_identities is 'Keys, hosts and accounts by the one mode they were first used in; in any other they refuse to start. Append-only.';
comment on column trading_identities.kind is 'key and salt: fingerprints; host; venue_account: the venue''s own id; account: our name.';
comment on column trading_identities.value is 'Fingerprint, host, id or name; never a secret.';
comment on column trading_identities.mode is 'The mode it belongs to.';
comment on column trading_identities.account is 'Our account that used it first.';
comment on column trading_identities.first_seen_at is 'When the venue first accepted it.';

create table protections (
    name        text not null,
    account     text,
    strategy    text,
    symbol      text,
    scope       text not null,
    trigger_id  text not null,
    effect      integer not null check (effect between 0 and 3),
    code        text not null,
    side        text check (side in ('buy', 'sell')),
    tripped_at  timestamptz not null,
    until       timestamptz not null,
    evidence    text not null default '',
    released_by text not null default '',
    reason      text not null default '',
    primary key (name, scope, trigger_id)
);
create index protections_active on protections (until);
comment on table protections is 'Verdicts that stop entries: each trigger counts once; only time or a person ends one.';
comment on column protections.name is 'Protection.';
comment on column protections.account is 'Account it is for; NULL for all.';
comment on column protections.strategy is 'Strategy it is for; NULL for all.';
comment on column protections.symbol is 'Symbol it is for; NULL for all.';
comment on column protections.scope is 'The three as one text.';
comment on column protections.trigger_id is 'Names what tripped it.';
comment on column protections.effect is '1 entries off, 2 reduce only, 3 halt.';
comment on column protections.code is 'Reason code.';
comment on column protections.side is 'Entries of this side only; NULL: both.';
comment on column protections.tripped_at is 'When it was recorded.';
comment on column protections.until is 'When it ends by itself.';
comment on column protections.evidence is 'Numbers that tripped it.';
comment on column protections.released_by is 'Person who ended it before its time.';
comment on column protections.reason is 'Why.';

create function check_protection_change() returns trigger language plpgsql as $$
begin
    if new.until > old.until or (new.until < old.until and (new.released_by = '' or new.reason = ''))
        or (to_jsonb(new) - array['until', 'released_by', 'reason', 'evidence'])
        is distinct from (to_jsonb(old) - array['until', 'released_by', 'reason', 'evidence']) then
        raise exception using errcode = 'insufficient_privilege',
            message = format('protection %s %s: its end is only shortened, by a named person with a reason', old.name, old.trigger_id);
    end if;
    return new;
end
$$;
create trigger protections_shortened before update on protections for each row execute function check_protection_change();

create table reconciliation_runs (
    run_id     bigint generated always as identity primary key,
    account    text not null,
    kind       text not null check (kind in ('orders', 'full', 'startup')),
    status     text not null check (status in ('ok', 'findings', 'unknown')),
    began_at   timestamptz not null,
    ended_at   timestamptz not null,
    detail     jsonb not null default '{}'
);
create index reconciliation_runs_newest on reconciliation_runs (account, kind, run_id desc);
comment on table reconciliation_runs is 'Comparisons of our book with the venue. Append-only.';
comment on column reconciliation_runs.run_id is 'Number of the pass.';
comment on column reconciliation_runs.account is 'Account.';
comment on column reconciliation_runs.kind is 'orders (with fills, each minute), full (each five minutes) or startup.';
comment on column reconciliation_runs.status is 'ok, findings, or unknown: a read failed, which is never a match.';
comment on column reconciliation_runs.began_at is 'Begin.';
comment on column reconciliation_runs.ended_at is 'End.';
comment on column reconciliation_runs.detail is 'Counts, and why it is unknown.';

create table reconciliation_findings (
    run_id     bigint not null references reconciliation_runs,
    check_name text not null,
    scope      text not null,
    expected   numeric(38, 18),
    actual     numeric(38, 18),
    diff       numeric(38, 18),
    drift_frac numeric(38, 18),
    tier       text not null check (tier in ('dust', 'small', 'medium', 'large', 'warning')),
    action     text not null default '',
    repeats    integer not null default 1,
    evidence   jsonb not null default '{}',
    primary key (run_id, check_name, scope)
);
comment on table reconciliation_findings is 'What a pass found. Append-only.';
comment on column reconciliation_findings.run_id is 'Pass.';
comment on column reconciliation_findings.check_name is 'What was compared: order, fill, position, cash, funding.';
comment on column reconciliation_findings.scope is 'Symbol, order or asset.';
comment on column reconciliation_findings.expected is 'By our ledger.';
comment on column reconciliation_findings.actual is 'By the venue.';
comment on column reconciliation_findings.diff is 'Difference, without sign.';
comment on column reconciliation_findings.drift_frac is 'Difference over the larger side.';
comment on column reconciliation_findings.tier is 'dust, small, medium, large, or warning where no quantity is compared.';
comment on column reconciliation_findings.action is 'What it stopped.';
comment on column reconciliation_findings.repeats is 'Passes in a row that found the same.';
comment on column reconciliation_findings.evidence is 'Details.';

create table trading_heartbeats (
    process text not null,
    account text not null,
    at      timestamptz not null,
    pid     integer not null,
    detail  jsonb not null default '{}',
    primary key (process, account)
);
comment on table trading_heartbeats is 'Who of the order path is alive: executor, kill worker, watchdog.';
comment on column trading_heartbeats.process is 'Name of the process.';
comment on column trading_heartbeats.account is 'Account.';
comment on column trading_heartbeats.at is 'Last sign of life.';
comment on column trading_heartbeats.pid is 'Process number.';
comment on column trading_heartbeats.detail is 'Clock offset, orders live, last error.';

create table instrument_rules (
    venue       text not null,
    symbol      text not null,
    tick        numeric(38, 18) not null check (tick > 0),
    step        numeric(38, 18) not null check (step > 0),
    min_qty     numeric(38, 18) not null check (min_qty >= 0),
    max_qty     numeric(38, 18),
    min_cost    numeric(38, 18) not null check (min_cost >= 0),
    contract_size numeric(38, 18) not null default 1 check (contract_size > 0),
    maker_bps   numeric(38, 18) not null,
    taker_bps   numeric(38, 18) not null,
    is_active   boolean not null,
    read_at     timestamptz not null,
    primary key (venue, symbol)
);
comment on table instrument_rules is 'What each venue demands of an order, as read last.';
comment on column instrument_rules.venue is 'Venue; paper for the paper broker.';
comment on column instrument_rules.symbol is 'Unified symbol.';
comment on column instrument_rules.tick is 'Price grid.';
comment on column instrument_rules.step is 'Quantity grid.';
comment on column instrument_rules.min_qty is 'Least quantity.';
comment on column instrument_rules.max_qty is 'Largest quantity; NULL: none.';
comment on column instrument_rules.min_cost is 'Least worth, quote.';
comment on column instrument_rules.contract_size is 'Base per contract.';
comment on column instrument_rules.maker_bps is 'Fee of a resting order.';
comment on column instrument_rules.taker_bps is 'Fee of a taking order.';
comment on column instrument_rules.is_active is 'Whether it can be traded.';
comment on column instrument_rules.read_at is 'When it was read.';

create table commentary (
    id          bigint generated always as identity primary key,
    written_at  timestamptz not null default clock_timestamp(),
    author      text not null,
    snapshot    jsonb not null,
    comment     text not null check (length(comment) between 1 and 8000)
);
comment on table commentary is 'Comments of a model on a snapshot; nothing reads them but people. Append-only.';
comment on column commentary.id is 'Number of the comment.';
comment on column commentary.written_at is 'When it was written.';
comment on column commentary.author is 'Model that wrote it.';
comment on column commentary.snapshot is 'What it was shown.';
comment on column commentary.comment is 'What it said.';

-- All that a model is shown: no account of a venue, no order, no key. It reads this with no right to anything below it.
create view published_snapshot as
select
    clock_timestamp() as as_of,
    jsonb_build_object(
        'market', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'driver', d.driver, 'timeframe', d.timeframe, 'bar', d.ts, 'state', d.state, 'delta_a', d.delta_a_raw, 'delta_e', d.delta_e_raw
            ) order by d.driver, d.timeframe), '[]')
            from unnest(array['BTC', 'ALT', 'nano', 'small', 'mid', 'big', 'BTC.d', 'USDT.d']) as k (driver)
            cross join unnest(array['1m', '1h', '1d']) as t (timeframe)
            cross join lateral (
                select * from regime_deltas as r where r.driver = k.driver and r.timeframe = t.timeframe order by r.ts desc limit 1
            ) as d
        ),
        'positions', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'token', token_ticker, 'timeframe', timeframe, 'state', state, 'quantity', total_quantity, 'average_entry', avg_entry_price
            ) order by token_ticker, timeframe), '[]')
            from lowcap_positions where status = 'active'
        ),
        'stops', (
            select coalesce(jsonb_agg(jsonb_build_object('name', name, 'effect', effect, 'until', until, 'why', evidence) order by name), '[]')
            from protections where until > clock_timestamp()
        )
    ) as snapshot;
comment on view published_snapshot is 'What a model may comment on: market, open positions, and what stops entries; one row.';

-- The paper broker keeps a book of its own, so that reconciliation compares two.
create schema paper;

create table paper.balances (
    account text not null,
    asset   text not null,
    total   numeric(38, 18) not null check (total >= 0),
    primary key (account, asset)
);
comment on table paper.balances is 'What a paper account owns.';
comment on column paper.balances.account is 'Account.';
comment on column paper.balances.asset is 'Asset.';
comment on column paper.balances.total is 'Quantity, what open orders lock included.';

create table paper.orders (
    venue_order_id  bigint generated always as identity primary key,
    account         text not null,
    client_order_id text not null,
    symbol          text not null,
    side            text not null check (side in ('buy', 'sell')),
    type            text not null check (type in ('limit', 'market', 'stop')),
    tif             text not null check (tif in ('GTC', 'IOC')),
    qty             numeric(38, 18) not null check (qty > 0),
    filled          numeric(38, 18) not null default 0 check (filled >= 0),
    limit_price     numeric(38, 18),
    stop_price      numeric(38, 18),
    lock_price      numeric(38, 18),
    reduce_only     boolean not null,
    post_only       boolean not null default false,
    status          text not null check (status in ('open', 'closed', 'canceled', 'rejected', 'expired')),
    created_ms      bigint not null,
    effective_ms    bigint not null,
    cancel_ms       bigint,
    walked_ms       bigint not null,
    triggered       boolean not null default false,
    rests           boolean not null default false,
    updated_ms      bigint not null,
    unique (account, client_order_id)
);
create index paper_orders_open on paper.orders (account, symbol) where status = 'open';
comment on table paper.orders is 'Orders of the paper broker.';
comment on column paper.orders.venue_order_id is 'Its id.';
comment on column paper.orders.account is 'Account.';
comment on column paper.orders.client_order_id is 'Our id; unique for ever.';
comment on column paper.orders.symbol is 'Unified symbol.';
comment on column paper.orders.side is 'buy or sell.';
comment on column paper.orders.type is 'limit, market or stop.';
comment on column paper.orders.tif is 'GTC or IOC.';
comment on column paper.orders.qty is 'Ordered, base.';
comment on column paper.orders.filled is 'Filled, base.';
comment on column paper.orders.limit_price is 'Limit.';
comment on column paper.orders.stop_price is 'Trigger.';
comment on column paper.orders.lock_price is 'Quote per base that is locked for its rest; NULL: the rest itself is, or nothing.';
comment on column paper.orders.reduce_only is 'Whether it may only reduce.';
comment on column paper.orders.post_only is 'Whether it may only rest.';
comment on column paper.orders.status is 'As a venue says it.';
comment on column paper.orders.created_ms is 'When it came, epoch milliseconds.';
comment on column paper.orders.effective_ms is 'When it took effect, after the drawn latency.';
comment on column paper.orders.cancel_ms is 'When its cancel takes effect; NULL without one.';
comment on column paper.orders.walked_ms is 'Until when the market has been walked for it.';
comment on column paper.orders.triggered is 'Whether a stop has been hit.';
comment on column paper.orders.rests is 'Whether it waits in the book: from then on it fills at its limit only.';
comment on column paper.orders.updated_ms is 'Last change.';

create table paper.positions (
    account    text not null,
    symbol     text not null,
    qty        numeric(38, 18) not null,
    open_quote numeric(38, 18) not null,
    primary key (account, symbol)
);
comment on table paper.positions is 'Contracts of a paper account; spot holdings are balances.';
comment on column paper.positions.account is 'Account.';
comment on column paper.positions.symbol is 'Unified symbol.';
comment on column paper.positions.qty is 'Signed quantity, base.';
comment on column paper.positions.open_quote is 'What it was opened for, quote, with the same sign.';

create table paper.trades (
    trade_id       bigint generated always as identity primary key,
    account        text not null,
    venue_order_id bigint not null references paper.orders,
    symbol         text not null,
    side           text not null check (side in ('buy', 'sell')),
    qty            numeric(38, 18) not null check (qty > 0),
    price          numeric(38, 18) not null check (price > 0),
    fee_amount     numeric(38, 18) not null,
    fee_asset      text not null,
    maker          boolean not null,
    ts_ms          bigint not null
);
create index paper_trades_of_order on paper.trades (venue_order_id);
create index paper_trades_newest on paper.trades (account, symbol, ts_ms);
comment on table paper.trades is 'Trades of the paper broker.';
comment on column paper.trades.trade_id is 'Its id; only grows.';
comment on column paper.trades.account is 'Account.';
comment on column paper.trades.venue_order_id is 'Order it filled.';
comment on column paper.trades.symbol is 'Unified symbol.';
comment on column paper.trades.side is 'Side of the order.';
comment on column paper.trades.qty is 'Base.';
comment on column paper.trades.price is 'Quote per base.';
comment on column paper.trades.fee_amount is 'Fee.';
comment on column paper.trades.fee_asset is 'Asset of the fee.';
comment on column paper.trades.maker is 'Whether it rested.';
comment on column paper.trades.ts_ms is 'Epoch milliseconds.';

do $$
declare
    name text;
begin
    foreach name in array array['kill_switch', 'reconciliation_runs', 'reconciliation_findings', 'commentary', 'trading_identities'] loop
        execute format('create trigger %I before update or delete or truncate on %I for each statement execute function refuse_rewrite()',
            name || '_append_only', name);
    end loop;
end
$$;
