"""What a person finds of a chain: its page beside the lake, and a table in the Prefect UI."""

from __future__ import annotations

import asyncio

from pipelines.artifacts import show_table
from pipelines.iterating.chain import Chain
from pipelines.report.layout import write_page
from pipelines.report.rounds import build_rounds, round_rows


async def tell(chain: Chain) -> None:
    """Write the page and the table."""
    outcome = chain.outcome()
    await asyncio.to_thread(lambda: write_page(build_rounds(outcome), chain.page))
    await show_table("rounds", chain.config.name, round_rows(outcome), chain.stopped or f"{len(chain.done)} rounds; report: {chain.page}")
