"""What a page needs of the embeddings of tracks: a map, neighbours, matrices.

Similarity is the cosine between embeddings of which each dimension has zero
mean and unit deviation over the folder: raw hidden states share a large
common part, and would all be alike.
"""

import numpy as np

# An image of 128 x 128 is as fine as the page draws it.
MAX_CELLS = 128
# Of the vectors that a matrix is computed from in the page. On 35 pieces its
# entries differ from the exact ones by .003 (a trained encoder) to .024 (mfcc).
COMPACT_DIM = 16
NEIGHBOURS = 10
# Below it there is nothing for t-SNE to arrange.
FEWEST_FOR_TSNE = 10


def dimension_statistics(tracks):
    """Mean and deviation of each dimension over all cells of all tracks.

    Parameters
    ----------
    tracks : iterable of np.ndarray
        [cell, dim] of each track.

    Returns
    -------
    mean, std : np.ndarray
        float64 [dim]; a constant dimension has deviation 1.
    """
    count, total, squares = 0, 0.0, 0.0
    for cells in tracks:
        cells = cells.astype(np.float64)
        count += len(cells)
        total = total + cells.sum(0)
        squares = squares + np.square(cells).sum(0)
    mean = total / count
    variance = squares / count - mean**2
    # What is left of a constant after the subtraction is rounding.
    constant = variance <= 1e-10 * np.maximum(mean**2, 1e-20)
    return mean, np.sqrt(np.where(constant, 1.0, variance))


def unit(vectors):
    """Vectors of length 1; zeros stay zero.

    Example
    -------
    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)


def nearest(vectors, k=NEIGHBOURS):
    """The most similar other tracks of each, best first.

    Parameters
    ----------
    vectors : np.ndarray
        [track, dim], of length 1.
    k : int
        How many; fewer where there are fewer tracks.

    Returns
    -------
    indices : np.ndarray
        int64 [track, k].
    similarities : np.ndarray
        float [track, k].

    Example
    -------
    >>> vectors = unit(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]]))
    >>> indices, similarities = nearest(vectors, k=1)
    >>> indices.tolist(), similarities.round(2).tolist()
    ([[2], [2], [0]], [[0.89], [0.45], [0.89]])
    """
    n = len(vectors)
    k = min(k, n - 1)
    indices = np.empty((n, k), np.int64)
    values = np.empty((n, k))
    for start in range(0, n, 1024):
        rows = np.arange(start, min(start + 1024, n))
        similarity = vectors[rows] @ vectors.T
        similarity[rows - start, rows] = -np.inf
        # Ties go by number, the same on every machine.
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        indices[rows] = order
        values[rows] = np.take_along_axis(similarity, order, 1)
    return indices, values


def layout(vectors):
    """Where the tracks lie on the map: t-SNE, or for a few tracks PCA.

    Seeded and started from the principal components, so that the same folder
    gives the same map.

    Parameters
    ----------
    vectors : np.ndarray
        [track, dim], of length 1.

    Returns
    -------
    np.ndarray
        float [track, 2] between 0 and 1.

    Example
    -------
    >>> layout(np.eye(2)).tolist()
    [[1.0, 0.5], [0.0, 0.5]]
    """
    # Imported here: a second, which --help should not take.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, dim = vectors.shape
    if np.ptp(vectors, axis=0).max() < 1e-6:
        # All the same: a circle, so that each can be clicked.
        angles = 2 * np.pi * np.arange(n) / n
        return 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], 1)
    # Distances of t-SNE hardly change beyond 50 components, its time does.
    pca = PCA(min(50, n, dim), svd_solver="full")
    points = pca.fit_transform(vectors)
    if n >= FEWEST_FOR_TSNE and points.shape[1] > 1:
        points = TSNE(
            perplexity=min(30, (n - 1) / 3),
            init="pca",
            random_state=0,
            n_jobs=1,
        ).fit_transform(points)
    points = np.pad(points, ((0, 0), (0, 2)))[:, :2]
    low, extent = points.min(0), np.ptp(points, axis=0)
    # Rounding is no direction: two points differ along one axis.
    flat = extent < 1e-6 * extent.max()
    return np.where(flat, 0.5, (points - low) / np.where(flat, 1.0, extent))


def compact(cells, max_cells=MAX_CELLS, dim=COMPACT_DIM):
    """Small vectors whose products are the self-similarity of a track.

    Cells are averaged in groups until there are few, and turned into the
    ``dim`` directions that keep their products best.

    Parameters
    ----------
    cells : np.ndarray
        Standardised [cell, dim].
    max_cells, dim : int
        Size of the result.

    Returns
    -------
    vectors : np.ndarray
        int8 [n, dim], 127 for 1.
    group : int
        Cells that each stands for; the last may stand for fewer.
    """
    group = -(-len(cells) // max_cells)
    starts = np.arange(0, len(cells), group)
    sums = np.add.reduceat(cells, starts, axis=0)
    vectors = unit(sums)
    left, singular, _ = np.linalg.svd(vectors, full_matrices=False)
    vectors = (left * singular)[:, :dim]
    vectors = np.pad(vectors, ((0, 0), (0, dim - vectors.shape[1])))
    return np.rint(127 * vectors).astype(np.int8), group
