-- The trend engine: records, checkpoints, levels, events.

create table uptrend_states (
    series                 text not null,
    timeframe              text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    ts                     timestamptz not null,
    engine_version         text not null,
    state                  text not null check (state in ('S0', 'S1', 'S2', 'S3', 'S4')),
    prev_state             text check (prev_state in ('S0', 'S1', 'S2', 'S3', 'S4')),
    state_since_ts         timestamptz not null,
    price                  double precision not null check (price > 0 and price < 'infinity'),
    s3_start_ts            timestamptz,
    bars_since_s3          integer check (bars_since_s3 >= 0),
    buy                    boolean not null,
    rebuy                  boolean not null,
    trim                   boolean not null,
    emergency_exit         boolean not null,
    reclaimed_ema333       boolean not null,
    exit_position          boolean not null,
    rebuy_s2_retest        boolean not null,
    rebuy_dx               boolean not null,
    rebuy_reclaim          boolean not null,
    exit_reason            text check (exit_reason in ('s1_to_s0_bearish_order', 'all_emas_below_333')),
    ts_score               double precision not null,
    ts_with_boost          double precision,
    sr_boost               double precision,
    ox                     double precision not null,
    dx                     double precision,
    edx                    double precision,
    edx_slow               double precision,
    edx_struct             double precision,
    edx_part               double precision,
    edx_comp               double precision,
    dx_threshold           double precision,
    anchor                 double precision,
    halo                   double precision,
    entry_zone_ok          boolean,
    slope_ok               boolean,
    ts_ok                  boolean,
    near_sr                boolean,
    nearest_level_price    double precision,
    nearest_level_strength double precision,
    ema20                  double precision not null,
    ema30                  double precision not null,
    ema50                  double precision not null,
    ema60                  double precision not null,
    ema144                 double precision not null,
    ema250                 double precision not null,
    ema333                 double precision not null,
    ema20_slope            double precision not null,
    ema60_slope            double precision not null,
    ema144_slope           double precision not null,
    ema250_slope           double precision not null,
    ema333_slope           double precision not null,
    d_ema60_slope          double precision not null,
    d_ema144_slope         double precision not null,
    d_ema250_slope         double precision not null,
    d_ema333_slope         double precision not null,
    sep_fast               double precision not null,
    sep_mid                double precision not null,
    dsep_fast_5            double precision not null,
    dsep_mid_5             double precision not null,
    atr                    double precision not null,
    atr_norm               double precision not null,
    atr_mean_20            double precision not null,
    atr_peak_10            double precision not null,
    rsi                    double precision not null,
    rsi_slope_10           double precision not null,
    adx                    double precision,
    adx_slope_10           double precision,
    vo_z                   double precision not null,
    latest_price           double precision not null,
    bars_seen              integer not null,
    immature               boolean not null,
    gap_bars               integer not null,
    revision               integer not null default 0,
    computed_at            timestamptz not null default now(),
    primary key (series, timeframe, ts)
);
create index uptrend_states_by_bar on uptrend_states (timeframe, ts);
comment on table uptrend_states is 'Where a series stands in its trend: one row per closed bar from bar 333 on, with everything the engine saw.';
comment on column uptrend_states.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column uptrend_states.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column uptrend_states.ts is 'Open of the bar, UTC.';
comment on column uptrend_states.engine_version is 'm2-<profile>.';
comment on column uptrend_states.state is 'State after this bar: S0 downtrend, S1 break, S2 above EMA333, S3 uptrend, S4 none yet.';
comment on column uptrend_states.prev_state is 'State after the previous bar; NULL on the first record.';
comment on column uptrend_states.state_since_ts is 'Bar on which the state began.';
comment on column uptrend_states.price is 'Close of this bar.';
comment on column uptrend_states.s3_start_ts is 'Bar on which the running S3 began; NULL outside S3.';
comment on column uptrend_states.bars_since_s3 is 'Bars after the S3 start bar; NULL outside S3.';
comment on column uptrend_states.buy is 'Buy signal of this bar (S1).';
comment on column uptrend_states.rebuy is 'Signal of this bar to add (S2 retest; S3 discount or reclaim).';
comment on column uptrend_states.trim is 'Overextended at a level: signal to sell a part.';
comment on column uptrend_states.emergency_exit is 'Price under EMA333 in S3, or the uptrend failed in S1.';
comment on column uptrend_states.reclaimed_ema333 is 'Price back at or above EMA333 after an emergency exit; true on one bar.';
comment on column uptrend_states.exit_position is 'The uptrend ended on this bar: sell everything.';
comment on column uptrend_states.rebuy_s2_retest is 'Rebuy because of a retest of EMA333 in S2.';
comment on column uptrend_states.rebuy_dx is 'Rebuy because of a discount in S3.';
comment on column uptrend_states.rebuy_reclaim is 'Rebuy because EMA333 was reclaimed in S3.';
comment on column uptrend_states.exit_reason is 'Why exit_position is set; NULL otherwise.';
comment on column uptrend_states.ts_score is 'Trend strength, 0 to 1 (specification 4.3).';
comment on column uptrend_states.ts_with_boost is 'Trend strength plus the level boost; NULL outside S1, S2, S3.';
comment on column uptrend_states.sr_boost is 'Boost by a level near the anchor, 0 to 0.25.';
comment on column uptrend_states.ox is 'Overextension, 0 to 1 (4.6).';
comment on column uptrend_states.dx is 'Discount, 0 to 1, S3 only (4.7).';
comment on column uptrend_states.edx is 'Trend decay, 0 to 1, high = decaying, S3 only (4.8).';
comment on column uptrend_states.edx_slow is 'Decay component: slow averages.';
comment on column uptrend_states.edx_struct is 'Decay component: swing structure.';
comment on column uptrend_states.edx_part is 'Decay component: participation (AVWAP).';
comment on column uptrend_states.edx_comp is 'Decay component: compression of averages.';
comment on column uptrend_states.dx_threshold is 'DX needed for a buy on this bar, S3 only.';
comment on column uptrend_states.anchor is 'Price the entry zone is measured from: EMA60 in S1, EMA333 in S2 and S3.';
comment on column uptrend_states.halo is 'Half width of the entry zone, price.';
comment on column uptrend_states.entry_zone_ok is 'Price within the halo of the anchor.';
comment on column uptrend_states.slope_ok is 'Slope condition of the entry holds.';
comment on column uptrend_states.ts_ok is 'Trend strength with boost reaches its gate.';
comment on column uptrend_states.near_sr is 'A support or resistance level lies within one ATR.';
comment on column uptrend_states.nearest_level_price is 'Nearest level, price; NULL without levels.';
comment on column uptrend_states.nearest_level_strength is 'Strength of the nearest level.';
comment on column uptrend_states.ema20 is 'Exponential average of the closes over 20 bars, price.';
comment on column uptrend_states.ema30 is 'Exponential average of the closes over 30 bars, price.';
comment on column uptrend_states.ema50 is 'Exponential average of the closes over 50 bars, price.';
comment on column uptrend_states.ema60 is 'Exponential average of the closes over 60 bars, price.';
comment on column uptrend_states.ema144 is 'Exponential average of the closes over 144 bars, price.';
comment on column uptrend_states.ema250 is 'Exponential average of the closes over 250 bars, price.';
comment on column uptrend_states.ema333 is 'Exponential average of the closes over 333 bars, price.';
comment on column uptrend_states.ema20_slope is 'EMA20: slope over 10 bars, fraction of the average per bar.';
comment on column uptrend_states.ema60_slope is 'EMA60: slope over 10 bars, fraction of the average per bar.';
comment on column uptrend_states.ema144_slope is 'EMA144: slope over 10 bars, fraction of the average per bar.';
comment on column uptrend_states.ema250_slope is 'EMA250: slope over 10 bars, fraction of the average per bar.';
comment on column uptrend_states.ema333_slope is 'EMA333: slope over 10 bars, fraction of the average per bar.';
comment on column uptrend_states.d_ema60_slope is 'EMA60: slope now minus slope 10 bars earlier, fraction per bar.';
comment on column uptrend_states.d_ema144_slope is 'EMA144: slope now minus slope 10 bars earlier, fraction per bar.';
comment on column uptrend_states.d_ema250_slope is 'EMA250: slope now minus slope 10 bars earlier, fraction per bar.';
comment on column uptrend_states.d_ema333_slope is 'EMA333: slope now minus slope 10 bars earlier, fraction per bar.';
comment on column uptrend_states.sep_fast is '(EMA20 - EMA60) / EMA60.';
comment on column uptrend_states.sep_mid is '(EMA60 - EMA144) / EMA144.';
comment on column uptrend_states.dsep_fast_5 is 'sep_fast minus its value 5 bars earlier.';
comment on column uptrend_states.dsep_mid_5 is 'sep_mid minus its value 5 bars earlier.';
comment on column uptrend_states.atr is 'Average true range over 14 bars, price (Wilder).';
comment on column uptrend_states.atr_norm is 'ATR as a fraction of EMA50.';
comment on column uptrend_states.atr_mean_20 is 'Mean of the last 20 ATR values, price.';
comment on column uptrend_states.atr_peak_10 is 'Largest of the last 10 ATR values, price.';
comment on column uptrend_states.rsi is 'Cutler RSI over 14 bars, 0 to 100.';
comment on column uptrend_states.rsi_slope_10 is 'Slope of the last 10 RSI values, points per bar.';
comment on column uptrend_states.adx is 'ADX over 14 bars, 0 to 100.';
comment on column uptrend_states.adx_slope_10 is 'Slope of the last 10 ADX values, points per bar.';
comment on column uptrend_states.vo_z is 'Volume z-score, -4 to 6.';
comment on column uptrend_states.latest_price is 'Close of this bar: the only price that readers may use.';
comment on column uptrend_states.bars_seen is 'Bars of the series up to this one.';
comment on column uptrend_states.immature is 'Fewer than 1000 bars seen.';
comment on column uptrend_states.gap_bars is 'Bars missing since the previous bar.';
comment on column uptrend_states.revision is 'Times this row was rewritten because a bar changed afterwards.';
comment on column uptrend_states.computed_at is 'When this content was written.';

create table engine_checkpoints (
    series         text not null,
    timeframe      text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    ts             timestamptz not null,
    engine_version text not null,
    state          bytea not null,
    bars_seen      integer not null check (bars_seen >= 1),
    is_anchor      boolean not null,
    created_at     timestamptz not null default now(),
    primary key (series, timeframe, ts)
);
-- the carry is packed floats: compressing it costs time and saves nothing
alter table engine_checkpoints alter column state set storage external;
comment on table engine_checkpoints is 'What the engine must remember to take its next step, keyed by the last bar it consumed.';
comment on column engine_checkpoints.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column engine_checkpoints.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column engine_checkpoints.ts is 'Open of the last consumed bar, UTC.';
comment on column engine_checkpoints.engine_version is 'Engine that wrote the state; another version must not read it.';
comment on column engine_checkpoints.state is 'Kernel and machine carry, in the layout of the engine version.';
comment on column engine_checkpoints.bars_seen is 'Bars consumed so far.';
comment on column engine_checkpoints.is_anchor is 'Kept by retention as a starting point for replays.';
comment on column engine_checkpoints.created_at is 'When it was written.';

create table engine_tape (
    series      text not null,
    timeframe   text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    s3_start_ts timestamptz not null,
    chunk       integer not null check (chunk >= 0),
    data        bytea not null,
    close_min   double precision not null,
    close_max   double precision not null,
    primary key (series, timeframe, s3_start_ts, chunk)
);
alter table engine_tape alter column data set storage external;
comment on table engine_tape is 'History of a running S3 that the decay windows look back on, appended in chunks.';
comment on column engine_tape.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column engine_tape.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column engine_tape.s3_start_ts is 'Bar on which the S3 began, UTC.';
comment on column engine_tape.chunk is 'Number of the chunk, from 0.';
comment on column engine_tape.data is 'Packed rows of the chunk, in the layout of the engine version.';
comment on column engine_tape.close_min is 'Lowest close of the chunk, price.';
comment on column engine_tape.close_max is 'Highest close of the chunk, price.';

create table sr_levels (
    series       text not null,
    timeframe    text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    built_ts     timestamptz not null,
    level_id     text not null,
    price        double precision check (price < 'infinity'),
    strength_raw double precision not null check (strength_raw >= 0),
    strength     double precision not null check (strength >= 0),
    source       text not null,
    primary key (series, timeframe, built_ts, level_id),
    check ((price is null) = (level_id = 'empty'))
);
comment on table sr_levels is 'Support and resistance levels. A set is in force from built_ts until the next built_ts of the series.';
comment on column sr_levels.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column sr_levels.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column sr_levels.built_ts is 'Open of the bar on which the set was built, UTC.';
comment on column sr_levels.level_id is 'Stable name of the level across rebuilds; empty marks a set without levels.';
comment on column sr_levels.price is 'Price of the level; NULL only in the row that marks an empty set.';
comment on column sr_levels.strength_raw is 'Members of the cluster, or the fixed strength of its kind.';
comment on column sr_levels.strength is 'Strength as the profile uses it; 0 to 1 in v5.';
comment on column sr_levels.source is 'Kind of level: cluster, ath, atl, fibonacci.';

create table uptrend_state_events (
    id             bigint generated always as identity primary key,
    series         text not null,
    timeframe      text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    ts             timestamptz not null,
    from_state     text not null check (from_state in ('S0', 'S1', 'S2', 'S3', 'S4')),
    to_state       text not null check (to_state in ('S0', 'S1', 'S2', 'S3', 'S4')),
    exit_reason    text check (exit_reason in ('s1_to_s0_bearish_order', 'all_emas_below_333')),
    engine_version text not null,
    created_at     timestamptz not null default now(),
    check (from_state <> to_state)
);
-- one index keeps a bar to one event and serves the newest events of a series
create unique index uptrend_state_events_key on uptrend_state_events (series, timeframe, ts desc);
comment on table uptrend_state_events is 'Changes of state, one row per change, written with the record.';
comment on column uptrend_state_events.id is 'Number of the event.';
comment on column uptrend_state_events.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column uptrend_state_events.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column uptrend_state_events.ts is 'Open of the bar on which the state changed, UTC.';
comment on column uptrend_state_events.from_state is 'State before.';
comment on column uptrend_state_events.to_state is 'State after.';
comment on column uptrend_state_events.exit_reason is 'Why the position is to be left; NULL otherwise.';
comment on column uptrend_state_events.engine_version is 'm2-<profile>.';
comment on column uptrend_state_events.created_at is 'When it was written.';
