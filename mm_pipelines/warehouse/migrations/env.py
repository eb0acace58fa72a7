"""Alembic's entry: it runs on the connection that :func:`warehouse.migrate.upgrade` hands over."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table_schema="mm", transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
