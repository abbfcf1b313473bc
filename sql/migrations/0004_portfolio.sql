-- Who is in which market-cap bucket, and the positions.

create table token_cap_bucket (
    token_contract text not null,
    chain          text not null,
    valid_from     timestamptz not null,
    valid_to       timestamptz,
    bucket         text not null check (bucket in ('nano', 'small', 'mid', 'big')),
    market_cap_usd double precision check (market_cap_usd > 0 and market_cap_usd < 'infinity'),
    as_of          timestamptz not null,
    primary key (token_contract, chain, valid_from),
    check (valid_to > valid_from)
);
create unique index token_cap_bucket_open on token_cap_bucket (token_contract, chain) where valid_to is null;
create index token_cap_bucket_members on token_cap_bucket (bucket, valid_from);

-- An exclusion constraint would need the extension btree_gist, which the embedded server lacks. Checked at commit, so that one
-- statement may close a membership and open the next in any order.
create function refuse_bucket_overlap() returns trigger language plpgsql as $$
begin
    if exists (
        select from token_cap_bucket as mine
        join token_cap_bucket as other using (token_contract, chain)
        where (mine.token_contract, mine.chain, mine.valid_from) = (new.token_contract, new.chain, new.valid_from)
            and other.valid_from <> mine.valid_from
            and tstzrange(other.valid_from, other.valid_to) && tstzrange(mine.valid_from, mine.valid_to)
    ) then
        raise exclusion_violation using
            message = format('token %s on %s: membership from %s overlaps another one', new.token_contract, new.chain, new.valid_from),
            hint = 'Close the running membership with the valid_from of the next one.';
    end if;
    return null;
end
$$;
create constraint trigger token_cap_bucket_no_overlap after insert or update on token_cap_bucket
deferrable initially deferred for each row execute function refuse_bucket_overlap();
comment on table token_cap_bucket is 'Market-cap bucket of a token over time; a bar uses the membership valid at its open.';
comment on column token_cap_bucket.token_contract is 'Contract address, or the symbol where there is none.';
comment on column token_cap_bucket.chain is 'Chain, or the venue of an exchange-traded token.';
comment on column token_cap_bucket.valid_from is 'First moment of the membership, UTC.';
comment on column token_cap_bucket.valid_to is 'End of the membership, exclusive, UTC; NULL while it lasts.';
comment on column token_cap_bucket.bucket is 'nano, small, mid or big.';
comment on column token_cap_bucket.market_cap_usd is 'Market capitalisation that decided it, USD; NULL when the configuration assigned the bucket.';
comment on column token_cap_bucket.as_of is 'When that capitalisation was measured, UTC.';

create table lowcap_positions (
    id                      bigint generated always as identity primary key,
    token_contract          text not null,
    token_chain             text not null,
    timeframe               text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    token_ticker            text not null,
    status                  text not null check (
        status in ('dormant', 'watchlist', 'active', 'shadow', 'paused', 'archived', 'regime_driver')
    ),
    state                   text check (state in ('S0', 'S1', 'S2', 'S3', 'S4')),
    book_id                 text not null,
    bars_count              integer not null default 0 check (bars_count >= 0),
    current_trade_id        uuid,
    alloc_policy            jsonb not null default '{}',
    total_quantity          numeric(38, 18) not null default 0,
    total_allocation_usd    numeric(38, 18) not null default 0,
    total_extracted_usd     numeric(38, 18) not null default 0,
    total_tokens_bought     numeric(38, 18) not null default 0,
    total_tokens_sold       numeric(38, 18) not null default 0,
    avg_entry_price         numeric(38, 18),
    avg_exit_price          numeric(38, 18),
    usd_alloc_remaining     numeric(38, 18),
    current_usd_value       numeric(38, 18),
    realised_pnl_usd        numeric(38, 18),
    unrealised_pnl_usd      numeric(38, 18),
    total_pnl_usd           numeric(38, 18),
    first_entry_timestamp   timestamptz,
    last_activity_timestamp timestamptz,
    closed_at               timestamptz,
    features                jsonb not null default '{}',
    created_at              timestamptz not null default now(),
    unique (token_contract, token_chain, timeframe),
    check (total_quantity >= 0),
    check ((status = 'regime_driver') = (token_chain = 'regime'))
);
-- Snapshots are rewritten at every bar: kept whole in the row (compressing one costs more than writing it), with room to stay on the page.
alter table lowcap_positions set (toast_tuple_target = 8160, fillfactor = 50);
create index lowcap_positions_status on lowcap_positions (timeframe, status);
create index lowcap_positions_trade on lowcap_positions (current_trade_id);
comment on table lowcap_positions is 'One row per token (or regime driver) and timeframe: its money and its current state.';
comment on column lowcap_positions.id is 'Number of the position.';
comment on column lowcap_positions.token_contract is 'Contract address, the symbol where there is none, or the driver.';
comment on column lowcap_positions.token_chain is 'Chain or venue; regime for a driver.';
comment on column lowcap_positions.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column lowcap_positions.token_ticker is 'Short name for people.';
comment on column lowcap_positions.status is 'dormant: under 333 bars; watchlist: tradable and flat; active: trade open; shadow, paused, archived: not traded; regime_driver: never traded.';
comment on column lowcap_positions.state is 'Trend state after the newest bar; NULL before the first record.';
comment on column lowcap_positions.book_id is 'Book the position belongs to.';
comment on column lowcap_positions.bars_count is 'Bars stored for the series.';
comment on column lowcap_positions.current_trade_id is 'Open trade; NULL when none.';
comment on column lowcap_positions.alloc_policy is 'Overrides of the allocation rules for this position.';
comment on column lowcap_positions.total_quantity is 'Quantity held, tokens.';
comment on column lowcap_positions.total_allocation_usd is 'Buy cost of the open trade with fees, USD.';
comment on column lowcap_positions.total_extracted_usd is 'Sell proceeds of the open trade net of fees, USD.';
comment on column lowcap_positions.total_tokens_bought is 'Quantity bought in the open trade, tokens.';
comment on column lowcap_positions.total_tokens_sold is 'Quantity sold in the open trade, tokens.';
comment on column lowcap_positions.avg_entry_price is 'Allocated over bought, USD; NULL before a buy.';
comment on column lowcap_positions.avg_exit_price is 'Extracted over sold, USD; NULL before a sell.';
comment on column lowcap_positions.usd_alloc_remaining is 'What may still be bought, USD; NULL before the first plan.';
comment on column lowcap_positions.current_usd_value is 'Quantity times newest close, USD; NULL before the first plan.';
comment on column lowcap_positions.realised_pnl_usd is 'Total minus unrealised result, USD.';
comment on column lowcap_positions.unrealised_pnl_usd is '(Close - average entry) times quantity, USD.';
comment on column lowcap_positions.total_pnl_usd is 'Current value plus extracted minus allocated, USD.';
comment on column lowcap_positions.first_entry_timestamp is 'First fill of the open trade, UTC.';
comment on column lowcap_positions.last_activity_timestamp is 'Last fill, UTC.';
comment on column lowcap_positions.closed_at is 'When the last trade closed, UTC.';
comment on column lowcap_positions.features is 'Current state for outside readers (specification 9); a projection of the typed tables, never read back.';
comment on column lowcap_positions.created_at is 'When this row was first written.';
