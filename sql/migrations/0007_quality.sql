-- How good the bars are: revisions, watermarks, validity, and what became of a gap.

alter table bar_gaps add column attempts integer not null default 1;
alter table bar_gaps add column last_asked_at timestamptz not null default now();
comment on column bar_gaps.attempts is 'Answers that should have held the bar and did not.';
comment on column bar_gaps.last_asked_at is 'When the vendors were last asked for it.';
comment on column bar_gaps.reason is 'missing, or vendor_none: asked several times, the vendors have the bars on both sides and not this one.';
comment on column bar_gaps.detected_at is 'When the hole was first seen.';
comment on column bar_quarantine.detected_at is 'When these values were first refused.';

create table bar_revisions (
    id         bigint generated always as identity primary key,
    series     text not null,
    timeframe  text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    timestamp  timestamptz not null,
    old_open   double precision not null,
    old_high   double precision not null,
    old_low    double precision not null,
    old_close  double precision not null,
    old_volume double precision not null,
    old_source text not null,
    new_open   double precision not null,
    new_high   double precision not null,
    new_low    double precision not null,
    new_close  double precision not null,
    new_volume double precision not null,
    new_source text not null,
    revised_at timestamptz not null default now()
);
create index bar_revisions_bar on bar_revisions (series, timeframe, timestamp);
comment on table bar_revisions is 'Final bars of vendors whose content changed afterwards; what follows from them is derived again.';
comment on column bar_revisions.id is 'Number of the revision.';
comment on column bar_revisions.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column bar_revisions.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column bar_revisions.timestamp is 'Open of the bar, UTC.';
comment on column bar_revisions.old_open is 'Open before.';
comment on column bar_revisions.old_high is 'High before.';
comment on column bar_revisions.old_low is 'Low before.';
comment on column bar_revisions.old_close is 'Close before.';
comment on column bar_revisions.old_volume is 'Quote volume before.';
comment on column bar_revisions.old_source is 'Who had delivered it.';
comment on column bar_revisions.new_open is 'Open after.';
comment on column bar_revisions.new_high is 'High after.';
comment on column bar_revisions.new_low is 'Low after.';
comment on column bar_revisions.new_close is 'Close after.';
comment on column bar_revisions.new_volume is 'Quote volume after.';
comment on column bar_revisions.new_source is 'Who delivered the change.';
comment on column bar_revisions.revised_at is 'When the change was written.';

create function record_bar_revision() returns trigger language plpgsql as $$
declare
    series text;
begin
    if tg_table_name = 'regime_price_data_ohlc' then
        series := 'regime:' || (to_jsonb(new) ->> 'driver');
    else
        series := 'token:' || (to_jsonb(new) ->> 'token_contract') || ':' || (to_jsonb(new) ->> 'chain');
    end if;
    insert into bar_revisions (
        series, timeframe, timestamp, old_open, old_high, old_low, old_close, old_volume, old_source,
        new_open, new_high, new_low, new_close, new_volume, new_source
    ) values (
        series, new.timeframe, new.timestamp, old.open_usd, old.high_usd, old.low_usd, old.close_usd, old.volume, old.source,
        new.open_usd, new.high_usd, new.low_usd, new.close_usd, new.volume, new.source
    );
    return null;
end
$$;
comment on function record_bar_revision() is 'Keeps what a final bar said before it was changed.';

-- Rollups, composites and copies change because a bar under them did: that one is the revision.
create trigger majors_price_data_ohlc_revised after update on majors_price_data_ohlc for each row
when (
    old.is_final and old.source <> 'rollup' and new.source <> 'rollup'
    and (old.open_usd, old.high_usd, old.low_usd, old.close_usd, old.volume)
    is distinct from (new.open_usd, new.high_usd, new.low_usd, new.close_usd, new.volume)
) execute function record_bar_revision();

create trigger lowcap_price_data_ohlc_revised after update on lowcap_price_data_ohlc for each row
when (
    old.is_final and old.source <> 'rollup' and new.source <> 'rollup'
    and (old.open_usd, old.high_usd, old.low_usd, old.close_usd, old.volume)
    is distinct from (new.open_usd, new.high_usd, new.low_usd, new.close_usd, new.volume)
) execute function record_bar_revision();

create trigger regime_price_data_ohlc_revised after update on regime_price_data_ohlc for each row
when (
    old.is_final and new.driver in ('BTC.d', 'USDT.d') and old.source <> 'rollup' and new.source <> 'rollup'
    and (old.open_usd, old.high_usd, old.low_usd, old.close_usd, old.volume)
    is distinct from (new.open_usd, new.high_usd, new.low_usd, new.close_usd, new.volume)
) execute function record_bar_revision();

create table ingest_watermarks (
    series           text not null,
    timeframe        text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    last_ts          timestamptz,
    source           text,
    last_asked_at    timestamptz not null,
    last_answered_at timestamptz,
    primary key (series, timeframe)
);
comment on table ingest_watermarks is 'How far each series has come, and when its vendors were last heard.';
comment on column ingest_watermarks.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column ingest_watermarks.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column ingest_watermarks.last_ts is 'Open of the newest bar a vendor gave, UTC; NULL: none yet.';
comment on column ingest_watermarks.source is 'Who gave that bar.';
comment on column ingest_watermarks.last_asked_at is 'When vendors were last asked, or delivered unasked.';
comment on column ingest_watermarks.last_answered_at is 'When one of them last gave a believable bar; NULL: never.';

create table bar_validity (
    series    text not null,
    timeframe text not null check (timeframe in ('1m', '5m', '15m', '1h', '4h', '1d')),
    timestamp timestamptz not null,
    score     double precision not null check (score between 0 and 1),
    gaps      double precision not null check (gaps between 0 and 1),
    flat      double precision not null check (flat between 0 and 1),
    outliers  double precision not null check (outliers between 0 and 1),
    agreement double precision not null check (agreement between 0 and 1),
    parts     double precision not null check (parts between 0 and 1),
    primary key (series, timeframe, timestamp)
);
comment on table bar_validity is 'Data validity of the bars that are not flawless: a bar without a row has the score 1.';
comment on column bar_validity.series is 'regime:<driver> or token:<contract>:<chain>.';
comment on column bar_validity.timeframe is 'Bar length: 1m, 5m, 15m, 1h, 4h or 1d.';
comment on column bar_validity.timestamp is 'Open of the bar, UTC.';
comment on column bar_validity.score is 'Product of the other five; staleness comes on top when it is read.';
comment on column bar_validity.gaps is 'Share of the recent grid times that have a bar.';
comment on column bar_validity.flat is 'Falls from 1 to 0 as a run of repeated bars grows long.';
comment on column bar_validity.outliers is 'Falls with the outliers and wrong units that were refused recently.';
comment on column bar_validity.agreement is 'Falls with the recent bars that a second venue contradicted.';
comment on column bar_validity.parts is 'Mean score of the bars that a driver''s bar is made of; 1 for other series.';
