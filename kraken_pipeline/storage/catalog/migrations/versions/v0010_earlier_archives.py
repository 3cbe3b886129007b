"""Archives that earlier versions believed too much of: names that promise nothing, and rows without a trade."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# What promises something, as it was when this was written; any other name was taken for a release by mistake.
_QUARTER = r"(?:Q[1-4]_20\d\d|20\d\d_?Q[1-4])"
_WHOLE = re.compile(
    rf"(?:Kraken_OHLCVT|Kraken_Trading_History|TimeAndSales_Combined)(?:_Full)?(?:_{_QUARTER})?"
    r"(?:[ _-]*\(\d{1,3}\)|[ _-]+copy(?:[ _-]?\d{1,3})?|\.\d{1,3})*\.zip",
    re.IGNORECASE | re.ASCII,
)


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "earlier_archives",
        sa.Column("pair", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("pair", name=op.f("pk_earlier_archives")),
    )
    connection = op.get_bind()
    # What was granted because of them is taken back by the next run, which knows what the lake holds.
    connection.execute(
        sa.text(
            "INSERT INTO earlier_archives (pair) SELECT DISTINCT pair FROM files "
            "WHERE pair IS NOT NULL AND kind = 'OHLCVT' AND status = 'COMPLETED'"
        )
    )
    releases = connection.execute(sa.text("SELECT sha256, name FROM containers WHERE start IS NOT NULL")).all()
    for sha256, name in releases:
        if _WHOLE.fullmatch(name) is None:
            connection.execute(
                sa.text(
                    "UPDATE containers SET kind = '', start = NULL, \"end\" = NULL, quarter = NULL WHERE sha256 = :sum"
                ),
                {"sum": sha256},
            )


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("earlier_archives")
