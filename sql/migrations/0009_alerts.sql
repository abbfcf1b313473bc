-- Alerts: what is or was wrong, and the messages about it that have to go out.

create table alerts (
    id           bigint generated always as identity primary key,
    kind         text not null,
    scope        text not null,
    severity     text not null check (severity in ('warning', 'critical')),
    summary      text not null,
    since_ts     timestamptz not null,
    opened_at    timestamptz not null,
    last_seen_at timestamptz not null,
    noticed_at   timestamptz,
    resolved_at  timestamptz check (resolved_at >= opened_at),
    acked_at     timestamptz,
    ack_note     text,
    check (last_seen_at >= opened_at)
);
create unique index alerts_open on alerts (kind, scope) where resolved_at is null;
create index alerts_opened on alerts (opened_at desc);
comment on table alerts is 'Everything that was found wrong: one open row per kind and scope at a time.';
comment on column alerts.id is 'Number of the alert.';
comment on column alerts.kind is 'What kind of fault; docs/runbook.md has a section for each.';
comment on column alerts.scope is 'What is concerned: a timeframe, job, venue, channel.';
comment on column alerts.severity is 'warning can wait for the day, critical cannot; the highest since it opened.';
comment on column alerts.summary is 'What is wrong, with numbers, as last seen.';
comment on column alerts.since_ts is 'Since when it is wrong, by the data.';
comment on column alerts.opened_at is 'When we first noticed.';
comment on column alerts.last_seen_at is 'When it was last seen to hold.';
comment on column alerts.noticed_at is 'When a message about it was last posted; NULL when its kind is silent.';
comment on column alerts.resolved_at is 'When it had not been seen for a while; NULL while open.';
comment on column alerts.acked_at is 'When a person said they know; it is not repeated from then on.';
comment on column alerts.ack_note is 'What the person said.';

create table alert_notices (
    id         bigint generated always as identity primary key,
    alert_id   bigint not null references alerts on delete cascade,
    channel    text not null,
    event      text not null check (event in ('opened', 'escalated', 'repeated', 'resolved')),
    title      text not null,
    body       text not null,
    posted_at  timestamptz not null,
    sent_at    timestamptz,
    attempts   integer not null default 0 check (attempts >= 0),
    last_error text
);
create index alert_notices_unsent on alert_notices (channel, id) where sent_at is null;
create index alert_notices_of_alert on alert_notices (alert_id);
comment on table alert_notices is 'Messages about alerts, one per channel: written with the alert, sent afterwards, at least once.';
comment on column alert_notices.id is 'Number of the message; they are sent in this order.';
comment on column alert_notices.alert_id is 'What it is about.';
comment on column alert_notices.channel is 'Where it goes: file, or the service and the place of its address in the setting; never the address.';
comment on column alert_notices.event is 'What happened to the alert: opened, escalated (became critical), repeated or resolved.';
comment on column alert_notices.title is 'First line.';
comment on column alert_notices.body is 'The rest.';
comment on column alert_notices.posted_at is 'When it was written here.';
comment on column alert_notices.sent_at is 'When the channel took it; NULL while it has not.';
comment on column alert_notices.attempts is 'How often it was tried.';
comment on column alert_notices.last_error is 'Why the last attempt failed, without addresses.';
