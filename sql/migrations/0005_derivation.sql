-- What has to be derived again, and from which bar on.

create table derivation_marks (
    stage     text not null check (stage in ('rollup', 'driver', 'trend', 'delta')),
    series    text not null,
    timeframe text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    from_ts   timestamptz not null,
    primary key (stage, timeframe, series)
);
comment on table derivation_marks is 'Work to do: written with the input that changed, cleared with the output that follows from it.';
comment on column derivation_marks.stage is 'Who derives: rollup (longer bars), driver (driver bars), trend (engine), delta (mapper).';
comment on column derivation_marks.series is 'Series to derive: regime:<driver> or token:<contract>:<chain>.';
comment on column derivation_marks.timeframe is 'Timeframe of the output.';
comment on column derivation_marks.from_ts is 'Oldest bar whose input changed, UTC; everything from it on is derived again.';

-- Current-state snapshots for outside readers (specs section 9), rebuildable from the typed rows at any time.
create view state_features as
select
    series, timeframe, ts, state, bars_seen,
    jsonb_build_object(
        'ta', jsonb_build_object(
            'ema', jsonb_build_object(
                'ema20', ema20, 'ema30', ema30, 'ema50', ema50, 'ema60', ema60, 'ema144', ema144, 'ema250', ema250, 'ema333', ema333
            ),
            'ema_slopes', jsonb_build_object(
                'ema20_slope', ema20_slope, 'ema60_slope', ema60_slope, 'ema144_slope', ema144_slope, 'ema250_slope', ema250_slope,
                'ema333_slope', ema333_slope, 'd_ema60_slope', d_ema60_slope, 'd_ema144_slope', d_ema144_slope,
                'd_ema250_slope', d_ema250_slope, 'd_ema333_slope', d_ema333_slope
            ),
            'separations', jsonb_build_object(
                'sep_fast', sep_fast, 'sep_mid', sep_mid, 'dsep_fast_5', dsep_fast_5, 'dsep_mid_5', dsep_mid_5
            ),
            'atr', jsonb_build_object('atr', atr, 'atr_norm', atr_norm, 'atr_mean_20', atr_mean_20, 'atr_peak_10', atr_peak_10),
            'momentum', jsonb_build_object('rsi', rsi, 'rsi_slope_10', rsi_slope_10, 'adx', adx, 'adx_slope_10', adx_slope_10),
            'volume', jsonb_build_object('vo_z', vo_z),
            'latest_price', latest_price,
            'meta', jsonb_build_object('ts', ts, 'bars_seen', bars_seen, 'immature', immature)
        ),
        'uptrend_engine_v4', jsonb_build_object(
            'engine_version', engine_version, 'ts', ts, 'state', state, 'prev_state', prev_state, 'price', price,
            'flags', jsonb_build_object(
                'buy', buy, 'rebuy', rebuy, 'trim', trim, 'emergency_exit', emergency_exit, 'reclaimed_ema333', reclaimed_ema333,
                'exit_position', exit_position
            ),
            'scores', jsonb_build_object(
                'ts', ts_score, 'ts_with_boost', ts_with_boost, 'sr_boost', sr_boost, 'ox', ox, 'dx', dx, 'edx', edx
            )
        )
    ) as features
from uptrend_states;
comment on view state_features is 'Each engine record as the JSON snapshot that outside readers see on a position.';

create view delta_features as
select
    driver, timeframe, ts,
    jsonb_build_object(
        'regime_engine_v4', jsonb_build_object(
            'delta_a_raw', delta_a_raw, 'delta_e_raw', delta_e_raw, 'prev_state', prev_state, 'state', state, 'ts', ts,
            'flags', jsonb_build_object(
                'buy', buy, 'rebuy', rebuy, 'trim', trim, 'emergency_exit', emergency_exit, 'reclaimed_ema333', reclaimed_ema333,
                'exit_position', exit_position
            )
        )
    ) as features
from regime_deltas;
comment on view delta_features is 'Each mapper row as the JSON snapshot that outside readers see on a driver''s position row.';
