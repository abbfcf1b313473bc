-- What the resident collector and the dominance question leave behind besides bars.

create table collector_heartbeats (
    instance        text not null,
    venue           text not null,
    beat_at         timestamptz not null,
    started_at      timestamptz not null,
    connected_at    timestamptz,
    last_message_at timestamptz,
    last_flush_at   timestamptz,
    last_bar_ts     timestamptz,
    connects        bigint not null check (connects >= 0),
    bars_written    bigint not null check (bars_written >= 0),
    problem         text,
    primary key (instance, venue)
);
comment on table collector_heartbeats is 'One row per collector and venue it listens to: is it alive, and does the venue speak?';
comment on column collector_heartbeats.instance is 'Name of the instance that collects (setting instance_name).';
comment on column collector_heartbeats.venue is 'Venue of the universe file.';
comment on column collector_heartbeats.beat_at is 'When the collector last wrote this row; older than two minutes means it is not running.';
comment on column collector_heartbeats.started_at is 'When the collector process started.';
comment on column collector_heartbeats.connected_at is 'When the present connection was made; NULL while there is none.';
comment on column collector_heartbeats.last_message_at is 'When the venue last sent a candle, on any connection.';
comment on column collector_heartbeats.last_flush_at is 'When bars of this venue were last written.';
comment on column collector_heartbeats.last_bar_ts is 'Open of the newest bar written from this venue, UTC.';
comment on column collector_heartbeats.connects is 'Connections made since the process started.';
comment on column collector_heartbeats.bars_written is 'Bars of this venue written since the process started; bars found equal are not counted.';
comment on column collector_heartbeats.problem is 'Why there is no connection; NULL while there is one.';

create table dominance_questions (
    source   text primary key,
    asked_at timestamptz not null,
    failures integer not null check (failures >= 0),
    problem  text,
    check ((failures = 0) = (problem is null))
);
comment on table dominance_questions is 'The last question for dominance to each vendor: it decides when the next one is due, across restarts.';
comment on column dominance_questions.source is 'Who was asked.';
comment on column dominance_questions.asked_at is 'When we asked last, answered or not.';
comment on column dominance_questions.failures is 'Questions in a row without a believable answer.';
comment on column dominance_questions.problem is 'Why the last question had no believable answer; NULL when it had one.';
