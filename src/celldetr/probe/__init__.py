"""How good frozen cell embeddings are at true boxes, beside what a user would pick instead: ``celldetr probe``."""
