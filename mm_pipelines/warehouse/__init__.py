"""PostgreSQL: connections, migrations, and the statements, one module per subject."""
