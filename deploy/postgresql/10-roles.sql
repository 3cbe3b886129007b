-- Run once by the image of PostgreSQL, as its superuser, when the volume is empty. Two databases, each with a role of
-- its own that owns it and may connect to no other: neither the catalog nor Dagster can touch the other's tables.
-- The passwords come from the environment, so they stand in no file and on no command line.
\set ON_ERROR_STOP on
\getenv catalog_password CATALOG_PASSWORD
\getenv dagster_password DAGSTER_PASSWORD

-- The limits keep one of them from using up the server's connections (max_connections=300 in compose.yaml), which the
-- other, people and backups need as well. Catalog: six processes (the four runs that dagster.yaml lets be at work, the
-- code location, the metrics) with a pool of 30 (KRAKEN_CATALOG_POOL and KRAKEN_CATALOG_OVERFLOW), and twelve for the
-- locks of each run: 228. Dagster opens a connection for a query and closes it: it needs one for each thread at work.
CREATE ROLE kraken_catalog LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT 228
    PASSWORD :'catalog_password';
CREATE ROLE kraken_dagster LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT 52
    PASSWORD :'dagster_password';

CREATE DATABASE kraken_catalog OWNER kraken_catalog;
CREATE DATABASE kraken_dagster OWNER kraken_dagster;

REVOKE ALL ON DATABASE kraken_catalog FROM PUBLIC;
REVOKE ALL ON DATABASE kraken_dagster FROM PUBLIC;
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON DATABASE template1 FROM PUBLIC;
