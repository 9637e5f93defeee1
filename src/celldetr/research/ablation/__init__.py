"""Studies: which part of the method does what, as recipes that differ in one thing, over seeds, with intervals."""
