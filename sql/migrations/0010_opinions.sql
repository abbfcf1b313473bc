-- Second opinions: fitted models, what they said bar by bar, and the snapshot that consumers read. What was said stays said:
-- posteriors, change points, volatility regimes, transitions and snapshots take inserts only.

-- Quarter-hour bars of the composite of majors: read by the second opinions only.
alter table regime_price_data_ohlc drop constraint regime_price_data_ohlc_timeframe_check;
alter table regime_price_data_ohlc add constraint regime_price_data_ohlc_timeframe_check check (timeframe in ('1m', '15m', '1h', '1d'));
comment on column regime_price_data_ohlc.timeframe is 'Regime timeframe: 1m (micro), 1h (meso) or 1d (macro); ALT also 15m, for the second opinions.';

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception using
        errcode = 'restrict_violation',
        message = format('%s on %s is refused: what an opinion said is never changed', tg_op, tg_table_name),
        hint = 'A corrected formula or history needs a new so_version.';
end
$$;

create table hmm_models (
    model_id          text primary key check (model_id ~ '^[0-9a-f]{16}$'),
    series            text not null check (series in ('BTC', 'ETH', 'SOL', 'BNB', 'HYPE', 'ALT')),
    tf                text not null check (tf in ('1m', '15m', '1h')),
    so_version        text not null,
    status            text not null check (status in ('accepted', 'rejected')),
    reason            text check (
        reason in (
            'too_few_rows', 'zero_variance', 'fit_exception', 'non_finite', 'not_converged', 'bad_transition', 'tiny_variance', 'state_collapse'
        )
    ),
    train_first_ts    timestamptz,
    train_last_ts     timestamptz,
    train_end         timestamptz not null,
    effective_from    timestamptz,
    n_rows            integer not null check (n_rows >= 0),
    window_rows       integer not null check (window_rows > 0),
    tier              text check (tier in ('shallow', 'baseline', 'deep', 'full')),
    modifier          double precision check (modifier > 0 and modifier <= 1),
    log_likelihood    double precision,
    converged         boolean not null,
    iterations        integer,
    restart           integer,
    restart_lls       double precision [],
    feature_mean      double precision [] check (cardinality(feature_mean) = 4),
    feature_std       double precision [] check (cardinality(feature_std) = 4),
    means             double precision [] check (cardinality(means) = 12),
    vars              double precision [] check (cardinality(vars) = 12),
    transmat          double precision [] check (cardinality(transmat) = 9),
    start_p           double precision [] check (cardinality(start_p) = 3),
    occupancy         double precision [] check (cardinality(occupancy) = 3),
    label_stability   double precision check (label_stability between 0 and 1),
    compared_model_id text,
    resampled_share   double precision not null check (resampled_share between 0 and 1),
    one_sided_labels  boolean,
    weak_labels       boolean,
    lib_versions      jsonb not null,
    created_at        timestamptz not null default now(),
    constraint hmm_models_rejected_says_why check ((status = 'rejected') = (reason is not null)),
    constraint hmm_models_accepted_is_whole check (
        status = 'rejected'
        or num_nulls(
            train_first_ts, train_last_ts, effective_from, tier, modifier, log_likelihood, feature_mean, feature_std, means, vars, transmat,
            start_p, occupancy
        ) = 0
    ),
    constraint hmm_models_trained_before check (train_last_ts < train_end and train_end <= effective_from)
);
create unique index hmm_models_one_a_day on hmm_models (series, tf, so_version, ((effective_from at time zone 'UTC')::date))
where status = 'accepted';
create index hmm_models_in_force on hmm_models (series, tf, so_version, effective_from desc) where status = 'accepted';
create index hmm_models_attempts on hmm_models (series, tf, created_at desc);
comment on table hmm_models is 'Every fit of a hidden Markov model, accepted or not; label order is bearish, ranging, bullish.';
comment on column hmm_models.model_id is 'First 16 hex digits of a SHA-256 over inputs and parameters; of inputs and reason when rejected.';
comment on column hmm_models.series is 'BTC, ETH, SOL, BNB, HYPE or ALT (the composite).';
comment on column hmm_models.tf is 'Bar length: 1m, 15m or 1h.';
comment on column hmm_models.so_version is 'Version of the formulas; changes with any of them.';
comment on column hmm_models.status is 'accepted or rejected; a rejected fit changes nothing else.';
comment on column hmm_models.reason is 'Why it was rejected; NULL when accepted.';
comment on column hmm_models.train_first_ts is 'Open of the first training bar, UTC.';
comment on column hmm_models.train_last_ts is 'Open of the last training bar, UTC.';
comment on column hmm_models.train_end is 'Instant by which every training bar had closed, UTC.';
comment on column hmm_models.effective_from is 'First bar open the model may label, UTC; NULL when rejected.';
comment on column hmm_models.n_rows is 'Feature rows it was trained on.';
comment on column hmm_models.window_rows is 'Feature rows of a full training window.';
comment on column hmm_models.tier is 'Quality tier of n_rows: shallow, baseline, deep or full.';
comment on column hmm_models.modifier is 'Factor on the confidence of its labels.';
comment on column hmm_models.log_likelihood is 'Of the kept restart.';
comment on column hmm_models.converged is 'Last gain below tolerance before the iteration limit; not the flag of the library.';
comment on column hmm_models.iterations is 'Iterations of the kept restart.';
comment on column hmm_models.restart is 'Number of the kept restart.';
comment on column hmm_models.restart_lls is 'Log-likelihood of each restart; NaN where it was not usable.';
comment on column hmm_models.feature_mean is 'Mean of each feature over the training rows.';
comment on column hmm_models.feature_std is 'Population standard deviation of each feature over the training rows.';
comment on column hmm_models.means is 'State means of the standardised features, 3 x 4 by rows.';
comment on column hmm_models.vars is 'State variances of the standardised features, 3 x 4 by rows.';
comment on column hmm_models.transmat is 'Transition matrix, 3 x 3 by rows.';
comment on column hmm_models.start_p is 'Stationary distribution of the transition matrix.';
comment on column hmm_models.occupancy is 'Mean posterior share of each state over the training rows.';
comment on column hmm_models.label_stability is 'Share of recent rows labelled as by the model before; NULL for a first one.';
comment on column hmm_models.compared_model_id is 'The model before.';
comment on column hmm_models.resampled_share is 'Share of the training bars built from shorter ones.';
comment on column hmm_models.one_sided_labels is 'Not: bearish mean spread below zero below bullish mean spread.';
comment on column hmm_models.weak_labels is 'Adjacent labels differ by less than 0.10 in the standardised spread.';
comment on column hmm_models.lib_versions is 'Versions of the libraries that fitted it.';
comment on column hmm_models.created_at is 'When the fit was stored.';

create table hmm_posteriors (
    series         text not null check (series in ('BTC', 'ETH', 'SOL', 'BNB', 'HYPE', 'ALT')),
    tf             text not null check (tf in ('1m', '15m', '1h')),
    bar_ts         timestamptz not null,
    so_version     text not null,
    p_bear         double precision not null check (p_bear between 0 and 1),
    p_range        double precision not null check (p_range between 0 and 1),
    p_bull         double precision not null check (p_bull between 0 and 1),
    label          text not null check (label in ('bearish', 'ranging', 'bullish', 'unknown')),
    confidence_raw double precision not null check (confidence_raw between 0 and 1),
    confidence     double precision not null check (confidence between 0 and 1),
    bias           double precision not null check (bias between -1 and 1),
    entropy        double precision not null check (entropy between 0 and 1),
    p_switch       double precision check (p_switch between 0 and 1),
    p_switch60     double precision check (p_switch60 between 0 and 1),
    tier           text not null check (tier in ('no_model', 'shallow', 'baseline', 'deep', 'full')),
    modifier       double precision not null check (modifier between 0 and 1),
    model_id       text,
    status         text not null check (
        status in ('ok', 'error', 'no_model', 'model_expired', 'missing_bar', 'nan_feature', 'short_history', 'stale')
    ),
    rows_used      integer not null check (rows_used between 0 and 64),
    tracker        jsonb,
    origin         text not null check (origin in ('live', 'backfill')),
    written_at     timestamptz not null default now(),
    primary key (series, tf, bar_ts, so_version),
    constraint hmm_posteriors_sum check (abs(p_bear + p_range + p_bull - 1) <= 1e-9),
    constraint hmm_posteriors_ok_is_known check ((status = 'ok') = (model_id is not null and label <> 'unknown'))
) partition by list (tf);
create table hmm_posteriors_15m partition of hmm_posteriors for values in ('15m');
create table hmm_posteriors_1h partition of hmm_posteriors for values in ('1h');
create table hmm_posteriors_1m partition of hmm_posteriors for values in ('1m') partition by range (bar_ts);
create trigger hmm_posteriors_append_only before update or delete on hmm_posteriors for each row execute function refuse_change();
comment on table hmm_posteriors is 'What a model said of each slot of the grid: the forward posterior, its label and measures; inserted once.';
comment on column hmm_posteriors.series is 'BTC, ETH, SOL, BNB, HYPE or ALT.';
comment on column hmm_posteriors.tf is 'Bar length: 1m, 15m or 1h.';
comment on column hmm_posteriors.bar_ts is 'Open of the slot, UTC.';
comment on column hmm_posteriors.so_version is 'Version of the formulas.';
comment on column hmm_posteriors.p_bear is 'Probability of the bearish state; 1/3 when unknown.';
comment on column hmm_posteriors.p_range is 'Probability of the ranging state; 1/3 when unknown.';
comment on column hmm_posteriors.p_bull is 'Probability of the bullish state; 1/3 when unknown.';
comment on column hmm_posteriors.label is 'Largest of the three; ranging on a tie; unknown when status is not ok.';
comment on column hmm_posteriors.confidence_raw is 'Largest minus second largest probability.';
comment on column hmm_posteriors.confidence is 'confidence_raw times the modifier of the model.';
comment on column hmm_posteriors.bias is 'p_bull - p_bear, 0 below a raw confidence of 0.15.';
comment on column hmm_posteriors.entropy is 'Shannon entropy of the three over ln 3.';
comment on column hmm_posteriors.p_switch is 'Probability of another state at the next bar; NULL when unknown.';
comment on column hmm_posteriors.p_switch60 is 'Probability of leaving the state within 60 minutes; NULL when unknown.';
comment on column hmm_posteriors.tier is 'Quality tier of the model.';
comment on column hmm_posteriors.modifier is 'Factor of the tier; 0 without a model.';
comment on column hmm_posteriors.model_id is 'Model that labelled it; NULL when unknown.';
comment on column hmm_posteriors.status is 'ok, or why the slot is unknown.';
comment on column hmm_posteriors.rows_used is 'Feature rows the filter ran over.';
comment on column hmm_posteriors.tracker is 'On 1h: state of the strategic tracker after this bar.';
comment on column hmm_posteriors.origin is 'live: written within the freshness limit of its close; backfill: later.';
comment on column hmm_posteriors.written_at is 'When the row was written.';

create table changepoints (
    series       text not null check (series in ('BTC', 'ETH', 'SOL', 'BNB', 'HYPE', 'ALT')),
    tf           text not null check (tf in ('1m', '15m', '1h')),
    bar_ts       timestamptz not null,
    so_version   text not null,
    z            double precision,
    cp_prob      double precision check (cp_prob between 0 and 1),
    expected_run double precision not null check (expected_run between 0 and 500),
    run_mode     integer not null check (run_mode between 0 and 500),
    mode_prob    double precision not null check (mode_prob between 0 and 1),
    n_obs        integer not null check (n_obs >= 0),
    level        text not null check (level in ('warming', 'none', 'alert', 'urgent', 'unknown')),
    alert_since  timestamptz,
    status       text not null check (
        status in ('ok', 'error', 'no_model', 'model_expired', 'missing_bar', 'nan_feature', 'short_history', 'stale')
    ),
    origin       text not null check (origin in ('live', 'backfill')),
    written_at   timestamptz not null default now(),
    primary key (series, tf, bar_ts, so_version)
) partition by list (tf);
create table changepoints_15m partition of changepoints for values in ('15m');
create table changepoints_1h partition of changepoints for values in ('1h');
create table changepoints_1m partition of changepoints for values in ('1m') partition by range (bar_ts);
create trigger changepoints_append_only before update or delete on changepoints for each row execute function refuse_change();
comment on table changepoints is 'Bayesian online change point detection, one row per slot of the grid; inserted once.';
comment on column changepoints.series is 'BTC, ETH, SOL, BNB, HYPE or ALT.';
comment on column changepoints.tf is 'Bar length: 1m, 15m or 1h.';
comment on column changepoints.bar_ts is 'Open of the slot, UTC.';
comment on column changepoints.so_version is 'Version of the formulas.';
comment on column changepoints.z is 'Standardised log return that was observed; NULL when missing.';
comment on column changepoints.cp_prob is 'Probability that the present run is shorter than 10 bars; NULL while warming or missing.';
comment on column changepoints.expected_run is 'Expected length of the present run, bars.';
comment on column changepoints.run_mode is 'Most probable run length, bars.';
comment on column changepoints.mode_prob is 'Its probability.';
comment on column changepoints.n_obs is 'Observations since the state was last reset.';
comment on column changepoints.level is 'warming, none, alert (0.30), urgent (0.50), or unknown on a missing observation.';
comment on column changepoints.alert_since is 'First bar of the unbroken run at or above 0.30, UTC.';
comment on column changepoints.status is 'ok, or why nothing was observed.';
comment on column changepoints.origin is 'live: written within the freshness limit of its close; backfill: later.';
comment on column changepoints.written_at is 'When the row was written.';

create table changepoint_states (
    series      text not null check (series in ('BTC', 'ETH', 'SOL', 'BNB', 'HYPE', 'ALT')),
    tf          text not null check (tf in ('1m', '15m', '1h')),
    so_version  text not null,
    bar_ts      timestamptz not null,
    n_obs       integer not null check (n_obs >= 0),
    missing     integer not null check (missing >= 0),
    alert_since timestamptz,
    run_p       bytea not null,
    mu          bytea not null,
    kappa       bytea not null,
    alpha       bytea not null,
    beta        bytea not null,
    primary key (series, tf, so_version, bar_ts)
);
comment on table changepoint_states is 'Cache of the detector''s state after a slot: the last of each day and the newest. May be deleted; it is rebuilt.';
comment on column changepoint_states.series is 'BTC, ETH, SOL, BNB, HYPE or ALT.';
comment on column changepoint_states.tf is 'Bar length: 1m, 15m or 1h.';
comment on column changepoint_states.so_version is 'Version of the formulas.';
comment on column changepoint_states.bar_ts is 'Open of the slot the state is after, UTC.';
comment on column changepoint_states.n_obs is 'Observations since the state was last reset.';
comment on column changepoint_states.missing is 'Missing slots in a row.';
comment on column changepoint_states.alert_since is 'First bar of the running alert, UTC; NULL without one.';
comment on column changepoint_states.run_p is 'Probability of each run length, little-endian float64.';
comment on column changepoint_states.mu is 'Location per run length, little-endian float64.';
comment on column changepoint_states.kappa is 'Pseudo-observations of the location per run length, little-endian float64.';
comment on column changepoint_states.alpha is 'Shape of the variance per run length, little-endian float64.';
comment on column changepoint_states.beta is 'Scale of the variance per run length, little-endian float64.';

create table volatility_regimes (
    series          text not null check (series in ('BTC', 'ETH', 'SOL', 'BNB', 'HYPE', 'ALT')),
    tf              text not null check (tf in ('1m', '15m', '1h')),
    bar_ts          timestamptz not null,
    so_version      text not null,
    ema             double precision,
    atr             double precision check (atr >= 0),
    band            double precision check (band >= 0),
    q95             double precision check (q95 >= 0),
    band_rank       double precision check (band_rank between 0 and 1),
    n_bands         integer not null check (n_bands >= 0),
    vol_axis        text not null check (vol_axis in ('low', 'elevated', 'shock', 'unknown')),
    direction_axis  text not null check (direction_axis in ('up', 'down', 'flat', 'unknown')),
    raw             text not null check (raw in ('up', 'down', 'neutral_low_vol', 'neutral_high_vol', 'high_vol_shock', 'unknown')),
    active          text not null check (active in ('up', 'down', 'neutral_low_vol', 'neutral_high_vol', 'high_vol_shock', 'unknown')),
    held            text not null check (held in ('up', 'down', 'neutral_low_vol', 'neutral_high_vol', 'high_vol_shock', 'unknown')),
    candidate       text not null check (candidate in ('up', 'down', 'neutral_low_vol', 'neutral_high_vol', 'high_vol_shock', 'unknown')),
    candidate_count integer not null check (candidate_count >= 0),
    unknown_run     integer not null check (unknown_run >= 0),
    method          text not null check (method in ('percentile', 'fallback', 'fixed')),
    status          text not null check (
        status in ('ok', 'error', 'no_model', 'model_expired', 'missing_bar', 'nan_feature', 'short_history', 'stale')
    ),
    origin          text not null check (origin in ('live', 'backfill')),
    written_at      timestamptz not null default now(),
    primary key (series, tf, bar_ts, so_version)
);
create trigger volatility_regimes_append_only before update or delete on volatility_regimes
for each row execute function refuse_change();
comment on table volatility_regimes is 'Volatility and direction regime, one row per slot of the grid; inserted once.';
comment on column volatility_regimes.series is 'BTC, ETH, SOL, BNB, HYPE or ALT.';
comment on column volatility_regimes.tf is 'Bar length: 15m or 1h; 1m for the fixed method only.';
comment on column volatility_regimes.bar_ts is 'Open of the slot, UTC.';
comment on column volatility_regimes.so_version is 'Version of the formulas.';
comment on column volatility_regimes.ema is 'EMA50 of the closes over the look-back.';
comment on column volatility_regimes.atr is 'Wilder ATR14 over the look-back.';
comment on column volatility_regimes.band is 'atr over close.';
comment on column volatility_regimes.q95 is '95th percentile of the bands of the 90 days before.';
comment on column volatility_regimes.band_rank is 'Share of those bands at or below this one.';
comment on column volatility_regimes.n_bands is 'Bands it was compared with.';
comment on column volatility_regimes.vol_axis is 'low, elevated, shock or unknown.';
comment on column volatility_regimes.direction_axis is 'up, down, flat or unknown.';
comment on column volatility_regimes.raw is 'Regime of this bar alone.';
comment on column volatility_regimes.active is 'Regime in force after the hold rule, as published.';
comment on column volatility_regimes.held is 'Regime the hold rule keeps, also through unknown bars; unknown for none.';
comment on column volatility_regimes.candidate is 'Regime that may become active; unknown for none.';
comment on column volatility_regimes.candidate_count is 'Bars in a row that said so.';
comment on column volatility_regimes.unknown_run is 'Unknown bars in a row.';
comment on column volatility_regimes.method is 'percentile; fallback: constants until there are enough bands; fixed: constants for 1m.';
comment on column volatility_regimes.status is 'ok, or what was lacking.';
comment on column volatility_regimes.origin is 'live: written within the freshness limit of its close; backfill: later.';
comment on column volatility_regimes.written_at is 'When the row was written.';

create table regime_transitions (
    transition_id      text primary key check (transition_id ~ '^[0-9a-f]{16}$'),
    series             text not null check (series in ('BTC', 'ETH', 'SOL', 'BNB', 'HYPE', 'ALT')),
    tf                 text not null check (tf = '1h'),
    so_version         text not null,
    from_label         text not null check (from_label in ('bearish', 'ranging', 'bullish')),
    to_label           text not null check (to_label in ('bearish', 'ranging', 'bullish')),
    first_bar_ts       timestamptz not null,
    confirmed_bar_ts   timestamptz not null,
    confirmation_count integer not null check (confirmation_count >= 2),
    confidence         double precision not null check (confidence between 0 and 1),
    model_id_before    text,
    model_id_after     text not null,
    refit_within       boolean not null,
    expires_at         timestamptz not null,
    origin             text not null check (origin in ('live', 'backfill')),
    written_at         timestamptz not null default now(),
    unique (series, tf, so_version, first_bar_ts),
    check (from_label <> to_label),
    check (first_bar_ts < confirmed_bar_ts and confirmed_bar_ts < expires_at)
);
create trigger regime_transitions_append_only before update or delete on regime_transitions
for each row execute function refuse_change();
comment on table regime_transitions is 'Confirmed changes of the strategic 1h label; inserted once.';
comment on column regime_transitions.transition_id is 'First 16 hex digits of a SHA-256 over series, tf, so_version, first bar, from and to.';
comment on column regime_transitions.series is 'BTC, ETH, SOL, BNB, HYPE or ALT.';
comment on column regime_transitions.tf is 'Bar length, always 1h.';
comment on column regime_transitions.so_version is 'Version of the formulas.';
comment on column regime_transitions.from_label is 'Label before.';
comment on column regime_transitions.to_label is 'Label after.';
comment on column regime_transitions.first_bar_ts is 'Open of the first bar with the new label, UTC.';
comment on column regime_transitions.confirmed_bar_ts is 'Open of the bar that confirmed it, UTC.';
comment on column regime_transitions.confirmation_count is 'Bars that voted for it.';
comment on column regime_transitions.confidence is 'Confidence of the confirming bar.';
comment on column regime_transitions.model_id_before is 'Model of the bar before the first; NULL when it was unknown.';
comment on column regime_transitions.model_id_after is 'Model of the confirming bar.';
comment on column regime_transitions.refit_within is 'The model changed in between: the change may be of the model, so it must not be consumed.';
comment on column regime_transitions.expires_at is 'From here on it must not be consumed, UTC.';
comment on column regime_transitions.origin is 'live: written within the freshness limit of its confirming close; backfill: later.';
comment on column regime_transitions.written_at is 'When the row was written.';

create table transition_uses (
    consumer      text not null check (consumer in ('alert', 'report', 'evaluation')),
    transition_id text not null references regime_transitions,
    used_at       timestamptz not null default now(),
    primary key (consumer, transition_id)
);
comment on table transition_uses is 'Who has acted on a transition: each consumer at most once, in the transaction that acts.';
comment on column transition_uses.consumer is 'alert, report or evaluation; nothing of the trading path.';
comment on column transition_uses.transition_id is 'The transition.';
comment on column transition_uses.used_at is 'When it was used, UTC.';

create table regime_snapshots (
    series              text not null check (series in ('BTC', 'ETH', 'SOL', 'BNB', 'HYPE', 'ALT')),
    snapshot_ts         timestamptz not null,
    so_version          text not null,
    p_1m                double precision [] not null check (cardinality(p_1m) = 3),
    label_1m            text not null check (label_1m in ('bearish', 'ranging', 'bullish', 'unknown')),
    conf_1m             double precision not null check (conf_1m between 0 and 1),
    bias_1m             double precision not null check (bias_1m between -1 and 1),
    entropy_1m          double precision not null check (entropy_1m between 0 and 1),
    p_switch60_1m       double precision check (p_switch60_1m between 0 and 1),
    status_1m           text not null check (
        status_1m in ('ok', 'error', 'no_model', 'model_expired', 'missing_bar', 'nan_feature', 'short_history', 'stale')
    ),
    age_s_1m            integer,
    tier_1m             text not null check (tier_1m in ('no_model', 'shallow', 'baseline', 'deep', 'full')),
    model_id_1m         text,
    cp_prob_1m          double precision check (cp_prob_1m between 0 and 1),
    cp_level_1m         text not null check (cp_level_1m in ('warming', 'none', 'alert', 'urgent', 'unknown')),
    p_15m               double precision [] not null check (cardinality(p_15m) = 3),
    label_15m           text not null check (label_15m in ('bearish', 'ranging', 'bullish', 'unknown')),
    conf_15m            double precision not null check (conf_15m between 0 and 1),
    bias_15m            double precision not null check (bias_15m between -1 and 1),
    entropy_15m         double precision not null check (entropy_15m between 0 and 1),
    p_switch60_15m      double precision check (p_switch60_15m between 0 and 1),
    status_15m          text not null check (
        status_15m in ('ok', 'error', 'no_model', 'model_expired', 'missing_bar', 'nan_feature', 'short_history', 'stale')
    ),
    age_s_15m           integer,
    tier_15m            text not null check (tier_15m in ('no_model', 'shallow', 'baseline', 'deep', 'full')),
    model_id_15m        text,
    cp_prob_15m         double precision check (cp_prob_15m between 0 and 1),
    cp_level_15m        text not null check (cp_level_15m in ('warming', 'none', 'alert', 'urgent', 'unknown')),
    p_1h                double precision [] not null check (cardinality(p_1h) = 3),
    label_1h            text not null check (label_1h in ('bearish', 'ranging', 'bullish', 'unknown')),
    conf_1h             double precision not null check (conf_1h between 0 and 1),
    bias_1h             double precision not null check (bias_1h between -1 and 1),
    entropy_1h          double precision not null check (entropy_1h between 0 and 1),
    p_switch60_1h       double precision check (p_switch60_1h between 0 and 1),
    status_1h           text not null check (
        status_1h in ('ok', 'error', 'no_model', 'model_expired', 'missing_bar', 'nan_feature', 'short_history', 'stale')
    ),
    age_s_1h            integer,
    tier_1h             text not null check (tier_1h in ('no_model', 'shallow', 'baseline', 'deep', 'full')),
    model_id_1h         text,
    cp_prob_1h          double precision check (cp_prob_1h between 0 and 1),
    cp_level_1h         text not null check (cp_level_1h in ('warming', 'none', 'alert', 'urgent', 'unknown')),
    consensus_p         double precision [] not null check (cardinality(consensus_p) = 3),
    consensus_label     text not null check (consensus_label in ('bearish', 'ranging', 'bullish', 'unknown')),
    consensus_conf      double precision not null check (consensus_conf between 0 and 1),
    consensus_bias      double precision not null check (consensus_bias between -1 and 1),
    consensus_entropy   double precision not null check (consensus_entropy between 0 and 1),
    agreement           text not null check (
        agreement in ('full', '15m_neutral', '1m_cooling', 'conflict', '15m_only', '1m_only', 'none')
    ),
    belief_p            double precision [] not null check (cardinality(belief_p) = 3),
    belief_entropy      double precision not null check (belief_entropy between 0 and 1),
    direction_score     double precision not null check (direction_score between -1 and 1),
    belief_p_switch60   double precision check (belief_p_switch60 between 0 and 1),
    coverage            double precision not null check (coverage between 0 and 1),
    strategic_label     text not null check (strategic_label in ('bearish', 'ranging', 'bullish', 'unknown')),
    strategic_candidate text check (strategic_candidate in ('bearish', 'ranging', 'bullish')),
    strategic_count     integer not null check (strategic_count >= 0),
    spell_age_bars      integer check (spell_age_bars >= 0),
    p_spell_4h          double precision check (p_spell_4h between 0 and 1),
    p_spell_24h         double precision check (p_spell_24h between 0 and 1),
    transition_id       text,
    vol_regime          text not null check (
        vol_regime in ('up', 'down', 'neutral_low_vol', 'neutral_high_vol', 'high_vol_shock', 'unknown')
    ),
    vol_axis            text not null check (vol_axis in ('low', 'elevated', 'shock', 'unknown')),
    direction_axis      text not null check (direction_axis in ('up', 'down', 'flat', 'unknown')),
    band                double precision check (band >= 0),
    band_rank           double precision check (band_rank between 0 and 1),
    vol_status          text not null,
    trend_1m            text check (trend_1m in ('S0', 'S1', 'S2', 'S3', 'S4')),
    trend_1h            text check (trend_1h in ('S0', 'S1', 'S2', 'S3', 'S4')),
    trend_1d            text check (trend_1d in ('S0', 'S1', 'S2', 'S3', 'S4')),
    throttle_shadow     double precision not null check (throttle_shadow between 0.5 and 1),
    throttle_parts      jsonb not null,
    origin              text not null check (origin in ('live', 'backfill')),
    written_at          timestamptz not null default now(),
    primary key (series, snapshot_ts, so_version)
);
create trigger regime_snapshots_append_only before update or delete on regime_snapshots for each row execute function refuse_change();
comment on table regime_snapshots is 'All opinions on a series as they stood at a minute: the one thing consumers read. Inserted once.';
comment on column regime_snapshots.series is 'BTC, ETH, SOL, BNB, HYPE or ALT.';
comment on column regime_snapshots.snapshot_ts is 'The minute, UTC.';
comment on column regime_snapshots.so_version is 'Version of the formulas.';
comment on column regime_snapshots.p_1m is 'Posterior of 1m: bearish, ranging, bullish.';
comment on column regime_snapshots.label_1m is 'Label of 1m.';
comment on column regime_snapshots.conf_1m is 'Confidence of 1m.';
comment on column regime_snapshots.bias_1m is 'Bias of 1m.';
comment on column regime_snapshots.entropy_1m is 'Entropy of 1m.';
comment on column regime_snapshots.p_switch60_1m is 'Probability that 1m leaves its state within 60 minutes.';
comment on column regime_snapshots.status_1m is 'ok, or why 1m is unknown.';
comment on column regime_snapshots.age_s_1m is 'Seconds from the close of the newest row of 1m; NULL without one.';
comment on column regime_snapshots.tier_1m is 'Quality tier of the model of 1m.';
comment on column regime_snapshots.model_id_1m is 'Model of 1m; NULL when unknown.';
comment on column regime_snapshots.cp_prob_1m is 'Probability of a young run on 1m.';
comment on column regime_snapshots.cp_level_1m is 'Change point level of 1m.';
comment on column regime_snapshots.p_15m is 'Posterior of 15m: bearish, ranging, bullish.';
comment on column regime_snapshots.label_15m is 'Label of 15m.';
comment on column regime_snapshots.conf_15m is 'Confidence of 15m.';
comment on column regime_snapshots.bias_15m is 'Bias of 15m.';
comment on column regime_snapshots.entropy_15m is 'Entropy of 15m.';
comment on column regime_snapshots.p_switch60_15m is 'Probability that 15m leaves its state within 60 minutes.';
comment on column regime_snapshots.status_15m is 'ok, or why 15m is unknown.';
comment on column regime_snapshots.age_s_15m is 'Seconds from the close of the newest row of 15m; NULL without one.';
comment on column regime_snapshots.tier_15m is 'Quality tier of the model of 15m.';
comment on column regime_snapshots.model_id_15m is 'Model of 15m; NULL when unknown.';
comment on column regime_snapshots.cp_prob_15m is 'Probability of a young run on 15m.';
comment on column regime_snapshots.cp_level_15m is 'Change point level of 15m.';
comment on column regime_snapshots.p_1h is 'Posterior of 1h: bearish, ranging, bullish.';
comment on column regime_snapshots.label_1h is 'Label of 1h.';
comment on column regime_snapshots.conf_1h is 'Confidence of 1h.';
comment on column regime_snapshots.bias_1h is 'Bias of 1h.';
comment on column regime_snapshots.entropy_1h is 'Entropy of 1h.';
comment on column regime_snapshots.p_switch60_1h is 'Probability that 1h leaves its state within 60 minutes.';
comment on column regime_snapshots.status_1h is 'ok, or why 1h is unknown.';
comment on column regime_snapshots.age_s_1h is 'Seconds from the close of the newest row of 1h; NULL without one.';
comment on column regime_snapshots.tier_1h is 'Quality tier of the model of 1h.';
comment on column regime_snapshots.model_id_1h is 'Model of 1h; NULL when unknown.';
comment on column regime_snapshots.cp_prob_1h is 'Probability of a young run on 1h.';
comment on column regime_snapshots.cp_level_1h is 'Change point level of 1h.';
comment on column regime_snapshots.consensus_p is '0.3 p_1m + 0.7 p_15m; unknown enters as uniform.';
comment on column regime_snapshots.consensus_label is 'Label that 1m and 15m agree on.';
comment on column regime_snapshots.consensus_conf is 'Confidence of the agreement.';
comment on column regime_snapshots.consensus_bias is 'Bias of the agreement.';
comment on column regime_snapshots.consensus_entropy is 'Entropy of consensus_p over ln 3.';
comment on column regime_snapshots.agreement is 'How 1m and 15m stand to each other.';
comment on column regime_snapshots.belief_p is '0.21 p_1m + 0.49 p_15m + 0.30 p_1h; unknown enters as uniform.';
comment on column regime_snapshots.belief_entropy is 'Entropy of belief_p over ln 3.';
comment on column regime_snapshots.direction_score is 'Bullish minus bearish belief.';
comment on column regime_snapshots.belief_p_switch60 is 'Weighted probability of a switch within 60 minutes over the known timeframes.';
comment on column regime_snapshots.coverage is 'Weight of the known timeframes in the belief.';
comment on column regime_snapshots.strategic_label is 'Confirmed 1h label.';
comment on column regime_snapshots.strategic_candidate is 'Label waiting for confirmation.';
comment on column regime_snapshots.strategic_count is 'Bars that voted for the candidate.';
comment on column regime_snapshots.spell_age_bars is 'Hours since the first bar of the present spell; NULL when unknown.';
comment on column regime_snapshots.p_spell_4h is 'Share of such spells that last 4 more hours; descriptive only.';
comment on column regime_snapshots.p_spell_24h is 'Share of such spells that last 24 more hours; descriptive only.';
comment on column regime_snapshots.transition_id is 'Newest unexpired transition.';
comment on column regime_snapshots.vol_regime is 'Volatility regime of 1h.';
comment on column regime_snapshots.vol_axis is 'low, elevated, shock or unknown.';
comment on column regime_snapshots.direction_axis is 'up, down, flat or unknown.';
comment on column regime_snapshots.band is 'ATR over close of 1h.';
comment on column regime_snapshots.band_rank is 'Its rank among the 90 days before.';
comment on column regime_snapshots.vol_status is 'ok, or what was lacking.';
comment on column regime_snapshots.trend_1m is 'State of the trend engine on 1m; NULL when it has none for the series.';
comment on column regime_snapshots.trend_1h is 'State of the trend engine on 1h; NULL when it has none for the series.';
comment on column regime_snapshots.trend_1d is 'State of the trend engine on 1d; NULL when it has none for the series.';
comment on column regime_snapshots.throttle_shadow is 'Factor on the size of entries that the throttle would set, whether it is on or not.';
comment on column regime_snapshots.throttle_parts is 'm_vol, m_cp and m_bear, the smallest of which it is.';
comment on column regime_snapshots.origin is 'live: written within the freshness limit of its minute; backfill: later.';
comment on column regime_snapshots.written_at is 'When the row was written.';

create table opinion_evaluation_runs (
    evaluation_id  text primary key check (evaluation_id ~ '^[0-9a-f]{16}$'),
    so_version     text not null,
    evaluated_from timestamptz not null,
    evaluated_to   timestamptz not null,
    origin         text not null check (origin in ('live', 'backfill')),
    m_tests        integer not null check (m_tests >= 0),
    bound          double precision,
    report         jsonb not null,
    created_at     timestamptz not null default now(),
    check (evaluated_from < evaluated_to)
);
comment on table opinion_evaluation_runs is 'Evaluations of the opinions; one id for the rows of a run. It switches nothing.';
comment on column opinion_evaluation_runs.evaluation_id is 'First 16 hex digits of a SHA-256 over so_version, window, origin and results.';
comment on column opinion_evaluation_runs.so_version is 'Version of the formulas.';
comment on column opinion_evaluation_runs.evaluated_from is 'First instant of the window, UTC.';
comment on column opinion_evaluation_runs.evaluated_to is 'End of the window, exclusive, UTC.';
comment on column opinion_evaluation_runs.origin is 'Which snapshots were read: live or backfill; never mixed.';
comment on column opinion_evaluation_runs.m_tests is 'Number of tests.';
comment on column opinion_evaluation_runs.bound is 'Bonferroni bound on abs(t).';
comment on column opinion_evaluation_runs.report is 'Calibration, flips, alarms, label stability and the answer to the throttle''s rule.';
comment on column opinion_evaluation_runs.created_at is 'When it was computed.';

create table opinion_evaluations (
    evaluation_id     text not null references opinion_evaluation_runs on delete cascade,
    series            text not null check (series in ('BTC', 'ETH', 'SOL', 'BNB', 'HYPE', 'ALT')),
    evaluated_window  text not null check (evaluated_window in ('month', 'year', 'custom')),
    opinion           text not null,
    class             text not null,
    horizon_h         integer not null check (horizon_h > 0),
    n                 integer not null check (n >= 0),
    n_eff             double precision not null,
    mean_diff         double precision,
    t                 double precision,
    mean_abs          double precision,
    fwd_vol           double precision,
    hit_rate          double precision check (hit_rate between 0 and 1),
    spearman          double precision check (spearman between -1 and 1),
    spearman_baseline double precision check (spearman_baseline between -1 and 1),
    m_tests           integer not null,
    bound             double precision,
    passed            boolean not null,
    origin            text not null check (origin in ('live', 'backfill')),
    created_at        timestamptz not null default now(),
    primary key (evaluation_id, series, evaluated_window, opinion, class, horizon_h)
);
comment on table opinion_evaluations is 'What followed each class of each opinion, one row per horizon.';
comment on column opinion_evaluations.evaluation_id is 'The run.';
comment on column opinion_evaluations.series is 'BTC, ETH, SOL, BNB, HYPE or ALT.';
comment on column opinion_evaluations.evaluated_window is 'month: the month before; year: the 12 months before; custom: as asked for.';
comment on column opinion_evaluations.opinion is 'Which opinion or score.';
comment on column opinion_evaluations.class is 'Class of the opinion; score for scores.';
comment on column opinion_evaluations.horizon_h is 'Hours ahead.';
comment on column opinion_evaluations.n is 'Hours in the class.';
comment on column opinion_evaluations.n_eff is 'n over the horizon: windows that do not overlap.';
comment on column opinion_evaluations.mean_diff is 'Mean forward log return minus the unconditional mean.';
comment on column opinion_evaluations.t is 'Its t-statistic with n_eff; NULL below 30.';
comment on column opinion_evaluations.mean_abs is 'Mean absolute forward log return.';
comment on column opinion_evaluations.fwd_vol is 'Mean standard deviation of the hourly returns ahead.';
comment on column opinion_evaluations.hit_rate is 'Share of hours whose forward return has the sign of the class; NULL where it has none.';
comment on column opinion_evaluations.spearman is 'Rank correlation of the score with the volatility ahead.';
comment on column opinion_evaluations.spearman_baseline is 'The same of the trailing 24 h volatility.';
comment on column opinion_evaluations.m_tests is 'Number of tests in the run.';
comment on column opinion_evaluations.bound is 'Bonferroni bound on abs(t).';
comment on column opinion_evaluations.passed is 'abs(t) reaches the bound.';
comment on column opinion_evaluations.origin is 'Which snapshots were read: live or backfill.';
comment on column opinion_evaluations.created_at is 'When it was computed.';

-- Minutes are kept for 90 days by whole months. The pipeline's role may not change tables, so these two do it with their owner's rights.
create function ensure_opinion_months(first_ts timestamptz, last_ts timestamptz) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    parent text;
    month timestamptz;
    part text;
begin
    foreach parent in array array['hmm_posteriors_1m', 'changepoints_1m'] loop
        for month in
            select generate_series(date_trunc('month', first_ts, 'UTC'), last_ts, interval '1 month')
        loop
            part := format('%s_%s', parent, to_char(month at time zone 'UTC', 'YYYYMM'));
            continue when to_regclass(part) is not null;
            perform pg_advisory_xact_lock(hashtext(parent));
            execute format(
                'create table if not exists %I partition of %I for values from (%L) to (%L)', part, parent, month, month + interval '1 month'
            );
        end loop;
    end loop;
end
$$;
comment on function ensure_opinion_months is 'Creates the monthly partitions of 1m posteriors and change points for a span of bars.';

create function drop_opinion_months(before_ts timestamptz) returns setof text
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    part text;
begin
    for part in
        select c.relname from pg_inherits as i
        join pg_class as c on c.oid = i.inhrelid
        where i.inhparent in ('hmm_posteriors_1m'::regclass, 'changepoints_1m'::regclass)
            and to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month' <= before_ts at time zone 'UTC'
        order by c.relname
    loop
        execute format('drop table %I', part);
        return next part;
    end loop;
end
$$;
comment on function drop_opinion_months is 'Drops the monthly partitions of 1m posteriors and change points that end at or before an instant.';
revoke execute on function ensure_opinion_months, drop_opinion_months from public;
