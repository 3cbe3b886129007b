"""The catalog as a database: tables, migrations, row checksums, copies and dumps; `records` defines the rows."""
