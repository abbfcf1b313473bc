-- The mapper: what a driver's state means for appetite (A) and exit eagerness (E).

create table regime_deltas (
    driver           text not null check (driver in ('BTC', 'ALT', 'nano', 'small', 'mid', 'big', 'BTC.d', 'USDT.d')),
    timeframe        text not null check (timeframe in ('1m', '1h', '1d')),
    ts               timestamptz not null,
    state            text not null check (state in ('S0', 'S1', 'S2', 'S3', 'S4')),
    prev_state       text check (prev_state in ('S0', 'S1', 'S2', 'S3', 'S4')),
    buy              boolean not null,
    rebuy            boolean not null,
    trim             boolean not null,
    emergency_exit   boolean not null,
    reclaimed_ema333 boolean not null,
    exit_position    boolean not null,
    delta_a_raw      double precision not null,
    delta_e_raw      double precision not null,
    immature         boolean not null,
    engine_version   text not null,
    revision         integer not null default 0,
    created_at       timestamptz not null default now(),
    primary key (driver, timeframe, ts),
    check (abs(delta_a_raw) <= 2 and abs(delta_e_raw) <= 2)
);
create index regime_deltas_by_bar on regime_deltas (ts);
comment on table regime_deltas is 'Raw deltas of one driver and regime timeframe, one row per record of the engine.';
comment on column regime_deltas.driver is 'BTC, ALT, a market-cap bucket or a dominance.';
comment on column regime_deltas.timeframe is 'Regime timeframe: 1m (micro), 1h (meso) or 1d (macro).';
comment on column regime_deltas.ts is 'Open of the bar, UTC.';
comment on column regime_deltas.state is 'State after this bar.';
comment on column regime_deltas.prev_state is 'State after the previous bar; NULL on the first record.';
comment on column regime_deltas.buy is 'Buy signal of this bar (S1).';
comment on column regime_deltas.rebuy is 'Signal of this bar to add (S2 retest; S3 discount or reclaim).';
comment on column regime_deltas.trim is 'Overextended at a level: signal to sell a part.';
comment on column regime_deltas.emergency_exit is 'Price under EMA333 in S3, or the uptrend failed in S1.';
comment on column regime_deltas.reclaimed_ema333 is 'Price back at or above EMA333 after an emergency exit; true on one bar.';
comment on column regime_deltas.exit_position is 'The uptrend ended on this bar: sell everything.';
comment on column regime_deltas.delta_a_raw is 'Change of appetite, before multiplier and weight.';
comment on column regime_deltas.delta_e_raw is 'Change of exit eagerness, before multiplier and weight.';
comment on column regime_deltas.immature is 'Fewer than 1000 bars seen: both deltas are 0.';
comment on column regime_deltas.engine_version is 'm2-<profile>.';
comment on column regime_deltas.revision is 'Times this row was rewritten because a bar changed afterwards.';
comment on column regime_deltas.created_at is 'When this row was first written.';
