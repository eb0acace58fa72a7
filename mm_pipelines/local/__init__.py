"""What runs on this machine: the embedded PostgreSQL, the process group, and where state lies."""
