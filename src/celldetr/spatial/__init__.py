"""Types of cells from gene expression: a spatial transcriptomics section and its H&E image in, a training set out.

One module or package a step: ``readers`` (1), ``qc`` (2), ``annotate`` (3), ``nuclei`` (4), ``align`` and ``pair`` (5),
``write`` (6); ``pipeline`` runs them. ``section`` and ``files`` define what they hand on.
"""
