"""The catalog as a database: tables, migrations, checksums of rows, copies, dumps. What rows mean is in `records`."""
