"""The sources of the asset graph: the exchange's archives and its REST API, which no run materialises."""

import dagster as dg

from kraken_pipeline.orchestration.labels import OWNERS

# A group of its own for each: one for both would stretch over everything between them in the graph.
ARCHIVES = dg.AssetSpec(
    dg.AssetKey(["sources", "archives"]),
    group_name="source_archives",
    owners=OWNERS,
    kinds={"csv"},
    description=(
        "Archives of the exchange as downloaded: ZIPs, folders and CSV files of candles, and of trades. The drop "
        "folder and the folders of KRAKEN_ARCHIVE_DIRS are searched for them; they are only read."
    ),
)
REST_API = dg.AssetSpec(
    dg.AssetKey(["sources", "rest_api"]),
    group_name="source_rest_api",
    owners=OWNERS,
    kinds={"api"},
    description=(
        "The exchange's public REST API at KRAKEN_API_URL: `OHLC` answers for the last 720 candles of an interval, "
        "`Trades` for any time, and `AssetPairs` lists the pairs. It needs no key."
    ),
)
SOURCES = (ARCHIVES, REST_API)
