-- Least privilege, by group role: a login is granted one of these and nothing else. Safe to run again after every migration.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['regime_owner', 'regime_writer', 'regime_reader', 'regime_commentator'] loop
        begin
            execute format('create role %I nologin', wanted);
        exception when duplicate_object or unique_violation then
            null; -- another database of this server was first
        end;
    end loop;
end
$$;

comment on role regime_owner is 'Regime: owns the schema and migrates it.';
comment on role regime_writer is 'Regime: the pipeline; reads and writes rows, changes no table.';
comment on role regime_reader is 'Regime: the board and people; reads every table.';
comment on role regime_commentator is 'Regime: an AI that comments; reads snapshots only, and gets nothing by default.';

revoke create on schema public from public;
grant usage, create on schema public to regime_owner;
grant usage on schema public to regime_writer, regime_reader, regime_commentator;
grant all on all tables in schema public to regime_owner;
grant all on all sequences in schema public to regime_owner;
grant select, insert, update, delete on all tables in schema public to regime_writer;
grant usage on all sequences in schema public to regime_writer;
revoke insert, update, delete on schema_migrations from regime_writer;
grant execute on function ensure_opinion_months, drop_opinion_months to regime_owner, regime_writer;
grant select on all tables in schema public to regime_reader;
