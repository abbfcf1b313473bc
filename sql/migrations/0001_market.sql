-- Bars of drivers, majors and tokens, and what was wrong with the bars we did not take.

create table regime_price_data_ohlc (
    driver          text not null check (driver in ('BTC', 'ALT', 'nano', 'small', 'mid', 'big', 'BTC.d', 'USDT.d')),
    timeframe       text not null check (timeframe in ('1m', '1h', '1d')),
    timestamp       timestamptz not null,
    open_usd        double precision not null,
    high_usd        double precision not null,
    low_usd         double precision not null,
    close_usd       double precision not null,
    volume          double precision not null,
    component_count integer,
    bars_used       integer not null,
    expected_bars   integer not null,
    is_final        boolean not null,
    source          text,
    created_at      timestamptz not null default now(),
    primary key (driver, timeframe, timestamp),
    check (component_count >= 1),
    -- NaN sorts above infinity, so the upper bounds refuse both
    constraint regime_price_data_ohlc_prices_positive check (low_usd > 0 and high_usd < 'infinity'),
    constraint regime_price_data_ohlc_high_low check (high_usd >= greatest(open_usd, close_usd) and low_usd <= least(open_usd, close_usd)),
    constraint regime_price_data_ohlc_volume check (volume >= 0 and volume < 'infinity'),
    constraint regime_price_data_ohlc_coverage check (bars_used between 1 and expected_bars)
);
create index regime_price_data_ohlc_latest on regime_price_data_ohlc (driver, timeframe, timestamp desc) where is_final;
comment on table regime_price_data_ohlc is 'One closed bar per regime driver and regime timeframe.';
comment on column regime_price_data_ohlc.driver is 'BTC, ALT, a market-cap bucket or a dominance.';
comment on column regime_price_data_ohlc.timeframe is 'Regime timeframe: 1m (micro), 1h (meso) or 1d (macro).';
comment on column regime_price_data_ohlc.timestamp is 'Open of the bar, UTC.';
comment on column regime_price_data_ohlc.open_usd is 'First price of the bar; percent for the dominances.';
comment on column regime_price_data_ohlc.high_usd is 'Highest price of the bar.';
comment on column regime_price_data_ohlc.low_usd is 'Lowest price of the bar.';
comment on column regime_price_data_ohlc.close_usd is 'Last price of the bar.';
comment on column regime_price_data_ohlc.volume is 'Volume in quote currency; 0 for the dominances.';
comment on column regime_price_data_ohlc.component_count is 'Components in a composite bar; NULL for BTC and the dominances.';
comment on column regime_price_data_ohlc.bars_used is 'Base minutes present in the bar.';
comment on column regime_price_data_ohlc.expected_bars is 'Base minutes of a complete bar.';
comment on column regime_price_data_ohlc.is_final is 'False only while a backfill request still covers a missing part; readers use final bars only.';
comment on column regime_price_data_ohlc.source is 'Where a bar that is not a composite came from; NULL for composites.';
comment on column regime_price_data_ohlc.created_at is 'When this row was first written.';

create table majors_price_data_ohlc (
    token_contract text not null,
    chain          text not null,
    timeframe      text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    timestamp      timestamptz not null,
    open_usd       double precision not null,
    high_usd       double precision not null,
    low_usd        double precision not null,
    close_usd      double precision not null,
    volume         double precision not null,
    bars_used      integer not null,
    expected_bars  integer not null,
    is_final       boolean not null,
    source         text not null,
    created_at     timestamptz not null default now(),
    primary key (token_contract, chain, timeframe, timestamp),
    -- NaN sorts above infinity, so the upper bounds refuse both
    constraint majors_price_data_ohlc_prices_positive check (low_usd > 0 and high_usd < 'infinity'),
    constraint majors_price_data_ohlc_high_low check (high_usd >= greatest(open_usd, close_usd) and low_usd <= least(open_usd, close_usd)),
    constraint majors_price_data_ohlc_volume check (volume >= 0 and volume < 'infinity'),
    constraint majors_price_data_ohlc_coverage check (bars_used between 1 and expected_bars)
);
create index majors_price_data_ohlc_latest on majors_price_data_ohlc (token_contract, chain, timeframe, timestamp desc) where is_final;
comment on table majors_price_data_ohlc is 'One closed bar of a major per timeframe.';
comment on column majors_price_data_ohlc.token_contract is 'Contract address, or the symbol where there is none.';
comment on column majors_price_data_ohlc.chain is 'Chain, or the venue of an exchange-traded token.';
comment on column majors_price_data_ohlc.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column majors_price_data_ohlc.timestamp is 'Open of the bar, UTC.';
comment on column majors_price_data_ohlc.open_usd is 'First price of the bar; percent for the dominances.';
comment on column majors_price_data_ohlc.high_usd is 'Highest price of the bar.';
comment on column majors_price_data_ohlc.low_usd is 'Lowest price of the bar.';
comment on column majors_price_data_ohlc.close_usd is 'Last price of the bar.';
comment on column majors_price_data_ohlc.volume is 'Volume in quote currency; 0 for the dominances.';
comment on column majors_price_data_ohlc.bars_used is 'Base minutes present in the bar.';
comment on column majors_price_data_ohlc.expected_bars is 'Base minutes of a complete bar.';
comment on column majors_price_data_ohlc.is_final is 'False only while a backfill request still covers a missing part; readers use final bars only.';
comment on column majors_price_data_ohlc.source is 'Who delivered the bar, or rollup.';
comment on column majors_price_data_ohlc.created_at is 'When this row was first written.';

create table lowcap_price_data_ohlc (
    token_contract text not null,
    chain          text not null,
    timeframe      text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    timestamp      timestamptz not null,
    open_usd       double precision not null,
    high_usd       double precision not null,
    low_usd        double precision not null,
    close_usd      double precision not null,
    volume         double precision not null,
    bars_used      integer not null,
    expected_bars  integer not null,
    is_final       boolean not null,
    source         text not null,
    created_at     timestamptz not null default now(),
    market_cap     double precision check (market_cap >= 0),
    liquidity_usd  double precision check (liquidity_usd >= 0),
    primary key (token_contract, chain, timeframe, timestamp),
    -- NaN sorts above infinity, so the upper bounds refuse both
    constraint lowcap_price_data_ohlc_prices_positive check (low_usd > 0 and high_usd < 'infinity'),
    constraint lowcap_price_data_ohlc_high_low check (high_usd >= greatest(open_usd, close_usd) and low_usd <= least(open_usd, close_usd)),
    constraint lowcap_price_data_ohlc_volume check (volume >= 0 and volume < 'infinity'),
    constraint lowcap_price_data_ohlc_coverage check (bars_used between 1 and expected_bars)
);
create index lowcap_price_data_ohlc_latest on lowcap_price_data_ohlc (token_contract, chain, timeframe, timestamp desc) where is_final;
comment on table lowcap_price_data_ohlc is 'One closed bar of a tradable token per timeframe.';
comment on column lowcap_price_data_ohlc.token_contract is 'Contract address, or the symbol where there is none.';
comment on column lowcap_price_data_ohlc.chain is 'Chain, or the venue of an exchange-traded token.';
comment on column lowcap_price_data_ohlc.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column lowcap_price_data_ohlc.timestamp is 'Open of the bar, UTC.';
comment on column lowcap_price_data_ohlc.open_usd is 'First price of the bar; percent for the dominances.';
comment on column lowcap_price_data_ohlc.high_usd is 'Highest price of the bar.';
comment on column lowcap_price_data_ohlc.low_usd is 'Lowest price of the bar.';
comment on column lowcap_price_data_ohlc.close_usd is 'Last price of the bar.';
comment on column lowcap_price_data_ohlc.volume is 'Volume in quote currency; 0 for the dominances.';
comment on column lowcap_price_data_ohlc.bars_used is 'Base minutes present in the bar.';
comment on column lowcap_price_data_ohlc.expected_bars is 'Base minutes of a complete bar.';
comment on column lowcap_price_data_ohlc.is_final is 'False only while a backfill request still covers a missing part; readers use final bars only.';
comment on column lowcap_price_data_ohlc.source is 'Who delivered the bar, or rollup.';
comment on column lowcap_price_data_ohlc.created_at is 'When this row was first written.';
comment on column lowcap_price_data_ohlc.market_cap is 'Market capitalisation, USD, as of the bar; NULL when unknown.';
comment on column lowcap_price_data_ohlc.liquidity_usd is 'Liquidity of the pool, USD, as of the bar; NULL when unknown.';

create table bar_quarantine (
    series      text not null,
    timeframe   text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    timestamp   timestamptz not null,
    source      text not null,
    open        double precision,
    high        double precision,
    low         double precision,
    close       double precision,
    volume      double precision,
    reason      text not null,
    detected_at timestamptz not null default now(),
    resolved_at timestamptz,
    primary key (series, timeframe, timestamp, source, reason)
);
create index bar_quarantine_open on bar_quarantine (detected_at) where resolved_at is null;
comment on table bar_quarantine is 'Bars that were refused, one row per reason; never repaired, never read by the engine.';
comment on column bar_quarantine.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column bar_quarantine.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column bar_quarantine.timestamp is 'Time the bar carried, off the grid or not, UTC.';
comment on column bar_quarantine.source is 'Who delivered the bar.';
comment on column bar_quarantine.open is 'Open as delivered; NULL when missing or not finite.';
comment on column bar_quarantine.high is 'High as delivered; NULL when missing or not finite.';
comment on column bar_quarantine.low is 'Low as delivered; NULL when missing or not finite.';
comment on column bar_quarantine.close is 'Close as delivered; NULL when missing or not finite.';
comment on column bar_quarantine.volume is 'Quote volume as delivered; NULL when missing or not finite.';
comment on column bar_quarantine.reason is 'Code of the rule that the bar broke.';
comment on column bar_quarantine.detected_at is 'When the bar was refused.';
comment on column bar_quarantine.resolved_at is 'When a valid bar took its place; NULL while open.';

create table bar_gaps (
    series      text not null,
    timeframe   text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    timestamp   timestamptz not null,
    source      text not null,
    reason      text not null,
    detected_at timestamptz not null default now(),
    resolved_at timestamptz,
    primary key (series, timeframe, timestamp, source)
);
create index bar_gaps_open on bar_gaps (series, timeframe, timestamp) where resolved_at is null;
comment on table bar_gaps is 'Bars that should exist and do not: one row per missing bar.';
comment on column bar_gaps.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column bar_gaps.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column bar_gaps.timestamp is 'Open of the missing bar, UTC.';
comment on column bar_gaps.source is 'Who should have delivered it.';
comment on column bar_gaps.reason is 'Why it is missing.';
comment on column bar_gaps.detected_at is 'When the hole was seen.';
comment on column bar_gaps.resolved_at is 'When the bar arrived; NULL while missing.';

create table dominance_samples (
    driver            text not null check (driver in ('BTC.d', 'USDT.d')),
    fetched_at        timestamptz not null,
    vendor_updated_at timestamptz not null,
    percent           double precision not null check (percent > 0 and percent < 100),
    source            text not null,
    primary key (driver, fetched_at)
);
comment on table dominance_samples is 'Answers of the dominance endpoint, as received.';
comment on column dominance_samples.driver is 'BTC.d or USDT.d.';
comment on column dominance_samples.fetched_at is 'When we received it.';
comment on column dominance_samples.vendor_updated_at is 'When the vendor computed it; unchanged means no new sample.';
comment on column dominance_samples.percent is 'Share of the total market capitalisation, percent.';
comment on column dominance_samples.source is 'Who delivered it.';

create table backfill_requests (
    id           bigint generated always as identity primary key,
    series       text not null,
    timeframe    text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    start_ts     timestamptz not null,
    end_ts       timestamptz not null,
    requested_at timestamptz not null default now(),
    ended_at     timestamptz,
    outcome      text,
    check (end_ts > start_ts),
    check ((ended_at is null) = (outcome is null))
);
create index backfill_requests_open on backfill_requests (series, timeframe, start_ts) where ended_at is null;
comment on table backfill_requests is 'Requests for missing history; while one is open, the bars it covers are not final.';
comment on column backfill_requests.id is 'Number of the request.';
comment on column backfill_requests.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column backfill_requests.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column backfill_requests.start_ts is 'Open of the first bar asked for, UTC.';
comment on column backfill_requests.end_ts is 'End of the range, exclusive, UTC.';
comment on column backfill_requests.requested_at is 'When it was asked.';
comment on column backfill_requests.ended_at is 'When it ended; NULL while open.';
comment on column backfill_requests.outcome is 'How it ended: data, none (the vendor has no such bars) or why it failed.';

comment on table schema_migrations is 'Migrations applied to this database; written by the migrator only.';
comment on column schema_migrations.version is 'Number of the migration file.';
comment on column schema_migrations.name is 'Name of the migration file.';
comment on column schema_migrations.sha256 is 'Checksum of the file as applied; a changed file is refused.';
comment on column schema_migrations.applied_at is 'When it was applied.';
