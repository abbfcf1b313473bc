-- Marks are only added and taken, never changed: who marks a series does not wait for who derives it.

alter table derivation_marks drop constraint derivation_marks_pkey;
alter table derivation_marks add column id bigint generated always as identity primary key;
alter table derivation_marks add column marked_at timestamptz not null default clock_timestamp();
create index derivation_marks_series on derivation_marks (stage, timeframe, series);
comment on column derivation_marks.id is 'Number of the mark; a series may have several, and the oldest bar of them counts.';

comment on column derivation_marks.marked_at is 'When it was made: a live minute leaves a long replay to whoever asked for it, for a while.';
