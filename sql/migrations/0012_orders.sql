-- The order path: decisions, intents, orders and their steps, fills, the ledger, leases, the outbox, incidents.
-- What is append-only has a trigger that refuses every change, whoever asks.

create function refuse_rewrite() returns trigger language plpgsql as $$
begin
    raise exception using
        errcode = 'insufficient_privilege',
        message = format('table %s is append-only: %s is refused', tg_table_name, lower(tg_op)),
        hint = 'Write a new row that says what changed.';
end
$$;

create table leases (
    name   text primary key,
    holder text not null,
    token  bigint not null check (token > 0),
    until  timestamptz not null
);
comment on table leases is 'Who may act alone on what: one row per lease, taken over only after its end, with a higher token.';
comment on column leases.name is 'dispatch:<account> or pm:<account>:<strategy>.';
comment on column leases.holder is 'Process that holds it.';
comment on column leases.token is 'Fencing token; only grows, and every write under the lease carries it.';
comment on column leases.until is 'End by the clock of the database.';

create function keep_token_growing() returns trigger language plpgsql as $$
begin
    if new.token < old.token then
        raise exception using
            errcode = 'check_violation',
            message = format('token of lease %s was %s, asked for %s: it only grows', old.name, old.token, new.token);
    end if;
    return new;
end
$$;
create trigger leases_token before update on leases for each row execute function keep_token_growing();

create table decisions (
    seq          bigint generated always as identity,
    decision_id  uuid primary key,
    account      text not null,
    strategy     text not null,
    bar_close    timestamptz not null,
    inputs_hash  text not null,
    inputs       jsonb not null,
    levers       jsonb not null,
    plan         jsonb not null,
    plan_hash    text not null,
    config_hash  text not null,
    code_version text not null,
    lease_token  bigint not null,
    codes        text[] not null default '{}',
    decided_at   timestamptz not null default clock_timestamp(),
    row_hash     text not null,
    unique (account, strategy, bar_close)
);
create index decisions_newest on decisions (account, strategy, seq desc);
comment on table decisions is 'One decision per account, strategy and closed bar: what was known, what was planned. Append-only, in a chain of hashes.';
comment on column decisions.seq is 'Order of writing.';
comment on column decisions.decision_id is 'UUIDv5 of account, strategy, bar close and inputs.';
comment on column decisions.account is 'Venue account in one mode, as paper-main.';
comment on column decisions.strategy is 'Book and execution timeframe, as onchain_crypto-1h.';
comment on column decisions.bar_close is 'Close of the decided bar, UTC.';
comment on column decisions.inputs_hash is 'SHA-256 of the canonical inputs, those of the lines included.';
comment on column decisions.inputs is 'What all positions share: money, channels, watermarks, switches.';
comment on column decisions.levers is 'A and E with all contributions, per bucket.';
comment on column decisions.plan is 'Summary of the plan: actions by symbol.';
comment on column decisions.plan_hash is 'SHA-256 of the canonical plans of all lines.';
comment on column decisions.config_hash is 'SHA-256 of limits and settings in force.';
comment on column decisions.code_version is 'Version of the code that decided.';
comment on column decisions.lease_token is 'Token of the lease under which it was written.';
comment on column decisions.codes is 'Reason codes of the whole run.';
comment on column decisions.decided_at is 'When it was written.';
comment on column decisions.row_hash is 'SHA-256 over the previous decision of the strategy and this one.';

create table decision_lines (
    decision_id uuid not null references decisions,
    symbol      text not null,
    position_id bigint not null references lowcap_positions,
    outcome     text not null check (outcome in ('act', 'skip', 'hold')),
    rule        text,
    a_value     double precision not null,
    e_value     double precision not null,
    bucket      text,
    codes       text[] not null default '{}',
    inputs      jsonb not null,
    plan        jsonb not null,
    gate        jsonb,
    client_order_id text,
    primary key (decision_id, symbol)
);
create index decision_lines_of_position on decision_lines (position_id, decision_id);
comment on table decision_lines is 'What was decided for each position, holds included. Append-only.';
comment on column decision_lines.decision_id is 'Decision it belongs to.';
comment on column decision_lines.symbol is 'Unified symbol of the instrument.';
comment on column decision_lines.position_id is 'Position planned for.';
comment on column decision_lines.outcome is 'act, skip (too small to send) or hold (NO_TRADE).';
comment on column decision_lines.rule is 'Rule that matched, by its number in the specification.';
comment on column decision_lines.a_value is 'Lever A, appetite to add, 0 to 1.';
comment on column decision_lines.e_value is 'Lever E, eagerness to exit, 0 to 1.';
comment on column decision_lines.bucket is 'Market-cap bucket whose levers were used; NULL when unknown.';
comment on column decision_lines.codes is 'Why nothing was traded, or why the gate refused; empty when an order was written.';
comment on column decision_lines.inputs is 'What the plan of this position was computed from.';
comment on column decision_lines.plan is 'The plan as computed.';
comment on column decision_lines.gate is 'Verdict of the gate; NULL when nothing was asked of it.';
comment on column decision_lines.client_order_id is 'Order that came of it; NULL when none.';

-- The chain is made by the database, so that no writer can leave it out.
create function chain_decision() returns trigger language plpgsql as $$
declare
    before text;
begin
    select row_hash into before from decisions
    where account = new.account and strategy = new.strategy order by seq desc limit 1;
    new.row_hash := encode(sha256(convert_to(concat_ws('|', coalesce(before, ''), new.decision_id, new.account, new.strategy,
        extract(epoch from new.bar_close)::bigint, new.inputs_hash, new.plan_hash, new.config_hash, new.code_version,
        new.lease_token, array_to_string(new.codes, ','), new.inputs, new.levers, new.plan), 'UTF8')), 'hex');
    return new;
end
$$;
create trigger decisions_chain before insert on decisions for each row execute function chain_decision();

create table order_edges (
    from_state text not null,
    to_state   text not null,
    primary key (from_state, to_state)
);
comment on table order_edges is 'The 43 steps an order may take; every other pair is refused by the foreign key of order_transitions.';
comment on column order_edges.from_state is 'State before.';
comment on column order_edges.to_state is 'State after.';
insert into order_edges (from_state, to_state) values
('INTENT', 'SUBMITTING'), ('INTENT', 'REJECTED'), ('INTENT', 'CANCELLED'),
('SUBMITTING', 'OPEN'), ('SUBMITTING', 'PARTIAL'), ('SUBMITTING', 'FILLED'), ('SUBMITTING', 'CANCELLED'), ('SUBMITTING', 'EXPIRED'),
('SUBMITTING', 'REJECTED'), ('SUBMITTING', 'UNKNOWN'),
('UNKNOWN', 'OPEN'), ('UNKNOWN', 'PARTIAL'), ('UNKNOWN', 'FILLED'), ('UNKNOWN', 'CANCELLED'), ('UNKNOWN', 'REJECTED'),
('UNKNOWN', 'EXPIRED'), ('UNKNOWN', 'NOT_FOUND'),
('OPEN', 'PARTIAL'), ('OPEN', 'FILLED'), ('OPEN', 'CANCELLED'), ('OPEN', 'EXPIRED'), ('OPEN', 'REJECTED'),
('OPEN', 'CANCEL_REQUESTED'), ('OPEN', 'UNKNOWN'),
('PARTIAL', 'PARTIAL'), ('PARTIAL', 'FILLED'), ('PARTIAL', 'CANCELLED'), ('PARTIAL', 'EXPIRED'), ('PARTIAL', 'CANCEL_REQUESTED'),
('PARTIAL', 'UNKNOWN'),
('CANCEL_REQUESTED', 'CANCEL_REQUESTED'), ('CANCEL_REQUESTED', 'CANCELLED'), ('CANCEL_REQUESTED', 'FILLED'),
('CANCEL_REQUESTED', 'EXPIRED'), ('CANCEL_REQUESTED', 'OPEN'), ('CANCEL_REQUESTED', 'PARTIAL'), ('CANCEL_REQUESTED', 'UNKNOWN'),
('NOT_FOUND', 'OPEN'), ('NOT_FOUND', 'PARTIAL'), ('NOT_FOUND', 'FILLED'), ('NOT_FOUND', 'CANCELLED'), ('NOT_FOUND', 'REJECTED'),
('NOT_FOUND', 'EXPIRED');

create table order_intents (
    client_order_id text primary key check (client_order_id ~ '^[0-9a-f]{32}$'),
    account         text not null,
    strategy        text not null,
    symbol          text not null,
    bar_close       timestamptz not null,
    leg             text not null check (leg in ('entry', 'add', 'trim', 'tp', 'exit', 'flatten', 'dust', 'sl')),
    seq             integer not null check (seq >= 0),
    decision_id     uuid references decisions,
    action_id       bigint,
    replaces_id     text unique references order_intents,
    purpose         text not null check (purpose in ('entry', 'reduce', 'exit', 'stop')),
    side            text not null check (side in ('buy', 'sell')),
    type            text not null check (type in ('limit', 'market', 'stop')),
    qty             numeric(38, 18) not null check (qty > 0),
    limit_price     numeric(38, 18) check (limit_price > 0),
    stop_price      numeric(38, 18) check (stop_price > 0),
    reduce_only     boolean not null,
    tif             text not null check (tif in ('GTC', 'IOC')),
    mode            text not null check (mode in ('paper', 'sandbox', 'live')),
    origin          text not null check (origin in ('strategy', 'human', 'risk')),
    payload_hash    text not null,
    decide_by       timestamptz not null,
    decision_mid    numeric(38, 18) check (decision_mid > 0),
    created_at      timestamptz not null default clock_timestamp(),
    unique (account, strategy, symbol, bar_close, leg, seq),
    check (type <> 'limit' or limit_price is not null),
    check (type <> 'stop' or stop_price is not null)
);
create index order_intents_entries on order_intents (account, bar_close) where purpose = 'entry';
create index order_intents_of_action on order_intents (action_id);
comment on table order_intents is 'What was to be ordered: one row per logical key, never changed. Append-only.';
comment on column order_intents.client_order_id is 'First half of the SHA-256 of the logical key, 32 hex digits.';
comment on column order_intents.account is 'Venue account in one mode.';
comment on column order_intents.strategy is 'Strategy with its decision timeframe.';
comment on column order_intents.symbol is 'Unified symbol.';
comment on column order_intents.bar_close is 'Close of the decided bar, UTC; of an order born outside a tick that of its parent.';
comment on column order_intents.leg is 'Part of the plan.';
comment on column order_intents.seq is '0 for the first child; child n + 1 replaces a terminal child n.';
comment on column order_intents.decision_id is 'Decision it came from; NULL for orders of a person or of the kill switch.';
comment on column order_intents.action_id is 'Action of the portfolio it carries out; NULL when none.';
comment on column order_intents.replaces_id is 'Terminal order that it replaces.';
comment on column order_intents.purpose is 'entry, reduce, exit or stop.';
comment on column order_intents.side is 'buy or sell.';
comment on column order_intents.type is 'limit, market or stop.';
comment on column order_intents.qty is 'Quantity in base.';
comment on column order_intents.limit_price is 'Limit, quote per base.';
comment on column order_intents.stop_price is 'Trigger, quote per base.';
comment on column order_intents.reduce_only is 'Whether the venue must refuse it where it would add exposure.';
comment on column order_intents.tif is 'GTC or IOC.';
comment on column order_intents.mode is 'paper, sandbox or live.';
comment on column order_intents.origin is 'Who asked: strategy, human or risk.';
comment on column order_intents.payload_hash is 'SHA-256 of what is sent.';
comment on column order_intents.decide_by is 'Until when it may be sent.';
comment on column order_intents.decision_mid is 'Mid when it was decided, for the shortfall.';
comment on column order_intents.created_at is 'When it was written.';

create table orders (
    client_order_id     text primary key references order_intents,
    venue               text not null,
    account             text not null,
    strategy            text not null,
    symbol              text not null,
    purpose             text not null check (purpose in ('entry', 'reduce', 'exit', 'stop')),
    state               text not null check (state in (
        'INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED',
        'FILLED', 'CANCELLED', 'REJECTED', 'EXPIRED', 'NOT_FOUND'
    )),
    version             integer not null default 0,
    venue_order_id      text,
    lease_token         bigint not null default 0,
    sent_at             timestamptz,
    request_expires_at  timestamptz,
    rest_until          timestamptz,
    unknown_at          timestamptz,
    cancel_requested_at timestamptz,
    cancel_asked_at     timestamptz,
    cancel_tries        integer not null default 0,
    last_seen_at        timestamptz,
    next_look_at        timestamptz,
    flags               text[] not null default '{}',
    created_at          timestamptz not null default clock_timestamp(),
    unique (venue, account, symbol, venue_order_id)
);
create unique index orders_one_live_entry on orders (account, symbol)
where purpose = 'entry' and state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED');
create unique index orders_one_live_other on orders (account, strategy, symbol, purpose)
where purpose <> 'entry' and state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED');
create index orders_live on orders (account, symbol)
where state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED');
create index orders_newest on orders (account, created_at desc);
create index orders_sent on orders (account, sent_at);
comment on table orders is 'Where each order is now. Inserted as INTENT only; the state moves by one function, with its transition.';
comment on column orders.client_order_id is 'Intent it carries out.';
comment on column orders.venue is 'Venue it goes to; paper for the paper broker.';
comment on column orders.account is 'As in the intent.';
comment on column orders.strategy is 'As in the intent.';
comment on column orders.symbol is 'As in the intent.';
comment on column orders.purpose is 'As in the intent.';
comment on column orders.state is 'One of eleven states.';
comment on column orders.version is 'Steps taken; each step needs the version it was decided on.';
comment on column orders.venue_order_id is 'Id at the venue; NULL before the acknowledgement.';
comment on column orders.lease_token is 'Token of the lease under which it was last moved.';
comment on column orders.sent_at is 'Venue-corrected time of sending, committed before the wire.';
comment on column orders.request_expires_at is 'When the venue refuses the request; NULL where its expiry is not proven.';
comment on column orders.rest_until is 'End of its time to live; NULL for stops and targets.';
comment on column orders.unknown_at is 'When it last became UNKNOWN.';
comment on column orders.cancel_requested_at is 'When its cancel was first asked for.';
comment on column orders.cancel_asked_at is 'When its cancel was last sent.';
comment on column orders.cancel_tries is 'How often it was sent.';
comment on column orders.last_seen_at is 'When the venue last showed it.';
comment on column orders.next_look_at is 'When it is read or looked for next; NULL: with the regular pass.';
comment on column orders.flags is 'overfill, dust, orphan ...';
comment on column orders.created_at is 'When it was written.';

create function check_order() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        if new.state <> 'INTENT' or new.version <> 0 then
            raise exception using errcode = 'check_violation',
                message = format('order %s was inserted as %s: orders begin as INTENT', new.client_order_id, new.state);
        end if;
    elsif new.state <> old.state then
        if not exists (select from order_edges where from_state = old.state and to_state = new.state) then
            raise exception using errcode = 'check_violation',
                message = format('order %s: step was %s -> %s, there is no such edge', new.client_order_id, old.state, new.state);
        elsif new.version <> old.version + 1 then
            raise exception using errcode = 'check_violation',
                message = format('order %s: version was %s after %s, each step adds one', new.client_order_id, new.version, old.version);
        end if;
    end if;
    return new;
end
$$;
create trigger orders_step before insert or update on orders for each row execute function check_order();

create table order_transitions (
    seq             bigint generated always as identity primary key,
    client_order_id text not null references orders,
    order_seq       integer not null check (order_seq > 0),
    from_state      text not null,
    to_state        text not null,
    class           text,
    code            text,
    http_status     integer,
    raw             text,
    evidence        jsonb not null default '{}',
    actor           text not null,
    lease_token     bigint not null,
    at              timestamptz not null default clock_timestamp(),
    row_hash        text not null,
    unique (client_order_id, order_seq),
    foreign key (from_state, to_state) references order_edges
);
comment on table order_transitions is 'Every step of every order with its proof. Append-only, in a chain of hashes per order; orders.version is its length.';
comment on column order_transitions.seq is 'Order of writing.';
comment on column order_transitions.client_order_id is 'Order that moved.';
comment on column order_transitions.order_seq is 'Number of the step of this order, from 1.';
comment on column order_transitions.from_state is 'State before.';
comment on column order_transitions.to_state is 'State after.';
comment on column order_transitions.class is 'Class of the answer that caused it; NULL when no answer did.';
comment on column order_transitions.code is 'Reason code, or the code of the venue.';
comment on column order_transitions.http_status is 'HTTP status of that answer.';
comment on column order_transitions.raw is 'The answer as it came, without secrets, cut to 4 kB.';
comment on column order_transitions.evidence is 'What proves the step.';
comment on column order_transitions.actor is 'executor, tick, reconciler, kill, or a person.';
comment on column order_transitions.lease_token is 'Token of the lease it was written under; 0 without one.';
comment on column order_transitions.at is 'When it was written.';
comment on column order_transitions.row_hash is 'SHA-256 over the previous step of the order and this one.';

create function chain_transition() returns trigger language plpgsql as $$
declare
    before text;
begin
    select row_hash into before from order_transitions
    where client_order_id = new.client_order_id and order_seq = new.order_seq - 1;
    new.row_hash := encode(sha256(convert_to(concat_ws('|', coalesce(before, ''), new.client_order_id, new.order_seq,
        new.from_state, new.to_state, coalesce(new.class, ''), coalesce(new.code, ''), coalesce(new.http_status, 0),
        coalesce(new.raw, ''), new.evidence, new.actor, new.lease_token), 'UTF8')), 'hex');
    return new;
end
$$;
create trigger order_transitions_chain before insert on order_transitions for each row execute function chain_transition();

create table order_looks (
    client_order_id text not null references orders,
    started_at      timestamptz not null,
    result          text not null check (result in ('found', 'clean', 'unexplained', 'no_information')),
    rungs           jsonb not null default '{}',
    primary key (client_order_id, started_at)
);
comment on table order_looks is 'Every look for an UNKNOWN order, and what each rung of the ladder said. Append-only.';
comment on column order_looks.client_order_id is 'Order looked for.';
comment on column order_looks.started_at is 'Begin of the look, venue-corrected.';
comment on column order_looks.result is 'What the whole look said.';
comment on column order_looks.rungs is 'Each rung: found, absent or failed.';

create table fills (
    venue           text not null,
    account         text not null,
    market_type     text not null check (market_type in ('spot', 'linear')),
    symbol          text not null,
    fill_key        text not null,
    client_order_id text references orders,
    venue_order_id  text not null,
    venue_trade_id  text not null,
    side            text not null check (side in ('buy', 'sell')),
    qty             numeric(38, 18) not null check (qty > 0),
    price           numeric(38, 18) not null check (price > 0),
    fee_amount      numeric(38, 18),
    fee_asset       text,
    fee_quote       numeric(38, 18),
    maker           boolean,
    cumulative_qty  numeric(38, 18),
    venue_ts        timestamptz not null,
    received_ts     timestamptz not null default clock_timestamp(),
    is_late         boolean not null default false,
    is_overfill     boolean not null default false,
    decision_mid    numeric(38, 18),
    arrival_mid     numeric(38, 18),
    primary key (venue, account, market_type, symbol, fill_key),
    check ((fee_amount is null) = (fee_asset is null))
);
create index fills_of_order on fills (client_order_id);
create index fills_of_venue_order on fills (venue_order_id, account, venue);
-- none begins with two columns of the key: without statistics the planner would take such a one for as good as the key itself
create index fills_newest on fills (symbol, venue_ts desc);
create index fills_of_day on fills (account, venue_ts);
comment on table fills is 'Every execution, once, by the identity its venue gives it. Only an unknown fee and an unknown order may be filled in later.';
comment on column fills.venue is 'Venue of the execution.';
comment on column fills.account is 'Account of the execution.';
comment on column fills.market_type is 'spot or linear.';
comment on column fills.symbol is 'Unified symbol.';
comment on column fills.fill_key is 'Identity at the venue: the trade id, or what its profile says.';
comment on column fills.client_order_id is 'Our order; NULL while it is not known which.';
comment on column fills.venue_order_id is 'Order at the venue.';
comment on column fills.venue_trade_id is 'Trade at the venue; empty where it has none.';
comment on column fills.side is 'Side of our order.';
comment on column fills.qty is 'Quantity in base.';
comment on column fills.price is 'Quote per base.';
comment on column fills.fee_amount is 'Fee, negative for a rebate; NULL while unknown.';
comment on column fills.fee_asset is 'Asset of the fee.';
comment on column fills.fee_quote is 'Worth of the fee in quote when it became known; NULL while no mark of its asset is.';
comment on column fills.maker is 'Whether our order rested; NULL when not said.';
comment on column fills.cumulative_qty is 'Filled quantity of the order after it, where fills are told apart by that.';
comment on column fills.venue_ts is 'Time of the venue.';
comment on column fills.received_ts is 'When we wrote it.';
comment on column fills.is_late is 'Whether its order had ended here.';
comment on column fills.is_overfill is 'Whether it went beyond what was ordered.';
comment on column fills.decision_mid is 'Mid when the order was decided.';
comment on column fills.arrival_mid is 'Mid when the order was sent.';

create function check_fill_change() returns trigger language plpgsql as $$
declare
    free text[] := '{}';
begin
    if old.client_order_id is null then  -- what follows from the order becomes known with it
        free := free || array['client_order_id', 'is_late', 'is_overfill', 'decision_mid', 'arrival_mid'];
    end if;
    if old.fee_amount is null then
        free := free || array['fee_amount', 'fee_asset'];
    end if;
    if old.fee_quote is null then
        free := free || array['fee_quote'];
    end if;
    if (to_jsonb(new) - free) is distinct from (to_jsonb(old) - free) then
        raise exception using errcode = 'insufficient_privilege',
            message = format('fill %s of %s is written once; only an unknown fee or order may become known', old.fill_key, old.symbol);
    end if;
    return new;
end
$$;
create trigger fills_once before update on fills for each row execute function check_fill_change();

create table fills_conflict (
    id       bigint generated always as identity primary key,
    venue    text not null,
    account  text not null,
    symbol   text not null,
    fill_key text not null,
    reported jsonb not null,
    stored   jsonb not null,
    at       timestamptz not null default clock_timestamp(),
    unique (venue, account, symbol, fill_key, reported)
);
comment on table fills_conflict is 'Reports of a known fill with other content; the stored one stands. Append-only.';
comment on column fills_conflict.id is 'Number of the report.';
comment on column fills_conflict.venue is 'Venue that reported.';
comment on column fills_conflict.account is 'Account.';
comment on column fills_conflict.symbol is 'Symbol.';
comment on column fills_conflict.fill_key is 'Identity of the fill.';
comment on column fills_conflict.reported is 'What came.';
comment on column fills_conflict.stored is 'What is booked.';
comment on column fills_conflict.at is 'When it came.';

create sequence ledger_batches;

create table ledger_entries (
    batch_id       bigint not null,
    line           integer not null check (line > 0),
    account        text not null,
    strategy       text not null,
    ledger_account text not null check (
        ledger_account in ('WALLET', 'TRADE', 'FEE', 'FUNDING', 'EXTERNAL', 'ADJUST', 'POSITION', 'PNL')
    ),
    asset          text not null,
    amount         numeric(38, 18) not null,
    source         text not null,
    actor          text not null default '',
    reason         text not null default '',
    booked_for     timestamptz not null,
    at             timestamptz not null default clock_timestamp(),
    primary key (batch_id, line),
    unique (source, line),
    check (ledger_account <> 'ADJUST' or (actor <> '' and reason <> ''))
);
create index ledger_entries_by_time on ledger_entries (account, booked_for);
create index ledger_entries_flows on ledger_entries (account, booked_for) where ledger_account in ('EXTERNAL', 'FUNDING', 'ADJUST');
comment on table ledger_entries is 'Double entry: signed lines, each batch summing to exactly 0 per asset. Append-only.';
comment on column ledger_entries.batch_id is 'Lines that belong together.';
comment on column ledger_entries.line is 'Place in the batch, from 1.';
comment on column ledger_entries.account is 'Our account at a venue.';
comment on column ledger_entries.strategy is 'Strategy it belongs to; _external or _orphan for what is nobody''s.';
comment on column ledger_entries.ledger_account is 'WALLET is ours; the others say where from or where to.';
comment on column ledger_entries.asset is 'Asset, or the symbol of a contract.';
comment on column ledger_entries.amount is 'Positive: enters the ledger account.';
comment on column ledger_entries.source is 'What it was booked for: fill:..., fee:..., funding:..., external:..., adjust:...';
comment on column ledger_entries.actor is 'Person, for an adjustment.';
comment on column ledger_entries.reason is 'Why, for an adjustment.';
comment on column ledger_entries.booked_for is 'Time of what happened.';
comment on column ledger_entries.at is 'When it was written.';

create table ledger_balances (
    account        text not null,
    strategy       text not null,
    ledger_account text not null,
    asset          text not null,
    balance        numeric(38, 18) not null,
    primary key (account, strategy, ledger_account, asset)
);
comment on table ledger_balances is 'Sums of ledger_entries, kept by its trigger in the same transaction; never written otherwise.';
comment on column ledger_balances.account is 'Our account at a venue.';
comment on column ledger_balances.strategy is 'Strategy.';
comment on column ledger_balances.ledger_account is 'As in the entries.';
comment on column ledger_balances.asset is 'As in the entries.';
comment on column ledger_balances.balance is 'Sum of the amounts.';

-- Runs with the rights of the owner: whoever may write entries may not write sums.
create function keep_balances() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    -- the check at the end of the transaction looks at batches by their first line, so that none may be written in parts
    if exists (select from added group by batch_id having min(line) <> 1 or max(line) <> count(*)) then
        raise exception using errcode = 'integrity_constraint_violation',
            message = 'a ledger batch was written in parts: all its lines come in one statement, counted from 1';
    end if;
    insert into ledger_balances as b (account, strategy, ledger_account, asset, balance)
    select account, strategy, ledger_account, asset, sum(amount) from added
    group by account, strategy, ledger_account, asset order by 1, 2, 3, 4
    on conflict (account, strategy, ledger_account, asset) do update set balance = b.balance + excluded.balance;
    return null;
end
$$;
create trigger ledger_balances_kept after insert on ledger_entries
referencing new table as added for each statement execute function keep_balances();

create function check_batch() returns trigger language plpgsql as $$
declare
    wrong record;
begin
    select asset, sum(amount) as total into wrong from ledger_entries
    where batch_id = new.batch_id group by asset having sum(amount) <> 0 limit 1;
    if found then
        raise exception using errcode = 'integrity_constraint_violation',
            message = format('ledger batch %s (%s) was off by %s %s: every asset must sum to 0', new.batch_id, new.source, wrong.total, wrong.asset);
    end if;
    return null;
end
$$;
create constraint trigger ledger_entries_balance after insert on ledger_entries
deferrable initially deferred for each row when (new.line = 1) execute function check_batch();

create table outbox (
    id            bigint generated always as identity primary key,
    kind          text not null check (kind in ('SUBMIT', 'CANCEL', 'KILL', 'ALERT')),
    dedupe_key    text not null,
    account       text not null,
    payload       jsonb not null default '{}',
    created_at    timestamptz not null default clock_timestamp(),
    attempts      integer not null default 0,
    claimed_token bigint,
    done_at       timestamptz,
    last_error    text,
    unique (kind, dedupe_key)
);
create index outbox_open on outbox (account, id) where done_at is null;
comment on table outbox is 'What another part must do. SUBMIT is done before the wire, at most once; the rest after its effect, at least once.';
comment on column outbox.id is 'Order of writing.';
comment on column outbox.kind is 'SUBMIT, CANCEL, KILL or ALERT.';
comment on column outbox.dedupe_key is 'Names the cause, so that a second writer adds nothing.';
comment on column outbox.account is 'Account concerned.';
comment on column outbox.payload is 'What to do.';
comment on column outbox.created_at is 'When it was written.';
comment on column outbox.attempts is 'How often it was tried.';
comment on column outbox.claimed_token is 'Lease token of who last took it.';
comment on column outbox.done_at is 'When it was done; NULL while open.';
comment on column outbox.last_error is 'Why the last attempt failed.';

-- The executor waits for this instead of asking each second; what it misses while it is not connected, it finds in the table.
create function tell_executor() returns trigger language plpgsql as $$
begin
    perform pg_notify('regime_orders', account) from (select distinct account from added) as accounts;
    return null;
end
$$;
create trigger outbox_told after insert on outbox
referencing new table as added for each statement execute function tell_executor();

create table incidents (
    id        bigint generated always as identity primary key,
    kind      text not null,
    severity  text not null check (severity in ('warning', 'critical')),
    scope     text not null,
    evidence  jsonb not null default '{}',
    runbook   text not null default '',
    opened_at timestamptz not null default clock_timestamp(),
    repeats   integer not null default 0,
    acked_by  text,
    acked_at  timestamptz,
    closed_by text,
    closed_at timestamptz
);
create unique index incidents_open on incidents (kind, scope) where closed_at is null;
comment on table incidents is 'What went wrong on the order path: one open row per kind and scope, until a person or a clean pass closes it.';
comment on column incidents.id is 'Number of the incident.';
comment on column incidents.kind is 'What happened, as ID_COLLISION.';
comment on column incidents.severity is 'warning can wait for the day, critical cannot.';
comment on column incidents.scope is 'Order, symbol or account concerned.';
comment on column incidents.evidence is 'What was seen.';
comment on column incidents.runbook is 'Section of docs/runbook.md.';
comment on column incidents.opened_at is 'When it was first seen.';
comment on column incidents.repeats is 'How often it was seen again.';
comment on column incidents.acked_by is 'Who knows of it.';
comment on column incidents.acked_at is 'Since when.';
comment on column incidents.closed_by is 'Who or what closed it.';
comment on column incidents.closed_at is 'When; NULL while open.';

do $$
declare
    name text;
begin
    foreach name in array array['decisions', 'decision_lines', 'order_edges', 'order_intents', 'order_transitions', 'order_looks',
        'fills_conflict', 'ledger_entries'] loop
        execute format('create trigger %I before update or delete or truncate on %I for each statement execute function refuse_rewrite()',
            name || '_append_only', name);
    end loop;
    foreach name in array array['orders', 'fills'] loop
        execute format('create trigger %I before delete or truncate on %I for each statement execute function refuse_rewrite()',
            name || '_kept', name);
    end loop;
end
$$;
