-- Run once by the image of PostgreSQL, as its superuser, when the volume is empty. Two databases, each with a role of
-- its own that owns it and may connect to no other: neither the catalog nor Dagster can touch the other's tables.
-- The passwords come from the environment, so they stand in no file and on no command line.
\set ON_ERROR_STOP on
\getenv catalog_password CATALOG_PASSWORD
\getenv dagster_password DAGSTER_PASSWORD

CREATE ROLE kraken_catalog LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'catalog_password';
CREATE ROLE kraken_dagster LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'dagster_password';

CREATE DATABASE kraken_catalog OWNER kraken_catalog;
CREATE DATABASE kraken_dagster OWNER kraken_dagster;

REVOKE ALL ON DATABASE kraken_catalog FROM PUBLIC;
REVOKE ALL ON DATABASE kraken_dagster FROM PUBLIC;
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON DATABASE template1 FROM PUBLIC;
