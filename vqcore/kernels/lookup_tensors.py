"""What product codes need beside the ten kernels, for torch tensors on any device: look-ups in small tables."""

import torch

from vqcore.kernels.tensors import BLOCK_BYTES, assign, from_host


def empty_codes(n, n_subspaces, n_codewords, like):
    """Codes (n, n_subspaces) to be filled: uint8 up to 256 codewords, then int32, as torch computes with no uint16."""
    return torch.empty((n, n_subspaces), dtype=torch.uint8 if n_codewords <= 256 else torch.int32, device=like.device)


def encode(points, codebooks, codes):
    """Fill codes (n, n_subspaces) with the nearest codeword of every part of the points (n, dim)."""
    for m, part in enumerate(points.reshape(len(points), *codebooks.shape[::2]).unbind(1)):
        codes[:, m] = assign(part.contiguous(), codebooks[m])[0]


def decode(codes, codebooks, dtype):
    """The codewords (n, n_subspaces * width) that codes stand for, beside each other."""
    books = from_host(codebooks.astype(dtype), codes)
    return torch.cat([book.index_select(0, part) for book, part in zip(books.unbind(0), codes.long().unbind(1))], 1)


def distance_tables(queries, codebooks, inner):
    """Squared distance, or inner product, of every part of a query with every codeword, in float64."""
    n_subspaces, n_codewords, width = codebooks.shape
    books = from_host(codebooks, queries)
    tables = torch.zeros((len(queries), n_subspaces, n_codewords), dtype=torch.float64, device=queries.device)
    parts = queries.double().reshape(len(queries), n_subspaces, width)
    for x, column in zip(parts.unbind(2), books.unbind(2)):
        x = x.unsqueeze(2)
        tables += x * column if inner else (x - column).square()
    return tables


def nearest(tables, codes, n_neighbors):
    """Smallest sums (n_queries, n_neighbors) of table entries, ascending, and the ids of their codes."""
    kept_sums = torch.empty((len(tables), 0), dtype=torch.float64, device=tables.device)
    kept_ids = torch.empty((len(tables), 0), dtype=torch.int64, device=tables.device)
    size = max(n_neighbors, BLOCK_BYTES // (16 * len(tables)))
    for start in range(0, len(codes), size):
        block = codes[start : start + size].long()
        sums = tables[:, 0, block[:, 0]]
        for m in range(1, block.shape[1]):
            sums += tables[:, m, block[:, m]]
        ids = torch.arange(start, start + len(block), device=tables.device).expand(len(tables), -1)
        kept_sums, kept_ids = torch.cat([kept_sums, sums], 1), torch.cat([kept_ids, ids], 1)
        kept_sums, kept_ids = _lowest(kept_sums, kept_ids, min(n_neighbors, kept_sums.shape[1]))
    return kept_sums, kept_ids


def _lowest(sums, ids, n_neighbors):
    """The n_neighbors smallest sums of every row, ascending, equal ones in the order of their (ascending) ids."""
    last = torch.topk(sums, n_neighbors, dim=1, largest=False).values[:, -1:]
    # topk leaves open which of equal sums it takes; so all that tie with the last one compete once more.
    row, column = torch.nonzero(sums <= last, as_tuple=True)
    order = torch.sort(sums[row, column], stable=True).indices
    order = order[torch.sort(row[order], stable=True).indices]
    row, column = row[order], column[order]
    counts = torch.bincount(row, minlength=len(sums))
    starts = torch.cumsum(counts, 0) - counts
    chosen = column[starts[:, None] + torch.arange(n_neighbors, device=sums.device)]
    return sums.gather(1, chosen), ids.gather(1, chosen)
