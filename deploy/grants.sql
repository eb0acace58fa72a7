-- What each process may do in the database. Run it as a superuser or the database's owner, before
-- the first `mm db upgrade` and after every later one; it may run any number of times.
--
--   create role mm_migrator login;   -- `mm db upgrade`; owns the schema mm
--   create role mm_runner login;     -- Dagster: code location, runs, daemon, webserver
--   create role mm_receiver login;   -- `mm webhooks`
--   create role mm_sender login;     -- your program that sends messages

-- Without these two lines, mm_migrator needs CREATE on the database.
create schema if not exists mm authorization mm_migrator;
create schema if not exists dagster authorization mm_runner;

-- Runs stage lists in temporary tables.
do $$ begin
    execute format('grant temporary on database %I to mm_runner', current_database());
end $$;
grant usage on schema mm to mm_runner, mm_receiver, mm_sender;

grant select, insert, update, delete on all tables in schema mm to mm_runner;
grant usage, select on all sequences in schema mm to mm_runner;
alter default privileges for role mm_migrator in schema mm
    grant select, insert, update, delete on tables to mm_runner;
alter default privileges for role mm_migrator in schema mm
    grant usage, select on sequences to mm_runner;

-- Opt-outs take effect by a trigger with the rights of the table's owner.
do $$ begin
    if to_regclass('mm.webhook_event') is not null then
        grant insert, select (dedupe_key) on mm.webhook_event to mm_receiver;
        grant select on mm.health to mm_receiver;
        grant select on mm.sendable_token to mm_sender;
    end if;
end $$;
