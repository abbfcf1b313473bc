-- What must be remembered of venues across processes and restarts: who refuses us, and how many calls a vendor has had this month.

create table venue_halts (
    venue text primary key,
    reason text not null,
    since timestamptz not null,
    until timestamptz,
    check (until is null or until > since)
);
comment on table venue_halts is 'Venues that told us to stay away; one row each, the newest halt. An ended one stays until the next.';
comment on column venue_halts.venue is 'Name in the universe file.';
comment on column venue_halts.reason is 'What the venue answered.';
comment on column venue_halts.since is 'When it said so.';
comment on column venue_halts.until is 'When we may ask again; NULL until a person resumes it.';

create table vendor_calls (
    vendor text not null,
    month date not null check (extract(day from month) = 1),
    calls integer not null check (calls >= 0),
    last_call_at timestamptz not null,
    primary key (vendor, month)
);
comment on table vendor_calls is 'Calls made to a vendor with a monthly budget, counted before they are made.';
comment on column vendor_calls.vendor is 'Name of the vendor.';
comment on column vendor_calls.month is 'First day of the calendar month, UTC.';
comment on column vendor_calls.calls is 'Calls made in it.';
comment on column vendor_calls.last_call_at is 'When the newest of them was made.';
