"""The order of a corpus: sources by their weights, and the languages of a source in balance."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from hubquant.calibration.corpus.collecting import Stream
from hubquant.calibration.corpus.spool import Record, Spool


def mixed(
    streams: Sequence[Stream], spools: Sequence[Spool], *, balance: bool, most: int | None = None
) -> Iterator[tuple[int, Record]]:
    """Documents by the number of their stream: next is that of the stream with the least so far for its share.

    Every beginning of the whole so holds the streams in their shares, to within a document. With ``balance`` a source
    of several languages ends with the first of these; then they differ by no more than their longest document. What
    would make the whole larger than ``most`` ends it.
    """
    iterators = [spool.records() for spool in spools]
    order: list[tuple[float, int, int]] = [(0.0, number, 0) for number in range(len(streams))]
    ended: set[int] = set()
    total = 0
    while order:
        _, number, taken = heapq.heappop(order)
        stream = streams[number]
        if stream.group in ended:
            continue
        record = next(iterators[number], None)
        if record is None:
            if balance and stream.n_langs > 1:
                ended.add(stream.group)
            continue
        if most is not None and total + record.size > most:
            return
        total += record.size
        taken += record.size
        heapq.heappush(order, (taken / stream.share, number, taken))
        yield number, record
