"""PostgreSQL: the embedded server, connections, migrations, bulk columns and the stores built on them."""
