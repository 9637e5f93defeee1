"""Types of cells from gene expression (step 3), see ``annotate.cells``."""
