"""Side-by-side runs against peers: each module prints a table and writes JSON to ``build/benchmarks``."""
