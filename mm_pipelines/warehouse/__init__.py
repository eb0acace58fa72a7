"""PostgreSQL: connections, advisory locks, migrations, and server errors without values."""
