"""Types of cells from gene expression: a spatial transcriptomics section and its H&E image in, a training set out.

One file or package a step (method section 5): ``readers`` (1), ``quality`` (2), ``annotate`` (3), ``nuclei`` (4),
``align`` and ``pair`` (5), ``write`` (6); ``label`` runs them all. ``section`` and ``steps`` define what they hand on.
"""
